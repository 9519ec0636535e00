"""Owns reading a scanned file's contents: the extents that hold data, in bounded blocks, and proof that it did not
change since the scan. What becomes of the bytes is left to `content`.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from envkit.errors import EnvkitError
from envkit.model.tree import display_path
from envkit.overlay.errors import ChangedMeanwhile
from envkit.overlay.walk import open_file, read_error

BLOCK = 4 * 1024 * 1024


class Identity(NamedTuple):
    """What a file was when it was scanned; ctime cannot be set back by those who write to the file."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def identity(status: os.stat_result) -> Identity:
    """Return the identity of a file."""
    return Identity(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def find_identity(root: int, path: bytes) -> Identity | None:
    """Return the identity of the file at a path below an open directory; None where no file can be opened."""
    try:
        fd = open_file(root, path)
    except EnvkitError:
        return None
    try:
        status = os.fstat(fd)
        return identity(status) if stat.S_ISREG(status.st_mode) else None
    finally:
        os.close(fd)


def read_extents(root: int, path: bytes, expected: Identity, begin: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (start, bytes) of a file's data, in order, at most `BLOCK` bytes each; what is between them is holes.

    :param root: descriptor of the scanned directory.
    :param path: from there.
    :param begin: the byte to begin at.
    :raises ChangedMeanwhile: the file is not what was scanned, or was written to while it was read.
    :raises MountInside: something was mounted over it.
    :raises ScanFailed: the file system gave an error.
    """
    fd = open_file(root, path)
    try:
        _compare(fd, path, expected)
        for start, end in _spans(fd, begin, expected.size):
            position = start
            while position < end:
                data = os.pread(fd, min(BLOCK, end - position), position)
                if not data:
                    raise ChangedMeanwhile(display_path(path))
                yield position, data
                position += len(data)
        _compare(fd, path, expected)
    except OSError as error:
        raise read_error(path, error) from error
    finally:
        os.close(fd)


@contextlib.contextmanager
def open_extents(root: int, path: bytes, expected: Identity) -> Iterator[tuple[int, Iterator[tuple[int, int]]]]:
    """Open a file for who reads it otherwise: a descriptor, and where it has data, as (start, end) in bytes, in order.

    Parameters and errors are those of `read_extents`.
    """
    fd = open_file(root, path)
    try:
        _compare(fd, path, expected)
        yield fd, _spans(fd, 0, expected.size)
        _compare(fd, path, expected)
    except OSError as error:
        raise read_error(path, error) from error
    finally:
        os.close(fd)


def _compare(fd: int, path: bytes, expected: Identity) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or identity(status) != expected:
        raise ChangedMeanwhile(display_path(path))


def _spans(fd: int, position: int, size: int) -> Iterator[tuple[int, int]]:
    while position < size:
        try:
            position = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = min(os.lseek(fd, position, os.SEEK_HOLE), size)
        if position < end:
            yield position, end
        position = end
