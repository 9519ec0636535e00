"""Owns the use cases of setup sessions: open, enter, run a command, look at, close."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from envkit.drivers import cgroup, hostconfig, lxc, process
from envkit.drivers.mount import enter_private_namespace
from envkit.drivers.subids import container_range
from envkit.errors import Conflict, InvalidInput
from envkit.model.idmap import shifted
from envkit.model.ids import BASE_OWNER, EnvName, EnvRef
from envkit.model.session import Session
from envkit.model.version import VersionKind
from envkit.node import session as sessions
from envkit.node.instance import clean_container, container_name, prepare, sweep
from envkit.node.rootfs import Rootfs
from envkit.node.unfinished import sweep_unfinished
from envkit.overlay.changes import changed
from envkit.services.container import base_variables, container_files, network_for, on_terminal, open_stack
from envkit.services.context import Context, require_root
from envkit.services.environments import now
from envkit.services.layers import layer_images
from envkit.services.save import has_unsaved_changes
from envkit.store import versions

_SHELL = 'cd "$HOME"; if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi'
_COMMAND = 'cd "$0" && exec "$@"'
INJECTED = ("etc/machine-id", "etc/hostname", "etc/hosts", "etc/resolv.conf")
"""What every start writes into a session's root; not a change that the user made."""


@dataclass(frozen=True)
class Status:
    """A session as a user sees it: files and bytes that a save would look at, and the version last saved."""

    session: Session
    running: bool
    files: int
    bytes: int
    unsaved: bool


def create(context: Context, name: str, *, base: str | None, origin: str | None, description: str = "") -> Session:
    """Open a session on a new environment over a base, or on a copy or continuation of an existing one.

    :param base: a base as `name[@version]`; exactly one of `base` and `origin` is given.
    :raises Conflict: the name is taken, or its session is open.
    """
    require_root("opening a session")
    env = EnvRef.parse(name, owner=context.owner).env
    if env.is_base:
        raise InvalidInput(f"the owner {BASE_OWNER!r} is for bases", resolution="use `envkit base build`")
    if (base is None) == (origin is None):
        raise InvalidInput("give one of --base and --from", resolution="envkit base list shows the bases")
    prepare(context.paths)
    sweep(context.paths)
    sessions.sweep_sessions(context.paths)
    sweep_unfinished(context.paths)
    if os.path.isdir(context.paths.session(env)):
        raise sessions.SessionOpen(env)
    if base is not None:
        parent = versions.resolve(context.store, EnvRef.parse(base, owner=BASE_OWNER))
    else:
        parent = versions.resolve(context.store, context.ref(origin or ""))
    if parent.env != env and versions.latest(context.store, env) is not None:
        raise Conflict(
            f"the environment {env} exists",
            resolution=f"choose another name, or go on with it: envkit create {env.name} --from {env.name}",
        )
    session = Session(
        env=env,
        identity=os.urandom(5).hex(),
        base=str(parent) if parent.kind is VersionKind.BASE else parent.base or "",
        parent=str(parent),
        layers=parent.layers,
        arch=parent.arch or platform.machine(),
        needs=parent.needs,
        known=versions.next_number(context.store, env) - 1,
        description=description,
        created=now(),
    )
    sessions.create_session(context.paths, session)
    try:
        start(context, session)
    except BaseException:
        # Nothing of the user's is in it yet; a session that never ran would only stand in the way of the next try.
        sessions.stop_session(context.paths, session)
        sessions.remove_session(context.paths, session)
        raise
    return session


def start(context: Context, session: Session) -> None:
    """Make sure that a session's container runs; after a crash or a reboot it starts over the same upper directory."""
    paths = context.paths
    prepare(paths)
    with sessions.session_lock(paths, session.env):
        name = container_name(session.identity)
        if sessions.is_running(paths, session):
            cgroup.thaw(name)  # a save that was killed may have left it frozen
            return
        clean_container(name)
        images = layer_images(context, session.layers)
        directory = paths.session(session.env)
        ids = shifted(container_range())
        enter_private_namespace()
        try:
            root = open_stack(context, images, directory, ids, session=True)
        finally:
            images.close()
        network = network_for(context, "nat")
        with Rootfs(root, ids) as rootfs:
            rootfs.mount_tmpfs("/run")
            container_files(rootfs, hostname=session.env.name, network=network)
            for file, content in borrowed().files.items():
                rootfs.replace_file(f"{hostconfig.DIRECTORY}/{file}", content)
        config = lxc.ContainerConfig(
            name=name,
            hostname=session.env.name,
            rootfs=root,
            ids=ids,
            network=network.interface,
            environment=tuple(base_variables(user="root", home="/root").items()),
            session=True,
        )
        sessions.start_monitor(paths, session, lxc.write_config(config, directory))


