"""Owns what makes a base of a freshly built root: the recipe's files in, everything of the building machine out.

Paths are resolved as inside the root: a link such as /sbin leads to the root's own /usr/sbin, never to the host's.
"""

import contextlib
import errno
import fnmatch
import os
from collections.abc import Iterable, Iterator

from envkit.drivers import files, libc
from envkit.model.recipe import RecipeFile

# Made anew by each container or program that needs it, or a trace of the machine and the moment of the build.
_REMOVED = (
    ("/dev", "*"),
    ("/run", "*"),
    ("/tmp", "*"),
    ("/var/tmp", "*"),
    ("/var/cache/apt", "*.bin"),
    ("/var/cache/apt/archives", "*"),
    ("/var/cache/debconf", "*-old"),
    ("/var/cache/ldconfig", "*"),
    ("/var/lib/apt/lists", "*"),
    ("/var/lib/dpkg", "*-old"),
    ("/var/lib/dbus", "machine-id"),
    ("/var/lib/systemd", "random-seed"),
    ("/var/lib/systemd", "credential.secret"),
    ("/var/log", "*.log"),
    ("/var/log/apt", "*"),
    ("/etc", "*-"),
    ("/etc", ".pwd.lock"),
    ("/etc/ssh", "ssh_host_*"),
    ("/etc/ssl/private", "*"),
    ("/etc/apt", "sources.list"),
    ("/etc/apt/sources.list.d", "*"),
    # mmdebstrap leaves the options that it was given: the host's proxies.
    ("/etc/apt/apt.conf.d", "99mmdebstrap"),
    ("/etc/dpkg/dpkg.cfg.d", "99mmdebstrap"),
)
# Empty, but there: runtimes mount files over these, and a mount needs something to be mounted on.
_EMPTY = (
    RecipeFile(path="/etc/machine-id", content=b"", mode=0o444),
    RecipeFile(path="/etc/resolv.conf", content=b""),
    RecipeFile(path="/etc/hostname", content=b""),
)
_HOSTS = RecipeFile(path="/etc/hosts", content=b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
_SOURCES = "/etc/apt/sources.list.d/debian.sources"


def finish(root: str, *, sources: str, started: float, added: Iterable[RecipeFile] = ()) -> None:
    """Turn a root that mmdebstrap built into a base.

    :param sources: content of its debian.sources.
    :param started: when the build began, in seconds since 1970.
    :param added: the recipe's files.
    :raises KernelRefused: a file of the recipe cannot be written where it should be.
    """
    for directory, pattern in _REMOVED:
        _remove(root, directory, pattern)
    for file in (*_EMPTY, _HOSTS, RecipeFile(path=_SOURCES, content=sources.encode()), *added):
        write(root, file)
    _forget_build_time(root, started)


def write(root: str, file: RecipeFile) -> None:
    """Write a file, root's, in place of what is there; missing directories are made.

    :raises KernelRefused: the path leads over something that is no directory, or to one.
    """
    parent, _, name = file.path.rpartition("/")
    try:
        with _directory(root, parent, create=True) as directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(name, flags, 0o600, dir_fd=directory), "wb") as output:
                output.write(file.content)
                os.fchmod(output.fileno(), file.mode)  # not by open(2): there the umask takes bits away
    except OSError as error:
        raise files.io_error(f"write {file.path} in the new root", error) from error


def _remove(root: str, path: str, pattern: str) -> None:
    """Remove what matches in a directory, if that exists."""
    try:
        with _directory(root, path) as directory:
            for name in fnmatch.filter(os.listdir(directory), pattern):
                files.remove_tree(f"/proc/self/fd/{directory}/{name}")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise files.io_error(f"clean {path} in the new root", error) from error


def _forget_build_time(root: str, started: float) -> None:
    """Give all that the build made the time of the newest file that comes from a package.

    With that, two builds from the same packages on one day are the same to the last byte, and so are stored once;
    those of different days differ in /etc/shadow, which notes the day.
    """
    # Packages are older by days; the margin is for clocks that tick coarsely or are being set.
    limit = int((started - 60) * 1_000_000_000)
    newest = 0
    for _, directories, names, descriptor in os.fwalk(root):
        for name in (*directories, *names):
            mtime = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mtime_ns
            if newest < mtime < limit:
                newest = mtime
    for _, directories, names, descriptor in os.fwalk(root):
        for name in (*directories, *names):
            if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mtime_ns >= limit:
                os.utime(name, ns=(newest, newest), dir_fd=descriptor, follow_symlinks=False)
    os.utime(root, ns=(newest, newest))


@contextlib.contextmanager
def _directory(root: str, path: str, *, create: bool = False) -> Iterator[int]:
    """Open a directory as a process inside the root would find it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    top = os.open(root, flags | os.O_NOFOLLOW)
    try:
        if create:
            _make_directories(top, path)
        resolve = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
        directory = libc.openat2(top, path or "/", flags, resolve=resolve)
        try:
            yield directory
        finally:
            os.close(directory)
    finally:
        os.close(top)


def _make_directories(top: int, path: str) -> None:
    """Make what is missing of a path, each directory in the one that its parent really is."""
    resolve = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
    done = ""
    for name in path.strip("/").split("/") if path.strip("/") else ():
        parent = libc.openat2(top, done or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, resolve=resolve)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=parent)
                os.chmod(name, 0o755, dir_fd=parent)  # noqa: S103  # whatever the umask
        finally:
            os.close(parent)
        done = f"{done}/{name}"
