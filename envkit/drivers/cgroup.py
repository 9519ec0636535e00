"""Owns what envkit needs to know of control groups, version 1 and 2; LXC makes and fills them."""

import contextlib
import errno
import os
import signal
import time

from envkit.errors import EnvkitError

ROOT = "/sys/fs/cgroup"


def is_unified() -> bool:
    """Tell whether this machine has the unified hierarchy only (cgroup v2)."""
    return os.path.exists(f"{ROOT}/cgroup.controllers")


def leave(name: str) -> None:
    """Move this process out of the control groups that it was started in, into one of its own at the top of each
    hierarchy; `cgroup.kill` and the end of a job there then do not reach it.

    :raises OSError: it stays in one of them.
    """
    tops = [ROOT] if is_unified() else [f"{ROOT}/{entry}" for entry in _subdirectories(ROOT)]
    for top in tops:
        if not os.path.exists(f"{top}/cgroup.procs"):
            continue
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{top}/{name}")
        try:
            _write(f"{top}/{name}/cgroup.procs", "0")
        except OSError as error:
            # A new group of a v1 cpuset takes nobody before it has CPUs; at the top, nobody ends it either.
            if error.errno != errno.ENOSPC:
                raise
            _write(f"{top}/cgroup.procs", "0")


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


def members(name: str) -> list[int]:
    """Return the host pids of a container's processes, as far as they are in its own control group."""
    for group in container_groups(name):
        if "lxc.payload." in group:
            try:
                with open(f"{group}/cgroup.procs", encoding="ascii") as file:
                    return [int(line) for line in file]
            except OSError:  # it is just being removed
                return []
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


def freeze(name: str, *, patience: float = 30.0) -> None:
    """Hold every process of a container still, and return when all are.

    Written to the groups directly: lxc-freeze(1) demands a configuration file where ours is not.

    :raises EnvkitError: they did not stop in `patience` seconds; they go on.
    """
    group, version = _freezer(name)
    if version == 2:
        _write(f"{group}/cgroup.freeze", "1")
    else:
        _write(f"{group}/freezer.state", "FROZEN")
    deadline = time.monotonic() + patience
    while not _is_frozen(group, version):
        if time.monotonic() > deadline:
            thaw(name)
            raise EnvkitError(
                f"the processes of {name} could not be held still within {patience:g} s",
                resolution="end what runs in the session, then try again",
            )
        time.sleep(0.002)


def thaw(name: str) -> None:
    """Let a container's processes go on; no error where they do, or where there is none."""
    for group in container_groups(name):
        for file, value in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
            if os.path.exists(f"{group}/{file}"):
                with contextlib.suppress(FileNotFoundError):
                    _write(f"{group}/{file}", value)


def _freezer(name: str) -> tuple[str, int]:
    """Return the control group that can freeze a container, and its version."""
    groups = [group for group in container_groups(name) if "lxc.payload." in group]
    for file, version in (("cgroup.freeze", 2), ("freezer.state", 1)):
        for group in groups:
            if os.path.exists(f"{group}/{file}"):
                return group, version
    raise EnvkitError(f"the container {name} has no control group that can be frozen", resolution="run `envkit doctor`")


def _is_frozen(group: str, version: int) -> bool:
    path, wanted = (f"{group}/cgroup.events", "frozen 1") if version == 2 else (f"{group}/freezer.state", "FROZEN")
    with open(path, encoding="ascii") as file:
        return wanted in file.read().splitlines()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _kill_members(directory: str) -> None:
    try:
        with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
            members = [int(line) for line in file]
    except OSError:
        return
    for pid in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
