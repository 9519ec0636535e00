"""Owns how a directory that others filled is walked and opened on the host: never through a link or a mount.

Every directory and file is opened by its path from the root's descriptor, and the kernel refuses to resolve links or
to leave the mount (openat2). So there is one descriptor open at a time, whatever the depth, and what was planted
meanwhile is found out: the opened inode is compared with the listed one.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from envkit.drivers import libc
from envkit.model.tree import MAX_COMPONENT, MAX_DEPTH, MAX_PATH, display_path
from envkit.overlay.errors import ChangedMeanwhile, LimitExceeded, MountInside, ScanFailed

MAX_ENTRIES = 8_000_000
MAX_DIRECTORY_ENTRIES = 1_000_000

RESOLVE_NO_XDEV = 0x01
_RESOLVE = RESOLVE_NO_XDEV | libc.RESOLVE_NO_MAGICLINKS | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_BENEATH
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC
# Opening a FIFO that nobody writes to would block for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_NONBLOCK | os.O_NOCTTY

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

Child = tuple[bytes, os.stat_result]


class Listing(NamedTuple):
    """A directory: its path from the root, a descriptor that is open until the next listing, and what it holds."""

    path: bytes
    fd: int
    children: list[Child]


def open_root(directory: str) -> int:
    """Return a descriptor of the directory to walk.

    :raises ScanFailed: it does not exist, is no directory, or is a link.
    """
    try:
        return os.open(directory, _DIRECTORY)
    except OSError as error:
        raise ScanFailed(directory, error) from error


def open_directory(root: int, path: bytes) -> int:
    """Return a descriptor of a directory below the root; raise as `open_file` does."""
    return _open(root, path or b".", _DIRECTORY)


def open_file(root: int, path: bytes) -> int:
    """Return a descriptor of whatever is at a path below the root; opening never blocks.

    :raises MountInside: a mount point is on the way.
    :raises ChangedMeanwhile: it is not there, or behind a link.
    :raises ScanFailed: the file system gave an error.
    """
    return _open(root, path, _FILE)


def _open(root: int, path: bytes, flags: int) -> int:
    try:
        return libc.openat2(root, path, flags, resolve=_RESOLVE)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise MountInside(display_path(path)) from error
        raise read_error(path, error) from error


def read_attributes(fd: int, name: bytes, path: bytes) -> dict[bytes, bytes]:
    """Return the extended attributes of a name in an open directory, of a link those of its own.

    :param path: what the name is called in messages; raises as `open_file` does.
    """
    # There is no listxattrat(2) before Linux 6.13. The kernel resolves this from the descriptor, and does not follow
    # the name, so it cannot leave the directory.
    place = b"/proc/self/fd/%d/%b" % (fd, name)
    try:
        names = os.listxattr(place, follow_symlinks=False)
        if not names:
            return {}
        return {os.fsencode(attribute): os.getxattr(place, attribute, follow_symlinks=False) for attribute in names}
    except OSError as error:
        raise read_error(path, error) from error


def read_link(fd: int, name: bytes, path: bytes) -> bytes:
    """Return the target of a symlink in an open directory; parameters and errors as `read_attributes`."""
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.EINVAL:  # it is no link any more
            raise ChangedMeanwhile(display_path(path)) from error
        raise read_error(path, error) from error


def read_error(path: bytes, error: OSError) -> ChangedMeanwhile | ScanFailed:
    """Return the EnvkitError that tells an OSError: paths that were listed can only be gone if somebody writes."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODATA, errno.ESTALE):
        return ChangedMeanwhile(display_path(path))
    return ScanFailed(display_path(path), error)


def walk(root: int, *, at_mount: Callable[[bytes], None], live: bool = False) -> Iterator[Listing]:
    """Yield every directory below and at the root, each after the one that holds it.

    :param at_mount: called with the path of each mount point, which is not entered; may raise.
    :param live: others may write meanwhile; what is gone when the walk comes to it is left out.
    :raises LimitExceeded: there are too many names, or a path is too deep or too long.
    :raises ChangedMeanwhile: something was renamed or removed during the walk.
    :raises ScanFailed: the file system gave an error.
    """
    top = os.fstat(root)
    device = top.st_dev
    pending = [(b"", 0, top)]
    found = 1
    while pending:
        path, depth, expected = pending.pop()
        try:
            fd = open_directory(root, path)
        except MountInside:
            at_mount(path)
            continue
        except ChangedMeanwhile:
            if live:
                continue
            raise
        try:
            opened = os.fstat(fd)
            if (opened.st_ino, opened.st_dev) != (expected.st_ino, expected.st_dev) and not live:
                raise ChangedMeanwhile(display_path(path))
            children = _list(path, fd, live=live)
            found += len(children)
            _check_limits(path, depth, children, found)
            yield Listing(path, fd, children)
        finally:
            os.close(fd)
        prefix = path + b"/" if path else b""
        for name, status in children:
            if status.st_dev != device:
                at_mount(prefix + name)
            elif status.st_mode & 0o170000 == 0o040000:
                pending.append((prefix + name, depth + 1, status))


def _list(path: bytes, fd: int, *, live: bool) -> list[Child]:
    children = []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    # This is `os.fsencode`, which costs another call for each.
                    name = entry.name.encode(_ENCODING, _ERRORS)
                    children.append((name, entry.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    if not live:
                        raise
                if len(children) > MAX_DIRECTORY_ENTRIES:
                    raise LimitExceeded(display_path(path), "entries", MAX_DIRECTORY_ENTRIES)
    except OSError as error:
        raise read_error(path, error) from error
    return children


def _check_limits(path: bytes, depth: int, children: list[Child], found: int) -> None:
    if not children:
        return
    if found > MAX_ENTRIES:
        raise LimitExceeded("/", "entries below it", MAX_ENTRIES)
    if depth >= MAX_DEPTH:
        raise LimitExceeded(f"{display_path(path[:60])}...", "levels of directories", MAX_DEPTH)
    if len(path) + 1 + MAX_COMPONENT > MAX_PATH:
        longest = max(len(name) for name, _ in children)
        if len(path) + 1 + longest > MAX_PATH:
            raise LimitExceeded(f"{display_path(path[:60])}...", "bytes in a path below it", MAX_PATH)
