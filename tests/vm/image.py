"""Owns where images are kept, and which is up to date: an image serves until what it is made of changes."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from typing import NamedTuple

from vm import releases
from vm.recipe import PATH, USER, CannotBuild, build

from envkit.drivers.files import remove_tree

__all__ = ["USER", "CannotBuild", "Image", "digest", "image", "require_programs"]

_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
}


class Image(NamedTuple):
    """The directory of an image: `disk` (raw ext4), `kernel`, `initrd`, `packages` with their versions."""

    directory: str

    @property
    def disk(self):
        return f"{self.directory}/disk"

    @property
    def kernel(self):
        return f"{self.directory}/kernel"

    @property
    def initrd(self):
        return f"{self.directory}/initrd"

    def in_use(self):
        """Return a descriptor to close in the end: as long as it is open, nobody removes the image."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor


def require_programs(*names):
    """Say of all programs at once which package has what is missing.

    :raises CannotBuild: one is missing.
    """
    missing = sorted({_PROGRAMS[name] for name in names if shutil.which(name, path=PATH) is None})
    if missing:
        raise CannotBuild(f"not installed: {' '.join(missing)}; run `scripts/provision --vm`")


def image(release, *, say, again=False):
    """Return the image of a release; make it where there is none of what it would be made of now.

    :param say: called with a line for each step.
    :raises CannotBuild: something is missing or failed.
    """
    cache = releases.cache_directory()
    os.makedirs(cache, exist_ok=True)
    target = f"{cache}/{release.number}-{digest(release)[:16]}"
    if os.path.isdir(target) and not again:
        return Image(target)
    require_programs(*_PROGRAMS)
    if os.geteuid() != 0:
        raise CannotBuild("making an image needs root: use sudo")
    with open(f"{cache}/lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(target) and not again:  # somebody else has just made it
            return Image(target)
        with contextlib.ExitStack() as stack:
            # A name that the lock protects: what a killed build left is in the way of nobody else.
            work = f"{cache}/new"
            remove_tree(work)
            os.mkdir(work, 0o700)
            stack.callback(remove_tree, work)
            build(release, work, say)
            for name in os.listdir(cache):
                if name.startswith(f"{release.number}-"):
                    _remove_unused(f"{cache}/{name}")
            if os.path.isdir(target):
                raise CannotBuild(f"{target} is in use: switch its machines off")
            os.rename(f"{work}/image", target)
    return Image(target)


def _remove_unused(path):
    """Remove an image, but for one that a machine runs with, which may boot again."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        remove_tree(path)
    finally:
        os.close(descriptor)


def digest(release):
    """Return the digest of everything that an image is made of, but for the packages' contents."""
    here = os.path.dirname(os.path.abspath(__file__))
    made_of = hashlib.sha256()
    for name in ("agent.py", "recipe.py"):
        with open(f"{here}/{name}", "rb") as file:
            made_of.update(hashlib.sha256(file.read()).digest())
    made_of.update(json.dumps([release, releases.packages(), releases.requirements(), releases.SWIFT]).encode())
    return made_of.hexdigest()
