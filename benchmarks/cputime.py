"""Owns counting the processor time of all that a block starts, whoever else uses the machine: by a control group."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ACCOUNTING = Path("/sys/fs/cgroup/cpuacct")
_UNIFIED = Path("/sys/fs/cgroup")


class Meter:
    """Seconds of all processors that a control group and those below it have used."""

    def __init__(self, group: Path) -> None:
        self._group = group

    def seconds(self) -> float:
        """Return how many it has used since it was made."""
        usage = self._group / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        fields = dict(line.split() for line in (self._group / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    """Count what this process and all that it starts in the block use; those have to have ended with the block."""
    place = _ACCOUNTING if _ACCOUNTING.is_dir() else _UNIFIED
    before = place / _own_group(place).lstrip("/")
    group = before / f"envkit-bench-{os.getpid()}"
    group.mkdir()
    try:
        _enter(group)
        try:
            yield Meter(group)
        finally:
            _enter(before)
    finally:
        group.rmdir()


def _own_group(place: Path) -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers.split(",") == ["cpuacct"] if place == _ACCOUNTING else not controllers:
            return path
    return "/"


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n")
