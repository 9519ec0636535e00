"""Owns what envkit needs to know of control groups, version 1 and 2; LXC makes and fills them."""

import contextlib
import os
import signal
import time

ROOT = "/sys/fs/cgroup"


def is_unified() -> bool:
    """Tell whether this machine has the unified hierarchy only (cgroup v2)."""
    return os.path.exists(f"{ROOT}/cgroup.controllers")


def container_groups(name: str) -> list[str]:
    """Return the directories of all control groups that LXC made for a container, in every hierarchy."""
    wanted = (f"lxc.payload.{name}", f"lxc.monitor.{name}")
    hierarchies = [ROOT] if is_unified() else [f"{ROOT}/{entry}" for entry in _subdirectories(ROOT)]
    return [f"{top}/{group}" for top in hierarchies for group in wanted if os.path.isdir(f"{top}/{group}")]


def _subdirectories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def remove_container_groups(name: str, *, patience: float = 5.0) -> list[str]:
    """Kill what still runs in a dead container's groups, and remove them; return those that stayed.

    :param patience: seconds to wait for killed processes to be gone.
    """
    deadline = time.monotonic() + patience
    remaining = container_groups(name)
    while remaining:
        for top in remaining:
            for directory, _, _ in os.walk(top, topdown=False):
                _kill_members(directory)
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        remaining = container_groups(name)
        if not remaining or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return remaining


def _kill_members(directory: str) -> None:
    try:
        with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
            members = [int(line) for line in file]
    except OSError:
        return
    for pid in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
