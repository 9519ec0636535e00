"""Owns what this machine's processors can do."""

import os

from envkit.drivers.files import read_text

_FIRST = 16 << 10  # the first processor's lines, of as many as there are


def architecture() -> str:
    """Return the architecture, as uname(1) calls it."""
    return os.uname().machine


def flags() -> frozenset[str]:
    """Return the flags of the first processor, as /proc/cpuinfo calls them; empty where they are not known."""
    for line in read_text("/proc/cpuinfo", _FIRST).splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(words.split())
    return frozenset()
