"""Owns a session on this machine: its directory, record and lock, and whether its container runs.

Closing the terminal ends nothing: LXC's monitor is detached and holds the mounts. After a crash or a reboot the upper
directory is still there, and the container is started again over it.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from envkit.drivers import cgroup, lxc, process
from envkit.drivers.files import io_error, locked, make_directory, read_bounded, remove_tree, write_atomic
from envkit.drivers.lxc import Files
from envkit.errors import Conflict, EnvkitError, NotFound
from envkit.model.ids import EnvName
from envkit.model.paths import Paths
from envkit.model.session import MAX_SESSION_BYTES, Session, session_from_json, session_to_json
from envkit.node.instance import clean_container, container_name, read_holder, session_directories, write_holder

_INIT = ("/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 86400 & wait $!; done")
_START_PATIENCE = 60.0


class SessionOpen(Conflict):
    """There is a session on this environment already."""

    def __init__(self, env: EnvName) -> None:
        super().__init__(
            f"a session on {env} is open already",
            resolution=f"enter it with `envkit shell {env.name}`, or end it with `envkit close {env.name}`",
        )


class NoSession(NotFound):
    """There is no session on this environment."""

    def __init__(self, env: EnvName) -> None:
        super().__init__(
            f"no session on {env} is open",
            resolution=f"open one: `envkit create {env.name} --base BASE`, or `--from {env.name}` to go on with a save",
        )


def create_session(paths: Paths, session: Session) -> None:
    """Write a new session's directory, whole or not at all.

    :raises SessionOpen: there is one of that name.
    """
    directory = paths.session(session.env)
    unfinished = f"{os.path.dirname(directory)}/.{session.env.name}.{os.getpid()}"
    make_directory(unfinished)
    try:
        write_atomic(f"{unfinished}/session.json", session_to_json(session))
        os.rename(unfinished, directory)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise SessionOpen(session.env) from error
        raise io_error(f"create {directory}", error) from error
    finally:
        remove_tree(unfinished)


def load_session(paths: Paths, env: EnvName) -> Session:
    """Return a session's record; raise NoSession."""
    where = f"{paths.session(env)}/session.json"
    data = read_bounded(where, MAX_SESSION_BYTES)
    if data is None:
        raise NoSession(env)
    return session_from_json(data, where=where)


def list_sessions(paths: Paths) -> list[Session]:
    """Return all sessions of this machine, ordered by name."""
    names = []
    for directory in session_directories(paths):
        with contextlib.suppress(EnvkitError):  # a foreign directory is no session
            owner, name = directory.split("/")[-2:]
            names.append(EnvName(owner=owner, name=name))
    sessions = []
    for env in sorted(names, key=str):
        with contextlib.suppress(NoSession):
            sessions.append(load_session(paths, env))
    return sessions


def update_session(paths: Paths, session: Session) -> None:
    """Replace a session's record."""
    write_atomic(f"{paths.session(session.env)}/session.json", session_to_json(session))


@contextlib.contextmanager
def session_lock(paths: Paths, env: EnvName) -> Iterator[None]:
    """Hold a session's lock: one start, save or close at a time."""
    directory = paths.session(env)
    if not os.path.isdir(directory):
        raise NoSession(env)
    with locked(f"{directory}/lock"):
        yield


def is_running(paths: Paths, session: Session) -> bool:
    """Tell whether a session's container runs."""
    holder = read_holder(paths.session(session.env))
    return holder is not None and holder.alive


def start_monitor(paths: Paths, session: Session, files: Files) -> None:
    """Start a session's container, detached from this process, and wait until it is up.

    This process must have mounted the stack in its private namespace.

    :raises EnvkitError: it did not come up, with what LXC said.
    """
    directory = paths.session(session.env)
    layers = tuple(layer.tree for layer in session.layers)
    name = container_name(session.identity)
    argv = lxc.execute_argv(name, lxc_path=paths.lxc, files=files, command=_INIT)
    monitor = process.spawn(
        argv[0],
        argv,
        env=lxc.environment(),
        detach=True,
        # Recorded before LXC exists, by the process that becomes it: no kill can leave a container without a record.
        before_exec=lambda: write_holder(directory, os.getpid(), layers),
    )
    came_up = lxc.wait_until_running(
        name, lxc_path=paths.lxc, timeout=_START_PATIENCE, alive=lambda: process.start_time(monitor) is not None
    )
    if not came_up:
        log = (read_bounded(files.log, 1 << 20) or b"").decode("utf-8", "replace")
        raise EnvkitError(f"the container of {session.env} did not start", details="\n".join(log.splitlines()[-8:]))


def stop_session(paths: Paths, session: Session) -> None:
    """End a session's container, if it runs, and remove what a dead one leaves behind."""
    name = container_name(session.identity)
    if is_running(paths, session):
        cgroup.thaw(name)
        lxc.stop(name, lxc_path=paths.lxc)
    holder = read_holder(paths.session(session.env))
    if holder is not None and holder.alive:
        process.kill_and_wait(holder.pid, holder.started, timeout=10)
    clean_container(name)


def remove_session(paths: Paths, session: Session) -> None:
    """Remove a stopped session with its upper directory; first by name, so that a kill in between leaves no half."""
    directory = paths.session(session.env)
    doomed = f"{os.path.dirname(directory)}/.{session.env.name}.closed.{session.identity}"
    os.rename(directory, doomed)
    remove_tree(doomed)


def sweep_sessions(paths: Paths) -> list[str]:
    """Remove sessions whose closing or creation was interrupted; return their directories."""
    removed = []
    with contextlib.suppress(FileNotFoundError):
        for owner in os.listdir(paths.sessions):
            for name in os.listdir(f"{paths.sessions}/{owner}"):
                path = f"{paths.sessions}/{owner}/{name}"
                pid = name.rpartition(".")[2]
                unfinished = pid.isdigit() and process.start_time(int(pid)) is None
                if name.startswith(".") and (".closed." in name or unfinished):
                    remove_tree(path)
                    removed.append(path)
    return removed
