"""Owns who called envkit, through sudo(8) the user who called that; and reading small files that this user wrote.

envkit often runs as root for somebody else. What that user wrote is then opened with that user's rights, and used only
where nobody else could have written it. Their files and directories that a container is to see are opened in the same
way, so that envkit leads nobody to where they may not go.
"""

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator, Mapping

from envkit.drivers import libc
from envkit.errors import InvalidInput, NotFound, Unavailable
from envkit.model.record import Record

_MAX_ID = (1 << 32) - 2


class UnsafeFile(InvalidInput):
    """A settings file cannot be read, or somebody else may have written it."""

    def __init__(self, path: str, reason: str, *, resolution: str | None = None) -> None:
        super().__init__(f"cannot use {path}: {reason}", resolution=resolution)
        self.path = path


class Caller(Record):
    """Who called envkit; `name` and `home` are empty where they are not known."""

    uid: int
    gid: int
    name: str
    home: str


def find_caller(environment: Mapping[str, str]) -> Caller:
    """Return who called envkit: for root the user that sudo(8) names, else whoever this process runs as."""
    if os.getuid() == 0 and (uid := _id(environment.get("SUDO_UID"))):
        gid = _id(environment.get("SUDO_GID"))
        name = environment.get("SUDO_USER", "")
        # HOME is root's, or what sudo was told to make of it.
        return Caller(uid=uid, gid=uid if gid is None else gid, name=name, home=_home(uid))
    home = environment.get("HOME", "")
    return Caller(uid=os.getuid(), gid=os.getgid(), name="", home=home if home.startswith("/") else _home(os.getuid()))


def process_user() -> Caller:
    """Return whoever this process runs as, also under sudo."""
    return Caller(uid=os.geteuid(), gid=os.getegid(), name="", home="")


def _id(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 10:
        return None
    return int(text) if int(text) <= _MAX_ID else None


def _home(uid: int) -> str:
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        return ""
    return home if home.startswith("/") else ""


def read_settings(path: str, caller: Caller, *, limit: int) -> bytes | None:
    """Return a settings file of the caller or of root, at most `limit` bytes; None where there is none.

    What is checked is what is read, after it was opened. Waits for nobody: not for the writer of a FIFO either.

    :raises UnsafeFile: it cannot be read, is no regular file or too large, or others may write it.
    """
    try:
        with rights_of(caller):
            # O_NONBLOCK: opening a FIFO would wait for its writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnsafeFile(path, _reason(error)) from error
    try:
        _check(path, os.fstat(descriptor), caller, limit)
        data = bytearray()
        while len(data) <= limit and (piece := os.read(descriptor, limit + 1 - len(data))):
            data += piece
    except OSError as error:
        raise UnsafeFile(path, _reason(error)) from error
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise _too_large(path, limit)
    return bytes(data)


def open_path(path: str, caller: Caller) -> int:
    """Return a descriptor of a file or directory for which the caller has the way there, as open(2) with O_PATH.

    Links that only the kernel can follow, as those of /proc/self/fd, are refused: behind them are files of this
    process.

    :raises NotFound: it does not exist; :raises Unavailable: the caller may not go there.
    """
    try:
        with rights_of(caller):
            # A directory is entered, so that autofs(5) mounts what belongs there.
            for way in (f"{path}/.", path):
                try:
                    return libc.openat2(libc.AT_FDCWD, way, os.O_PATH, resolve=libc.RESOLVE_NO_MAGICLINKS)
                except OSError:
                    if way == path:
                        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"the volume's source {path} does not exist") from error
    except OSError as error:
        raise Unavailable(
            f"the volume's source {path} cannot be opened with your rights: {_reason(error)}",
            resolution="you need to be able to go there yourself",
        ) from error
    raise AssertionError  # the loop returns or raises


@contextlib.contextmanager
def rights_of(caller: Caller) -> Iterator[None]:
    """Open files as the caller: root may be unable to read a home on NFS, and no link of the user's gets its rights.

    Only this thread has other rights meanwhile: others may be storing things as root.
    """
    if os.geteuid() != 0 or caller.uid == 0:
        yield
        return
    gid, groups = os.getegid(), os.getgroups()
    death_signal = libc.death_signal()
    try:
        libc.set_thread_groups(groups_of(caller))
        libc.set_thread_egid(caller.gid)
        libc.set_thread_euid(caller.uid)
        yield
    finally:
        libc.set_thread_euid(0)
        libc.set_thread_egid(gid)
        libc.set_thread_groups(groups)
        if death_signal:  # the kernel forgets it with every change of these ids
            libc.die_with_parent(death_signal)


def groups_of(caller: Caller) -> list[int]:
    """Return the groups that a user is in, by the user database of this machine."""
    name = caller.name
    if not name:
        try:
            name = pwd.getpwuid(caller.uid).pw_name
        except KeyError:
            return [caller.gid]
    return os.getgrouplist(name, caller.gid)


def _check(path: str, status: os.stat_result, caller: Caller, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFile(path, "it is no regular file")
    if status.st_uid not in (0, caller.uid):
        raise UnsafeFile(path, "it belongs neither to you nor to root", resolution="make it yours, or remove it")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeFile(path, "others may write to it", resolution=f"run `chmod go-w {path}`")
    if status.st_size > limit:
        raise _too_large(path, limit)


def _too_large(path: str, limit: int) -> UnsafeFile:
    return UnsafeFile(path, f"it has more than {limit} bytes")


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__
