"""Owns the locks of a layer's place in the cache: `lock` of who makes or removes it, `writer` of who fills it."""

import contextlib
import os
import time
from collections.abc import Iterator

from envkit.cache.errors import CacheBusy, CacheLost
from envkit.drivers.files import io_error, make_directory, try_lock

LOCK = "lock"
WRITER = "writer"

_WAIT = 5.0
_PAUSE = 0.02


@contextlib.contextmanager
def layer_lock(directory: str) -> Iterator[None]:
    """Hold the lock of who makes a layer's files, as long as that takes others; the directory is made if need be.

    A directory that was evicted meanwhile is made again: its lock would lock nothing.
    """
    while True:
        make_directory(directory)
        descriptor = try_layer_lock(directory)
        if descriptor is not None:
            break
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        os.close(descriptor)


def try_layer_lock(directory: str) -> int | None:
    """Take the lock of who makes a layer's files; return its descriptor, or None if another has it or all is gone."""
    path = f"{directory}/{LOCK}"
    try:
        descriptor = try_lock(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise io_error(f"lock {path}", error) from error
    if descriptor is not None and not _is_at(descriptor, path):
        os.close(descriptor)
        return None
    return descriptor


def writer_lock(directory: str) -> int:
    """Take the lock of who fills a layer, waiting some seconds for it; return the descriptor that holds it.

    :raises CacheLost: the directory is not there.
    :raises CacheBusy: another process has it.
    """
    until = time.monotonic() + _WAIT
    while True:
        try:
            descriptor = try_lock(f"{directory}/{WRITER}")
        except OSError as error:
            raise CacheLost(directory, f"its directory cannot be used: {error.strerror}") from error
        if descriptor is not None:
            return descriptor
        if time.monotonic() >= until:
            raise CacheBusy(directory)
        time.sleep(_PAUSE)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    own = os.fstat(descriptor)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
