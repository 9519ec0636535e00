import os

import pytest

from envkit.cache import quota
from envkit.errors import InvalidInput


class Disk:
    """A file system of 1000 blocks of 1000 bytes."""

    f_blocks = 1000
    f_frsize = 1000

    def __init__(self, free):
        self.f_bavail = free


@pytest.mark.parametrize(
    ("text", "free", "cached", "limit"),
    [
        ("50%", 900, 0, 500_000),
        ("100K", 900, 0, 102_400),
        ("100%", 900, 50_000, 900_000),  # the last 5 % stay free
        ("50%", 100, 200_000, 250_000),
        ("50%", 20, 200_000, 170_000),  # less than that is free already
        ("50%", 0, 10_000, 0),
    ],
)
def test_the_limit_is_the_quota_or_what_the_disk_can_spare(monkeypatch, text, free, cached, limit):
    monkeypatch.setattr(quota.os, "statvfs", lambda path: Disk(free))
    assert quota.limit(text, "/x", cached) == limit


def test_a_quota_is_of_the_file_system_that_the_cache_is_on(tmp_path):
    found = os.statvfs(tmp_path)
    assert quota.limit("0.001%", str(tmp_path), 1 << 50) == int(0.00001 * found.f_blocks * found.f_frsize)


@pytest.mark.parametrize("text", ["", "%", "101%", "0%", "x", "-5G", "5X"])
def test_what_is_no_quota_is_refused(tmp_path, text):
    with pytest.raises(InvalidInput):
        quota.limit(text, str(tmp_path), 0)
