"""Faults at system calls, made by strace(1): the n-th call of a kind kills the process, or fails with an error.

strace counts for each thread by itself, so that one fault may meet a call in several threads: an error then comes
several times, which is what a broken disk does.
"""

import re
import signal
from collections import Counter
from typing import NamedTuple

from torture_support import Violation

CALLS = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "close", "rename", "renameat", "renameat2", "link", "linkat",
    "unlink", "unlinkat", "mkdir", "mkdirat", "ftruncate", "fallocate", "syncfs",
)  # fmt: skip
KILL = "signal=SIGKILL"
ERRORS = {
    "openat": ("EIO", "EMFILE", "ENOSPC"),
    "write": ("EIO", "ENOSPC", "EDQUOT"),
    "pwrite64": ("EIO", "ENOSPC", "EDQUOT"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "fdatasync": ("EIO", "ENOSPC", "EDQUOT"),
    "syncfs": ("EIO", "ENOSPC"),
    "close": ("EIO", "ENOSPC", "EDQUOT"),
}
_OTHERS = ("EIO", "ENOSPC", "EDQUOT")
_LINE = re.compile(r"^(\d+)\s+(\w+)\(", re.MULTILINE)


class Fault(NamedTuple):
    """What happens at which call: the n-th of its kind in a thread."""

    call: str
    number: int
    effect: str

    def __str__(self):
        return f"{self.call}:{self.effect}:when={self.number}"

    @property
    def kills(self):
        return self.effect == KILL


def effects(call):
    """Return what may happen at a kind of call."""
    return (KILL, *(f"error={error}" for error in ERRORS.get(call, _OTHERS)))


def count(world, argv, **options):
    """Run a command without a fault; return its outcome and how often each kind of call came, at most in one thread."""
    log = f"{world.directory}/strace.log"
    outcome = world.run(*argv, tracer=_strace(log, ",".join(CALLS)), **options)
    each = Counter((call, thread) for thread, call in _LINE.findall(_read(log)))
    most = Counter()
    for (call, _), times in each.items():
        most[call] = max(most[call], times)
    return outcome, most


def inject(world, argv, fault, **options):
    """Run a command with a fault; return its outcome, and whether the fault was met.

    :raises Violation: an error of syncing an object, or of closing it after it was written, was passed over.
    """
    log = f"{world.directory}/strace.log"
    injection = ("-e", f"inject={fault.call}:{fault.effect}:when={fault.number}")
    outcome = world.run(*argv, tracer=(*_strace(log, fault.call), *injection), **options)
    text = _read(log)
    hit = outcome.code == -signal.SIGKILL if fault.kills else "(INJECTED)" in text
    if outcome.code == 0:
        for line in text.splitlines():
            if "(INJECTED)" in line and _durability(line, world):
                raise Violation("lost", f"acknowledged although {line}")
    return outcome, hit


def _durability(line, world):
    """Tell whether a failed call leaves an object of a store in doubt; leases and probes need not outlive a power cut."""
    if not any(place in line for place in world.stores) or re.search("/(leases|clock|probe)[/>]", line):
        return False
    return "sync(" in line or (" close(" in line and "/~tmp." in line)


def _strace(log, calls):
    return ("timeout", "100", "strace", "-f", "-y", "-qq", "-o", log, "-e", f"trace={calls}")


def _read(log):
    with open(log, encoding="utf-8", errors="replace") as file:
        return file.read()
