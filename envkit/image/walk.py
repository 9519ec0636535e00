"""Owns moving through, and deleting, directories on disk by descriptor and one name at a time.

No symlink is ever followed, and neither the length of a path nor the depth of a tree has a limit: a walk holds one
descriptor however deep it is.
"""

import errno
import os
import stat

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Walk:
    """A current directory at or below `root`. `fd` is its descriptor; close it with the context manager.

    :raises OSError: all methods; ESTALE if somebody moved a directory that the walk is in.
    """

    def __init__(self, root: int | str) -> None:
        self.fd = os.open(root, _FLAGS) if isinstance(root, str) else os.open(".", _FLAGS, dir_fd=root)
        self._above: list[tuple[int, int]] = []

    def __enter__(self) -> "Walk":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def enter(self, name: bytes | str) -> None:
        """Go to a directory in this one; what is no directory, a symlink included, is ENOTDIR or ELOOP."""
        below = os.open(name, _FLAGS, dir_fd=self.fd)
        self._above.append(_identity(self.fd))
        os.close(self.fd)
        self.fd = below

    def leave(self) -> None:
        """Go back to the directory that `enter` was called in."""
        above = os.open("..", _FLAGS, dir_fd=self.fd)
        if _identity(above) != self._above.pop():
            os.close(above)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        os.close(self.fd)
        self.fd = above


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def is_directory(parent: int, name: bytes) -> bool:
    """Tell whether `name` in the directory `parent` is a directory itself, not a symlink to one."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def remove(parent: int, name: bytes) -> None:
    """Delete `name` in the directory `parent`, with all that it holds; nothing is there: fine."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        with Walk(parent) as walk:
            walk.enter(name)
            clear(walk.fd)
        os.rmdir(name, dir_fd=parent)


def clear(directory: int) -> None:
    """Delete all that a directory holds."""
    with Walk(directory) as walk:
        pending = [_unlink_files(walk.fd)]
        while True:
            if pending[-1]:
                walk.enter(pending[-1][-1])
                pending.append(_unlink_files(walk.fd))
                continue
            pending.pop()
            if not pending:
                return
            walk.leave()
            os.rmdir(pending[-1].pop(), dir_fd=walk.fd)


def _unlink_files(directory: int) -> list[str]:
    """Delete what is no directory; return the names of the directories."""
    directories: list[str] = []
    others: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            (directories if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
    for name in others:
        os.unlink(name, dir_fd=directory)
    return directories
