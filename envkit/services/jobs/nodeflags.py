"""Owns the global options by which envkit on another node finds the store that this process has.

Whatever said so here, a profile or a variable: a node may have other settings files, or none.
"""

import os

from envkit.config.model import Config
from envkit.store.settings import is_bucket

_OF_BUCKETS = ("endpoint", "region", "aws_profile")


def store_flags(config: Config) -> list[str]:
    """Return the options; none where the store is the node's own."""
    if not config.store:
        return []
    if not is_bucket(config.store):
        return ["--store", config.store if "://" in config.store else os.path.abspath(config.store)]
    found = ((name, getattr(config, name)) for name in _OF_BUCKETS)
    return ["--store", config.store, *(f"--{name.replace('_', '-')}={value}" for name, value in found if value)]
