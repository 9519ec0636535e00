"""Owns which Debian releases there are guests of, and what is installed in them besides what envkit and its tests need."""

import os
import re
import tomllib
from typing import NamedTuple

from commandline import CHECKOUT


class Release(NamedTuple):
    """A Debian release: its number, its codename, the minor version of its Python 3."""

    number: str
    codename: str
    python: int


RELEASES = {release.number: release for release in (Release("12", "bookworm", 11), Release("13", "trixie", 13))}

SYSTEM = (
    *("systemd", "systemd-sysv", "libpam-systemd", "dbus", "udev", "kmod", "login", "passwd", "sudo"),
    *("linux-image-amd64", "initramfs-tools", "apparmor"),
)
"""What makes a Debian machine of it: init, the distribution's kernel, logins, AppArmor."""

LEFT_OUT = frozenset(
    {
        "gcc",
        "libc6-dev",
        "munge",
        "openmpi-bin",
        "qemu-system-x86",
        "qemu-utils",
        "slurm-client",
        "slurmctld",
        "slurmd",
    },
)
"""What tests need that are nothing to a guest: a cluster's daemons, which would start with it, MPI and its compiler, QEMU."""


def packages():
    """Return the names of all packages of a guest, sorted: what `scripts/provision --test` installs, without `LEFT_OUT`.

    :raises ValueError: `scripts/provision` does not say any more what it installs in the way that is read here.
    """
    with open(f"{CHECKOUT}/scripts/provision", encoding="utf-8") as file:
        script = file.read()
    found = set(SYSTEM)
    for name in ("packages", "test_packages"):
        match = re.search(rf"^{name}=\(([^)]*)\)$", script, re.MULTILINE)
        if match is None:
            raise ValueError(f"scripts/provision has no line {name}=(...)")
        found.update(match[1].split())
    return sorted(found - LEFT_OUT)


def requirements():
    """Return what pip installs beside envkit: its own requirements, those of its tests, what builds it."""
    with open(f"{CHECKOUT}/pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    return [
        *project["build-system"]["requires"],
        "wheel",  # older releases of pip ask for it beside setuptools
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["test"],
    ]


SWIFT = ("swift>=2.30",)
"""The S3 server of the tests, in a virtual environment of its own."""


def cache_directory():
    """Return where images are kept: ENVKIT_VM_DIR, or a place for things that can be made again."""
    chosen = os.environ.get("ENVKIT_VM_DIR")
    cache = os.environ.get("XDG_CACHE_HOME")
    return chosen or (f"{cache}/envkit-vm" if cache else "/var/tmp/envkit-vm")
