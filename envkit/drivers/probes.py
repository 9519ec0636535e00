"""Owns finding out what this machine can do: by trying it where that is safe, not by guessing from versions."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable

from envkit.drivers import libc, process
from envkit.drivers.mount import enter_private_namespace, mount_image
from envkit.errors import EnvkitError


def kernel_release() -> str:
    """Return the kernel's release, as `uname -r` prints it."""
    return os.uname().release


def kernel_at_least(major: int, minor: int) -> bool:
    """Tell whether the kernel is at least of a version."""
    match = re.match(r"(\d+)\.(\d+)", kernel_release())
    return match is not None and (int(match[1]), int(match[2])) >= (major, minor)


def has_filesystem(name: str) -> bool:
    """Tell whether the kernel has a file system, loading its module if that is needed."""
    if _listed(name):
        return True
    with contextlib.suppress(EnvkitError):
        process.run(["modprobe", "-q", name], timeout=30, check=False)
    return _listed(name)


def _listed(name: str) -> bool:
    with open("/proc/filesystems", encoding="ascii") as file:
        return any(line.split()[-1] == name for line in file)


def in_child(probe: Callable[[], None]) -> str | None:
    """Run a probe in a process and mount namespace of its own; return None where it went well, else what failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        message = ""
        try:
            enter_private_namespace()
            probe()
        except (OSError, EnvkitError) as error:
            message = str(error) or type(error).__name__
        os.write(writer, message.encode()[:4000] or b"\0")
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 4096)
    os.close(reader)
    os.waitpid(child, 0)
    if answer == b"\0":
        return None
    return answer.decode("utf-8", "replace") or "the probe died"


def overlay_upper(directory: str) -> str | None:
    """Try an overlay whose upper lies in `directory`; return None where it works, else the reason."""

    def probe() -> None:
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            for name in ("lower", "upper", "work", "root"):
                os.mkdir(f"{scratch}/{name}")
            options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
            libc.mount("overlay", f"{scratch}/root", "overlay", 0, options)
            try:
                os.mkdir(f"{scratch}/root/new")
                os.setxattr(f"{scratch}/upper/new", "trusted.envkit", b"1")
            finally:
                libc.umount(f"{scratch}/root", libc.MNT_DETACH)

    return in_child(probe)


def erofs_mount(image: bytes, directory: str, *, through_loop: bool) -> str | None:
    """Try to mount a small EROFS image from a file in `directory`; return None where it works, else the reason."""

    def probe() -> None:
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            with open(f"{scratch}/image", "wb") as file:
                file.write(image)
            os.mkdir(f"{scratch}/root")
            mount_image(f"{scratch}/image", f"{scratch}/root", through_loop=through_loop)
            libc.umount(f"{scratch}/root")

    return in_child(probe)
