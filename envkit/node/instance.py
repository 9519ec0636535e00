"""Owns the instance: one running container's directory, lock and record, and the sweep that removes dead ones.

An instance is alive as long as its lock is held (a job: by envkit itself) or its recorded process lives (a session:
LXC's monitor, which outlives the terminal). Whatever else is left of it, the next command removes: nothing has to be
repaired by hand after a kill or a power cut.
"""

import contextlib
import os

from envkit.drivers import cgroup, process
from envkit.drivers.files import is_locked, locked, make_directory, remove_tree, try_lock
from envkit.errors import EnvkitError
from envkit.model.ids import is_digest
from envkit.model.paths import Paths
from envkit.model.record import Record

_MAX_HOLDER = 64 * 1024


def prepare(paths: Paths) -> None:
    """Create the directories of `Paths` that containers need, with their modes, where they are missing."""
    make_directory(paths.root, mode=0o700)
    make_directory(paths.runs, mode=0o700)
    make_directory(paths.run, mode=0o755)
    make_directory(paths.mnt, mode=0o755)
    make_directory(paths.lxc, mode=0o755)  # LXC demands that the container's root can reach it


class Holder(Record):
    """The process in whose mount namespace an instance's layers are mounted: pid, start time, digests of its layers."""

    pid: int
    started: int
    layers: tuple[str, ...]

    @property
    def alive(self) -> bool:
        return process.is_alive(self.pid, self.started)


class TaskNote(Record):
    """Which task of a submitted job an instance runs."""

    owner: str
    token: str
    index: int
    attempt: int


class Instance:
    """A job's directory below `runs/`, locked by this process until `remove` or its end."""

    def __init__(self, paths: Paths, identity: str, lock: int) -> None:
        self.name = container_name(identity)
        self.directory = f"{paths.runs}/{identity}"
        self._lock = lock
        self.places: list[str] | None = None
        """Where the container's control groups are, see `cgroup.container_groups`."""
        self._shared: list[int] = []

    @classmethod
    def create(cls, paths: Paths) -> "Instance":
        """Make the directory of a new job and lock it."""
        with locked(paths.lock):  # the sweep looks only under this lock, so it never sees a directory without its lock
            identity = os.urandom(5).hex()
            directory = f"{paths.runs}/{identity}"
            os.mkdir(directory, 0o700)
            lock = try_lock(f"{directory}/lock")
            if lock is None:
                raise EnvkitError(f"the lock of the new directory {directory} is taken")
        return cls(paths, identity, lock)

    def nest(self) -> None:
        """Have the container's control groups below those of this process, and leave word of where that is."""
        self.places = cgroup.own_groups()
        _write_groups(self.directory, [*self.places, *(f"{place}/{self.name}" for place in self.places)])
        self.places = cgroup.nest(self.name)
        self._shared = cgroup.share(self.places)

    def note_task(self, note: TaskNote) -> None:
        """Leave word which task this is, for who wants to enter its container."""
        words = f"{note.owner} {note.token} {note.index} {note.attempt}\n"
        path = f"{self.directory}/task"
        with open(f"{path}.new", "w", encoding="utf-8") as file:  # no fsync: means nothing after a reboot
            file.write(words)
        os.replace(f"{path}.new", path)

    def remove(self) -> None:
        """Remove what the job leaves behind: its control groups and its directory."""
        while self._shared:
            os.close(self._shared.pop())
        clean_container(self.name, self.places)
        remove_tree(self.directory)
        os.close(self._lock)


def container_name(identity: str) -> str:
    """Return LXC's name for a container; the prefix keeps envkit's apart from others."""
    return f"envkit-{identity}"


def write_holder(directory: str, pid: int, layers: tuple[str, ...]) -> None:
    """Record which process holds the mounts of an instance."""
    started = process.start_time(pid)
    if started is None:
        raise EnvkitError("the container ended before it had started")
    text = "\n".join([str(pid), str(started), *layers]) + "\n"
    path = f"{directory}/holder"
    with open(f"{path}.new", "w", encoding="ascii") as file:  # no fsync: the record means nothing after a reboot
        file.write(text)
    os.replace(f"{path}.new", path)


