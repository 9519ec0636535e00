"""Owns files that the caller of a command names: they are read and written with the caller's rights, not root's.

envkit runs as root for them, and what it reads here ends in a container of theirs.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable

from envkit.drivers.caller import find_caller, rights_of
from envkit.drivers.files import io_error
from envkit.errors import InvalidInput, NotFound


def read_callers(path: str, *, limit: int) -> bytes:
    """Return a file of the caller's, or for `-` what comes on standard input.

    :raises NotFound: there is none; :raises InvalidInput: it is no file, or has more than `limit` bytes.
    """
    if path == "-":
        data = sys.stdin.buffer.read(limit + 1)
    else:
        try:
            with rights_of(find_caller(os.environ)):
                # O_NONBLOCK: opening a FIFO would wait for its writer.
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise InvalidInput(f"{path} is no file")
                data = file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"there is no file {path}") from error
        except OSError as error:
            raise io_error(f"read {path}", error) from error
    if len(data) > limit:
        raise InvalidInput(f"{path} has more than {limit:,} bytes")
    return data


def write_callers(path: str, pieces: Iterable[bytes]) -> None:
    """Write a file that then is the caller's: whole, or not at all."""
    partial = f"{path}.part"
    try:
        with rights_of(find_caller(os.environ)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with open(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
        with rights_of(find_caller(os.environ)):
            os.replace(partial, path)
    except OSError as error:
        raise io_error(f"write {path}", error) from error


def make_callers_directory(path: str) -> None:
    """Make a directory of the caller's, where it is missing."""
    try:
        with rights_of(find_caller(os.environ)):
            os.makedirs(path, exist_ok=True)
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise io_error(f"make the directory {path}", error) from error
