"""Owns reading and writing network settings below /proc/sys/net, which belong to the caller's network namespace."""

import errno

from envkit.drivers.errors import KernelRefused


def read(name: str) -> str:
    """Return a setting as in `ipv4/ip_forward`; empty where the kernel does not have it."""
    try:
        with open(f"/proc/sys/net/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def write(name: str, value: str, *, optional: bool = False) -> None:
    """Change a setting if it has another value; `optional` where kernel or device may lack it.

    :raises KernelRefused: it cannot be changed.
    """
    if read(name) == value:
        return
    try:
        with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        if not (optional and error.errno == errno.ENOENT):
            raise KernelRefused(f"set net/{name}", error) from error