def read_holder(directory: str) -> Holder | None:
    """Return an instance's record, or None where there is none or it is not whole."""
    try:
        with open(f"{directory}/holder", encoding="ascii", errors="replace") as file:
            lines = file.read(_MAX_HOLDER).split()
    except OSError:
        return None
    if len(lines) < 2 or not (lines[0].isdigit() and lines[1].isdigit()):
        return None
    return Holder(pid=int(lines[0]), started=int(lines[1]), layers=tuple(filter(is_digest, lines[2:])))


def find_task(paths: Paths, owner: str, token: str, index: int) -> str | None:
    """Return the directory of the instance that runs a task here, of several attempts the last; None if none does."""
    found: list[tuple[int, str]] = []
    for directory in _job_directories(paths):
        try:
            with open(f"{directory}/task", encoding="utf-8") as file:
                words = file.read(_MAX_HOLDER).split()
        except OSError:
            continue
        if words[:3] == [owner, token, str(index)] and len(words) == 4 and is_locked(f"{directory}/lock"):
            found.append((int(words[3]), directory))
    return max(found)[1] if found else None


def live_holders(paths: Paths) -> list[Holder]:
    """Return the processes that hold mounted layers now, of jobs and of sessions."""
    directories = [*_job_directories(paths), *session_directories(paths)]
    holders = [read_holder(directory) for directory in directories]
    return [holder for holder in holders if holder is not None and holder.alive]


def live_jobs(paths: Paths) -> list[Holder]:
    """Return the processes that run jobs here now."""
    holders = [read_holder(directory) for directory in _job_directories(paths)]
    return [holder for holder in holders if holder is not None and holder.alive]


def sweep(paths: Paths) -> list[str]:
    """Remove what dead jobs left behind; return the names of those containers."""
    dead: list[Instance] = []
    directories = _job_directories(paths)
    if not directories:
        return []
    with locked(paths.lock):
        for directory in directories:
            with contextlib.suppress(OSError):  # it may just have been removed
                lock = try_lock(f"{directory}/lock")
                if lock is not None:
                    instance = Instance(paths, os.path.basename(directory), lock)
                    instance.places = _read_groups(directory)
                    dead.append(instance)
    for instance in dead:
        instance.remove()
    return [instance.name for instance in dead]


def dead_jobs(paths: Paths) -> list[str]:
    """Return the directories of jobs that nobody runs any more."""
    return [directory for directory in _job_directories(paths) if not is_locked(f"{directory}/lock")]


def _write_groups(directory: str, places: list[str]) -> None:
    path = f"{directory}/groups"
    with open(f"{path}.new", "w", encoding="utf-8") as file:  # no fsync: groups do not outlive a reboot
        file.write("".join(f"{place}\n" for place in places))
    os.replace(f"{path}.new", path)


def _read_groups(directory: str) -> list[str] | None:
    try:
        with open(f"{directory}/groups", encoding="utf-8") as file:
            return file.read(_MAX_HOLDER).splitlines()
    except OSError:  # it was killed before it had any
        return None


def clean_container(name: str, places: list[str] | None = None) -> None:
    """Remove the control groups of a dead container, and what still runs in them.

    :param places: where they are, see `cgroup.container_groups`.
    :raises EnvkitError: some stayed.
    """
    remaining = cgroup.remove_container_groups(name, places)
    if remaining:
        raise EnvkitError(
            f"cannot remove the control group {remaining[0]}", resolution="see which processes are in its cgroup.procs"
        )


def session_directories(paths: Paths) -> list[str]:
    """Return the directories of all sessions, open or interrupted."""
    return [session for owner in _subdirectories(paths.sessions) for session in _subdirectories(owner)]


def _job_directories(paths: Paths) -> list[str]:
    return _subdirectories(paths.runs)


def _subdirectories(path: str) -> list[str]:
    try:
        return [f"{path}/{name}" for name in os.listdir(path) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
