"""Owns crash points: named places where a test can have this process killed, to see what is left behind.

`ENVKIT_CRASH=NAME` sends SIGKILL to the process when it comes to that place, `ENVKIT_CRASH=NAME@N` when it comes there
for the N-th time. A place that is not in POINTS is a mistake, so that a test of all POINTS is a test of all places.
"""

import os
import signal

POINTS = (
    "lease:taken",
    "lease:read",
    "lease:checked",
    "lease:published",
    "lease:expired",
    "gc:roots",
    "gc:condemned",
    "gc:writers",
    "gc:doomed",
    "gc:deleted",
    "gc:versions",
    "gc:trees",
    "gc:packs",
    "gc:done",
    "repair:found",
    "repair:removed",
    "repair:restored",
    "copy:begin",
    "copy:pack",
    "copy:packs",
    "copy:tree",
    "copy:layers",
    "copy:published",
    "rename:copy",
    "rename:copied",
    "rename:done",
    "squash:composed",
    "squash:stored",
    "squash:published",
    "save:begin",
    "save:stored",
    "save:pending",
    "save:published",
    "save:end",
    "store:pack",
    "store:packs",
    "store:tree",
    "store:learned",
    "submit:input",
    "submit:order",
    "submit:pinned",
    "submit:prepared",
    "submit:queued",
    "submit:noted",
)

_wanted, _, _count = os.environ.get("ENVKIT_CRASH", "").partition("@")
_left = int(_count or 1)


def crash_point(name: str) -> None:
    """Die here if a test asked for it."""
    global _left
    assert name in POINTS, name  # noqa: S101  # a mistake of the caller, found by the first test that comes by
    if name == _wanted:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
