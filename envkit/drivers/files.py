"""Owns small file-system habits: whole-file atomic writes, advisory locks, and removing trees that others filled."""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from envkit.drivers.errors import KernelRefused
from envkit.errors import Unavailable

_REMOVERS = 1000
"""Tries at removing a directory that others change meanwhile: one for each name that they remove first."""


class DiskFull(Unavailable):
    """A file system has no room left."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no space left for {path}", resolution="free some space there, then try again")
        self.path = path


def io_error(action: str, error: OSError) -> KernelRefused | DiskFull:
    """Return the EnvkitError that tells an OSError of a file operation."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(str(error.filename or action))
    return KernelRefused(action, error)


def make_directory(path: str, *, mode: int = 0o700) -> None:
    """Create a directory with a mode, and its missing parents with the usual one; no error if it is there."""
    try:
        os.makedirs(path, mode=mode, exist_ok=True)
    except OSError as error:
        raise io_error(f"create the directory {path}", error) from error


def write_atomic(path: str, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace a file's content in one step that survives a crash: the old content or the new, never a mix.

    :param durable: wait for the disk; what is verified whenever it is read, and may be lost, need not.
    """
    temporary = f"{path}.{os.getpid()}.new"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        if durable:
            sync_directory(os.path.dirname(path))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise io_error(f"write {path}", error) from error


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: str, limit: int) -> bytes | None:
    """Return a file's bytes, at most `limit`; None where it does not exist.

    :raises KernelRefused: it cannot be read, or is larger.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelRefused(f"read {path}", error) from error
    if len(data) > limit:
        raise KernelRefused(f"read {path}", OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
    return data


def read_text(path: str, limit: int) -> str:
    """Return the start of a text file of the host, at most `limit` bytes; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def try_lock(path: str) -> int | None:
    """Take a lock file's lock without waiting; return its descriptor, which holds it, or None if another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: str) -> bool:
    """Tell whether some process holds a lock file's lock; False where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock file's lock for a while, waiting for it as long as it takes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_tree(path: str) -> None:
    """Remove a directory and all in it, whatever its names, modes and depth; no error if it is not there.

    Several processes may do that at the same time, as when a job ends while another one sweeps what dead jobs left.
    Never leaves the directory: no symlink is followed and no other file system entered. Descends by changing what a
    descriptor points to, so that depth costs neither stack nor descriptors.
    """
    try:
        parent = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for left in reversed(range(_REMOVERS)):
            try:
                _remove_at(parent, os.path.basename(path))
                break
            except OSError as error:
                # Somebody else has removed a name that was just listed, or made one: a sweep makes a lock that is gone.
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY) or not left:
                    raise
    except OSError as error:
        raise io_error(f"remove {path}", error) from error
    finally:
        os.close(parent)


def _remove_at(parent: int, name: str) -> None:
    try:
        top = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(top.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    names = [name]
    current = os.open(name, flags, dir_fd=parent)
    try:
        while names:
            child = _remove_files(current, top.st_dev)
            if child is not None:
                below = os.open(child, flags, dir_fd=current)
                os.close(current)
                current = below
                names.append(child)
                continue
            above = os.dup(parent) if len(names) == 1 else os.open("..", flags, dir_fd=current)
            os.close(current)
            current = above
            os.rmdir(names.pop(), dir_fd=current)
    finally:
        os.close(current)


def _remove_files(directory: int, device: int) -> str | None:
    """Remove a directory's entries other than non-empty directories; return one of those, or None."""
    with os.scandir(directory) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listed:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if os.stat(name, dir_fd=directory, follow_symlinks=False).st_dev != device:
                raise OSError(errno.EXDEV, "something is mounted inside", name) from error
            return name
    return None
