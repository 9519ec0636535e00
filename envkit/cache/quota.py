"""Owns how large the cache of a node may grow: a size, or a share of its file system; never the last of its space."""

import os

from envkit.drivers.files import io_error
from envkit.model.amounts import parse_share
from envkit.model.job import parse_size

RESERVE = 0.05
"""The share of the file system that stays free, whatever the quota says."""


def limit(text: str, path: str, cached: int) -> int:
    """Return how many bytes the cache may have by a quota such as `20G` or `50%`.

    :param path: a directory on its file system.
    :param cached: how many bytes it has now.
    :raises InvalidInput: the text is no quota.
    """
    try:
        found = os.statvfs(path)
    except OSError as error:
        raise io_error(f"look at the file system of {path}", error) from error
    size = found.f_blocks * found.f_frsize
    quota = int(parse_share(text) * size) if text.endswith("%") else parse_size(text)
    spare = found.f_bavail * found.f_frsize - int(RESERVE * size)
    return max(0, min(quota, cached + spare))
