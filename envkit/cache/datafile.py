"""Owns the data file of a cached layer: reading and writing it so that a truncation never shows as zeros.

A file that somebody cut reads as zeros wherever it grows again. So it may only have the sizes that it is known to
have, looked at after every read and before every write. A partial file has a guard block behind the image: no write
comes as far, so that writing to a file that was cut never gives it its size back.
"""

import errno
import os
import stat
from collections.abc import Iterable

from envkit.cache.errors import CacheLost
from envkit.drivers.files import DiskFull, io_error

GUARD = 4096

# O_NONBLOCK: opening a planted FIFO must not hang.
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_regular(path: str, *, writable: bool = False) -> int:
    """Open a regular file.

    :raises OSError: it is not there or is something else.
    """
    descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | _SAFE)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return descriptor


def read_small(path: str, limit: int) -> bytes | None:
    """Return a file's bytes, None if it cannot be read or has more than `limit`."""
    try:
        descriptor = open_regular(path)
    except OSError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        data = b"" if size > limit else os.read(descriptor, size)
        return data if len(data) == size else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def sync_file(path: str) -> None:
    """Make a file durable that was written without; no error if it is not there.

    :raises KernelRefused: it cannot be done.
    """
    try:
        descriptor = open_regular(path)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return
    except OSError as error:
        raise io_error(f"make {path} durable", error) from error


class DataFile:
    """An open data file. Safe in several threads, except for `close`. Once lost, always lost."""

    def __init__(self, directory: str, name: str, sizes: tuple[int, ...], *, writable: bool) -> None:
        """Open it; `sizes` are those that it may have now.

        :raises CacheLost: it is not there or has another size.
        """
        self._directory = directory
        self.path = f"{directory}/{name}"
        self.sizes = sizes
        self._lost: CacheLost | None = None
        try:
            self._descriptor = open_regular(self.path, writable=writable)
        except OSError as error:
            raise CacheLost(directory, f"{name} cannot be opened: {error.strerror}") from error
        try:
            self.check()
        except CacheLost:
            self.close()
            raise

    def check(self) -> None:
        """Make sure that nobody has cut the file.

        :raises CacheLost: somebody has, or it was lost before.
        """
        if self._lost is not None:
            raise self._lost
        # Twice: another thread may cut the guard off between looking at the file and at what it may have.
        if os.fstat(self._descriptor).st_size in self.sizes or os.fstat(self._descriptor).st_size in self.sizes:
            return
        raise self._lose(f"its file no longer has {self.sizes[0]} bytes")

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`.

        :raises CacheLost: they cannot be read, or may not be what was written.
        """
        if self._lost is not None:
            raise self._lost
        pieces = []
        while length:
            try:
                piece = os.pread(self._descriptor, length, offset)
            except OSError as error:
                raise self._lose(f"its file cannot be read: {error.strerror}") from error
            if not piece:
                raise self._lose("its file was cut")
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        self.check()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: "bytes | memoryview") -> None:
        """Write all of `data` at `offset`. Call `check` before.

        :raises DiskFull: there is no room; some of it may be written.
        :raises CacheLost: the file cannot be written.
        """
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DiskFull(self.path) from error
                raise self._lose(f"its file cannot be written: {error.strerror}") from error
            view = view[written:]
            offset += written

    def sync(self, read: Iterable[tuple[int, int]] | None = None) -> None:
        """Make what was written durable, then give its memory back: the kernel caches the mounted image already.

        :param read: the ranges, (offset, length), whose memory is given back; None: all of it.
        :raises CacheLost: it could not; after that nobody knows what the file has.
        """
        try:
            os.fdatasync(self._descriptor)
            for offset, length in ((0, 0),) if read is None else read:
                os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._lose(f"its file cannot be made durable: {error.strerror}") from error

    def resize(self, size: int) -> None:
        """Add the guard to the file, or cut it off; readers accept both sizes meanwhile.

        :raises CacheLost: it cannot be done.
        """
        self.sizes = (size, *self.sizes)
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise self._lose(f"its file cannot be cut: {error.strerror}") from error
        self.sizes = (size,)

    def is_named(self) -> bool:
        """Tell whether the file still has its name; without it, it serves until it is closed.

        :raises CacheLost: another file has its name.
        """
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        own = os.fstat(self._descriptor)
        if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            raise self._lose("its file was replaced")
        return True

    def close(self) -> None:
        """Close the file; nobody may be using it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._lost = self._lost or CacheLost(self._directory, "it was closed")

    def __del__(self) -> None:
        # A descriptor that is closed while a reader has its number would give that reader another file's bytes.
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)

    def _lose(self, problem: str) -> CacheLost:
        self._lost = CacheLost(self._directory, problem)
        return self._lost
