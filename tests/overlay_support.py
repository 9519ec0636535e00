"""What tests on real overlays need: a disk of their own, and mounts that end with the test."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

from envkit.drivers import libc, mount
from envkit.overlay.options import overlay_options


@contextlib.contextmanager
def ext4_disk() -> Iterator[str]:
    """An ext4 of its own: overlayfs on a tmpfs differs, and unmounting must not wait for what others write."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        image, directory = f"{root}/image", f"{root}/disk"
        with open(image, "wb") as file:
            file.truncate(256 << 20)
        os.mkdir(directory)
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, directory], check=True)
        try:
            yield directory
        finally:
            libc.umount(directory, libc.MNT_DETACH)  # a failed test may hold descriptors


@contextlib.contextmanager
def overlay(
    root: str, target: str, lowers: Sequence[str], *, upper: str | None = None, work: str | None = None
) -> Iterator[str]:
    """Mount an overlay as a session's; all names are relative to `root`."""
    options = overlay_options(lowers, upper=upper, work=work, session=True)
    mount.mount_overlay(f"{root}/{target}", options, directory=root, nosuid=False)
    try:
        yield f"{root}/{target}"
    finally:
        libc.umount(f"{root}/{target}")


@contextlib.contextmanager
def mounted(source: str, target: str, fstype: str | None = None, flags: int = 0) -> Iterator[str]:
    """Mount something for a while."""
    libc.mount(source, target, fstype, flags)
    try:
        yield target
    finally:
        libc.umount(target)
