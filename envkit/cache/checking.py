"""Owns comparing what the cache has of a layer with the digests that it is known by."""

import contextlib
import enum
import hashlib
import os

from envkit.cache import mapfile
from envkit.cache.complete import IMAGE, MAP, complete_image
from envkit.cache.errors import CacheLost
from envkit.cache.layer import CachedLayer
from envkit.cache.locks import WRITER
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
    if complete_image(directory) is None:
        if IMAGE in names:
            return Health.DAMAGED
        if is_locked(f"{directory}/{WRITER}"):
            return Health.SERVED
    try:
        with contextlib.closing(CachedLayer.inspect(directory)) as layer:
            health = _compare(layer)
        # Only now as the one who writes it: the image server must not have to wait for all that reading.
        if health is Health.MENDED:
            with contextlib.closing(CachedLayer.open(directory)) as layer:
                layer.verify()
                layer.flush()
    except CacheLost:
        return Health.DAMAGED
    return health


def _compare(layer: CachedLayer) -> Health:
    if not layer.complete:  # its metadata was compared when it was opened
        return Health.MENDED if layer.verify() else Health.WHOLE
    try:
        stored = mapfile.load(layer.directory)
    except CacheLost:
        return Health.UNKNOWN
    if stored.map.uuid != layer.map.uuid:
        return Health.UNKNOWN
    metadata = layer.read(0, stored.map.metadata)
    if hashlib.sha256(metadata).digest() != stored.metadata_digest or layer.verify():
        return Health.DAMAGED
    return Health.WHOLE


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