def borrowed() -> hostconfig.Borrowed:
    """Return what sessions borrow from their host: certificates, package settings, proxies."""
    return hostconfig.borrow(os.environ, home=os.path.expanduser("~"))


def shell(context: Context, name: str) -> int:
    """Open a root shell in a session; return its exit code. Leaving it does not end the session."""
    return _attach(context, _running(context, name), ["/bin/sh", "-c", _SHELL])


def execute(context: Context, name: str, command: Sequence[str], *, directory: str = "/root") -> int:
    """Run a command as root in a session; return its exit code, 126 or 127 where it cannot run."""
    return _attach(context, _running(context, name), ["/bin/sh", "-c", _COMMAND, directory, *command])


def _running(context: Context, name: str) -> Session:
    require_root("entering a session")
    session = sessions.load_session(context.paths, EnvRef.parse(name, owner=context.owner).env)
    start(context, session)
    return session


def _attach(context: Context, session: Session, command: Sequence[str]) -> int:
    argv = attach_argv(context, session, command)
    return process.wait_ignoring_interrupts(process.spawn(argv[0], argv, env=lxc.environment()))


def attach_argv(context: Context, session: Session, command: Sequence[str]) -> list[str]:
    """Return the argv that runs a command as root in a running session."""
    variables = base_variables(user="root", home="/root") | dict(borrowed().variables)
    if not on_terminal():
        variables["DEBIAN_FRONTEND"] = "noninteractive"
    return lxc.attach_argv(
        container_name(session.identity),
        lxc_path=context.paths.lxc,
        variables=variables | {"ENVKIT_SESSION": str(session.env)},
        log=f"{context.paths.session(session.env)}/attach.log",
        command=command,
    )


def status(context: Context, name: str | None) -> list[Status]:
    """Return the state of one session, or of all."""
    require_root("looking at sessions")
    if name is None:
        found = sessions.list_sessions(context.paths)
    else:
        found = [sessions.load_session(context.paths, EnvRef.parse(name, owner=context.owner).env)]
    result = []
    for session in found:
        upper = f"{context.paths.session(session.env)}/upper"
        files, size = changed(upper) if os.path.isdir(upper) else (0, 0)
        injected = [path for name in INJECTED if os.path.lexists(path := f"{upper}/{name}")]
        state = Status(
            session=session,
            running=sessions.is_running(context.paths, session),
            files=files - len(injected),
            bytes=size - sum(os.lstat(path).st_size for path in injected),
            unsaved=has_unsaved_changes(context, session),
        )
        result.append(state)
    return result


def status_json(state: Status) -> dict[str, object]:
    """Return a status for `--json`."""
    session = state.session
    return {
        "session": str(session.env),
        "running": state.running,
        "on": session.parent,
        "description": session.description,
        "created": session.created,
        "files": state.files,
        "bytes": state.bytes,
        "saved": None if session.saved is None or session.saved.under else session.saved.number,
        "saved_as": None if session.saved is None else session.saved.under,
        "unsaved": state.unsaved,
    }


def close(context: Context, name: str, *, discard: bool) -> EnvName:
    """End a session and remove its upper directory.

    :raises Conflict: it has changes that no version holds, and `discard` is off.
    """
    require_root("closing a session")
    session = sessions.load_session(context.paths, EnvRef.parse(name, owner=context.owner).env)
    with sessions.session_lock(context.paths, session.env):
        if not discard and has_unsaved_changes(context, session):
            raise Conflict(
                f"the session on {session.env} has unsaved changes",
                resolution=f"`envkit save {session.env.name}`, or `envkit close {session.env.name} --discard`",
            )
        sessions.stop_session(context.paths, session)
        sessions.remove_session(context.paths, session)
    return session.env
