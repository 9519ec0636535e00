"""Owns comparing what the cache has of a layer with the digests that it is known by."""

import enum
import hashlib
import os

from envkit.cache import mapfile
from envkit.cache.complete import IMAGE, complete_image
from envkit.cache.errors import CacheLost
from envkit.cache.layer import CachedLayer
from envkit.cache.locks import WRITER
from envkit.cache.mapfile import MAP
from envkit.drivers.files import is_locked


class Health(enum.Enum):
    """How a cached layer is."""

    WHOLE = "whole"
    MENDED = "mended"
    """Some chunks were damaged; they count as missing now, and are fetched again when they are needed."""
    DAMAGED = "damaged"
    """It cannot be used."""
    SERVED = "served"
    """The image server has it open, which compares what it reads from the disk."""
    UNKNOWN = "unknown"
    """There is nothing to compare it with: an earlier version of envkit made it."""
    EMPTY = "empty"
    """There is nothing of it."""


def check_layer(directory: str) -> Health:
    """Read all that the cache has of a layer, and compare it.

    :raises CacheBusy: somebody has just begun to write it.
    :raises DiskFull: there is no room to note which chunks are damaged.
    """
    names = set(_names(directory))
    if not names & {IMAGE, MAP}:
        return Health.EMPTY
    complete = complete_image(directory) is not None
    if not complete and IMAGE not in names and is_locked(f"{directory}/{WRITER}"):
        return Health.SERVED
    if not complete and IMAGE in names:
        return Health.DAMAGED
    try:
        layer = CachedLayer.open(directory)
    except CacheLost:
        return Health.DAMAGED
    try:
        return _compare(layer, directory)
    except CacheLost:
        return Health.DAMAGED
    finally:
        layer.close()


def _compare(layer: CachedLayer, directory: str) -> Health:
    if layer.complete:
        try:
            stored = mapfile.load(directory)
        except CacheLost:
            return Health.UNKNOWN
        if stored.map.uuid != layer.map.uuid:
            return Health.UNKNOWN
        # `open` has compared the metadata of one that is not complete.
        if hashlib.sha256(layer.read(0, stored.map.metadata)).digest() != stored.metadata_digest or layer.verify():
            return Health.DAMAGED
        return Health.WHOLE
    if layer.verify():
        layer.flush()
        return Health.MENDED
    return Health.WHOLE


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
