"""Owns what envkit needs to know of control groups, version 1 and 2; LXC makes and fills them.

A job's container lies below the groups that envkit was called in: what limits and ends these, limits and ends it. A
session's lies at the top of each hierarchy, since it outlives the terminal that it was opened from.
"""

import contextlib
import errno
import fcntl
import os
import signal
import time
from collections.abc import Sequence

from envkit.drivers.files import read_text
from envkit.errors import EnvkitError, Unavailable

ROOT = "/sys/fs/cgroup"
_MAX_PROC = 64 * 1024
_PIVOT = "lxc.pivot"
"""Where LXC's monitors go when they end; it never removes this, and a group that has groups below cannot be removed.

It is one for all containers of a place, and LXC fails to enter it where somebody removes it just then.
"""
_SHORT = 0.5


def is_unified() -> bool:
    """Tell whether this machine has the unified hierarchy only (cgroup v2)."""
    return os.path.exists(f"{ROOT}/cgroup.controllers")


def leave(name: str) -> None:
    """Move this process out of the control groups that it was started in, into one of its own at the top of each
    hierarchy; `cgroup.kill` and the end of a job there then do not reach it.

    :raises OSError: it stays in one of them.
    """
    for top in tops():
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


def tops() -> list[str]:
    """Return the top of each hierarchy."""
    return [ROOT] if is_unified() else [f"{ROOT}/{entry}" for entry in _subdirectories(ROOT)]


def own_groups() -> list[str]:
    """Return the directory of this process's own group in each hierarchy; its top where that cannot be seen."""
    groups = {top: top for top in tops()}
    # Several controllers of version 1 may share a hierarchy, in any order.
    by_controllers = {frozenset(os.path.basename(top).split(",")): top for top in groups}
    for line in read_text("/proc/self/cgroup", _MAX_PROC).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.removeprefix("name=") or "unified"
        top = ROOT if is_unified() else by_controllers.get(frozenset(names.split(",")), "")
        if top in groups and (names == "unified" or not is_unified()) and ".." not in path.split("/"):
            own = f"{top}{path}".rstrip("/")
            groups[top] = own if os.path.isdir(own) else top
    return list(groups.values())


def can_nest(*, limited: bool) -> bool:
    """Tell whether a container's groups can lie below this process's own.

    :param limited: it is to have limits of its own, which in version 2 only a group without processes can give.
    :raises Unavailable: Slurm has put this process here, and nothing may lead out.
    """
    if not is_unified():
        return True
    own = own_groups()[0]
    if own == ROOT or not limited:
        return own != ROOT
    if "slurm" in own:
        raise Unavailable(
            "a job of Slurm cannot give its container limits of its own on this machine",
            resolution="ask Slurm for them, with --mem and --cpus-per-task",
        )
    return False


def nest(name: str) -> list[str]:
    """Prepare a container whose groups lie below this process's own; return the directories in which LXC makes them.

    Version 1 needs nothing. In version 2 a group with processes in it has no controllers for groups below it, and LXC
    insists on enabling those that it sees; so this process goes into a group of its own that has none, and the
    container gets no limits of its own: those of the groups above hold. `remove_container_groups` takes it back.
    """
    groups = own_groups()
    if not is_unified():
        return groups
    below = f"{groups[0]}/{name}"
    os.mkdir(below)
    _write(f"{below}/cgroup.procs", "0")
    return [below]


def share(places: Sequence[str]) -> list[int]:
    """Keep others from removing what containers have in common in some groups, until these descriptors are closed.

    A lock that anybody can take, so it is not waited for long: who has it for a reason has it for a moment.
    """
    descriptors = []
    deadline = time.monotonic() + _SHORT
    for place in places:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        descriptors.append(descriptor)
        while not _lock(descriptor, fcntl.LOCK_SH) and time.monotonic() < deadline:
            time.sleep(0.001)
    return descriptors


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def container_groups(name: str, places: Sequence[str] | None = None) -> list[str]:
    """Return the directories of all control groups of a container, in every hierarchy.

    :param places: where they were made, as `nest` said; without it, at the top.
    """
    wanted = (f"lxc.payload.{name}", f"lxc.monitor.{name}")
    found = []
    for place in tops() if places is None else places:
        found += [f"{place}/{group}" for group in wanted if os.path.isdir(f"{place}/{group}")]
        if place.endswith(f"/{name}") and os.path.isdir(place):
            found.append(place)
    return found


def _subdirectories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def members(name: str, places: Sequence[str] | None = None) -> list[int]:
    """Return the host pids of a container's processes, as far as they are in its own control group."""
    for group in container_groups(name, places):
        if "lxc.payload." in group:
            try:
                with open(f"{group}/cgroup.procs", encoding="ascii") as file:
                    return [int(line) for line in file]
            except OSError:  # it is just being removed
                return []
    return []


def remove_container_groups(name: str, places: Sequence[str] | None = None, *, patience: float = 5.0) -> list[str]:
    """Kill what still runs in a dead container's groups, and remove them; return those that stayed.

    :param places: see `container_groups`.
    :param patience: seconds to wait for killed processes to be gone.
    """
    deadline = time.monotonic() + patience
    remaining = container_groups(name, places)
    for place in remaining:
        if place.endswith(f"/{name}") and place in own_groups():  # `nest` has put this process there
            _write(f"{os.path.dirname(place)}/cgroup.procs", "0")
    while remaining:
        for top in remaining:
            for directory, _, _ in os.walk(top, topdown=False):
                _kill_members(directory)
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        remaining = container_groups(name, places)
        if not remaining or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for place in set(places or ()).difference(tops()):
        _remove_pivot(place)
    return remaining


def _remove_pivot(place: str) -> None:
    """Remove what LXC leaves in a group, if no other container is there: the last one does it."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # it is gone with all that was in it
        return
    try:
        if _lock(descriptor, fcntl.LOCK_EX):
            with contextlib.suppress(OSError):  # another container's monitor is in it, on its way out
                os.rmdir(f"{place}/{_PIVOT}")
    finally:
        os.close(descriptor)


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
