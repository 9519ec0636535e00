"""Owns joining a running task: a command beside it in its container, and waiting until it listens on a port.

Who asks sits anywhere, the container on a node. So the queue starts the hidden command `envkit enter` there, which
finds the container by the note that the task has left in its instance (see `node/instance.py`).
"""

import json
import os
import re
import shlex
import time
from collections.abc import Sequence

from envkit.drivers import lxc, process, sockets
from envkit.drivers.files import read_text
from envkit.errors import EXIT_TIMEOUT, EnvkitError, NotFound, Unavailable
from envkit.model.jobid import TaskId
from envkit.model.record import Record
from envkit.model.task import State
from envkit.node.account import invoking_user
from envkit.node.instance import container_name, find_task
from envkit.queues.queue import JobOver
from envkit.services.container import on_terminal
from envkit.services.context import Context, require_root
from envkit.services.jobs.ending import check_owner
from envkit.services.jobs.following import Book, Followed, Task
from envkit.services.jobs.submitting import is_local, node_flags, this_program
from envkit.services.jobs.waiting import wait

_AS_ROOT = 'test "$(id -u)" -eq 0 || set -- sudo -n "$@"; exec "$@"'
# Variables come on a descriptor: everybody on the node sees an argv, and there may be secrets in them.
_VARIABLES = 9
_READ = f'while IFS= read -r pair; do export "$pair"; done <&{_VARIABLES}; exec {_VARIABLES}<&-;'
_SHELL = f'{_READ} cd "$0" 2>/dev/null; if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi'
_COMMAND = f'{_READ} cd "$0" && exec "$@"'
_START = 120.0
"""Seconds that a task may take from being started to having its container."""
_PAUSE = 0.2
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_CONF = 4 << 20


class Endpoint(Record):
    """Where a port of a task can be reached; `host` None: nowhere but inside; `note` says what limits it."""

    host: str | None
    port: int
    note: str = ""


class PortSilent(EnvkitError):
    """Nothing listened on a port in time."""

    exit_code = EXIT_TIMEOUT

    def __init__(self, task: TaskId, port: int, seconds: float) -> None:
        super().__init__(f"nothing in {task} listens on port {port} after {seconds:.0f} s")


def ssh(context: Context, name: TaskId, command: Sequence[str]) -> int:
    """Open a shell, or run a command, beside a running task; return its exit code.

    :raises JobOver: the task does not run.
    """
    book = Book(context)
    job, task = _running(book, name)
    argv = _inside(context, book, job, task, ["--", *command] if command else [], terminal=on_terminal())
    return process.wait_ignoring_interrupts(process.spawn(argv[0], argv, env=os.environ))


def wait_port(context: Context, name: TaskId, port: int, *, timeout: float | None = None) -> Endpoint:
    """Wait until something in a task listens on a TCP port; return where it can be reached.

    :raises PortSilent: nothing did in time.
    :raises JobOver: the task ended before.
    """
    began = time.monotonic()
    found, reached = wait(
        context, [name], timeout=timeout, until=lambda task: task.state.over or task.state is State.RUNNING
    )
    if not reached:
        raise PortSilent(name, port, timeout or 0)
    book = Book(context)
    job, task = _only(found, name)
    if task.state.over:
        raise _over(task)
    words = ["--port", str(port)]
    if timeout is not None:
        words += ["--timeout", f"{max(1.0, timeout - (time.monotonic() - began)):.1f}"]
    argv = _inside(context, book, job, task, words, terminal=False)
    result = process.run(argv, env=os.environ, check=False)
    if result.code == EXIT_TIMEOUT:
        raise PortSilent(name, port, timeout or 0)
    try:
        told = json.loads(result.stdout)
        return Endpoint(host=told["host"], port=port, note=str(told["note"]))
    except (ValueError, TypeError, KeyError) as error:
        now, _ = wait(context, [name], timeout=0.0)
        if _only(now, name)[1].state.over:
            raise _over(_only(now, name)[1]) from error
        lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
        raise EnvkitError(
            f"cannot look into {name} on its node", details="\n".join(lines[:5]) or f"exit code {result.code}"
        ) from error


def enter(context: Context, owner: str, token: str, index: int, command: Sequence[str]) -> int:
    """Run a command in the container of a task that runs on this node, as the task does; return its exit code."""
    directory = _found(context, owner, token, index, time.monotonic() + _START)
    settings = _Settings(directory)
    variables = dict(settings.variables)
    if on_terminal():
        variables["TERM"] = os.environ.get("TERM") or "dumb"
    own = lxc.environment()
    hidden = {name: value for name, value in variables.items() if name not in own and _IDENTIFIER.fullmatch(name)}
    argv = lxc.attach_argv(
        container_name(os.path.basename(directory)),
        lxc_path=context.paths.lxc,
        variables={name: value for name, value in variables.items() if name not in hidden},
        log=f"{directory}/attach.log",
        command=["/bin/sh", "-c", _COMMAND if command else _SHELL, settings.directory, *command],
        user=(settings.uid, settings.gid),
    )
    listed = os.memfd_create("variables")
    text = "".join(f"{name}={value}\n" for name, value in hidden.items())
    os.pwrite(listed, text.encode("utf-8", "surrogateescape"), 0)

    def hand_over() -> None:
        os.dup2(listed, _VARIABLES)
        os.set_inheritable(_VARIABLES, True)  # noqa: FBT003  # takes no keyword

    return process.wait_ignoring_interrupts(process.spawn(argv[0], argv, env=own, before_exec=hand_over))


def listening(context: Context, owner: str, token: str, index: int, port: int, timeout: float | None) -> Endpoint:
    """Wait until something in a task on this node listens on a TCP port.

    :raises PortSilent: nothing did in time.
    :raises NotFound: the task ended, or is not here.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    patience = time.monotonic() + _START
    directory = _found(context, owner, token, index, patience if deadline is None else min(patience, deadline))
    settings = _Settings(directory)
    name = container_name(os.path.basename(directory))
    while True:
        pid = lxc.init_pid(name, lxc_path=context.paths.lxc)
        addresses = sockets.listening(pid, port) if pid is not None else []
        if addresses:
            return settings.endpoint(addresses, port)
        if find_task(context.paths, owner, token, index) != directory:
            raise NotFound("the task ended")
        if deadline is not None and time.monotonic() > deadline:
            raise PortSilent(TaskId(job=0, index=index), port, timeout or 0)
        time.sleep(_PAUSE)


class _Settings:
    """What the configuration of a container says of the task in it: as who, where, with which variables."""

    def __init__(self, directory: str) -> None:
        self.uid = self.gid = 0
        self.directory = "/"
        self.variables: list[tuple[str, str]] = []
        self._net: dict[str, str] = {}
        for line in read_text(f"{directory}/lxc.conf", _MAX_CONF).splitlines():
            key, _, value = line.partition(" = ")
            if key in ("lxc.init.uid", "lxc.init.gid"):
                setattr(self, key.rpartition(".")[2], int(value))
            elif key == "lxc.init.cwd":
                self.directory = value
            elif key == "lxc.environment":
                name, _, text = value[1:-1].partition("=")
                self.variables.append((name, text))
            elif key.startswith("lxc.net.0."):
                self._net[key.removeprefix("lxc.net.0.")] = value

    def endpoint(self, addresses: list[str], port: int) -> Endpoint:
        """Return where a port that is open on some addresses of the container can be reached."""
        local = all(sockets.is_loopback(address) for address in addresses)
        kind = self._net.get("type")
        if kind == "none":  # LXC's word for the host's network
            node = os.uname().nodename
            host = "127.0.0.1" if local else node
            return Endpoint(host=host, port=port, note=f"on {node} only: it listens on loopback" if local else "")
        if kind == "veth" and not local:
            return Endpoint(
                host=self._net["ipv4.address"].partition("/")[0], port=port, note=f"from {os.uname().nodename} only"
            )
        why = "it listens on loopback" if kind == "veth" else "the job has no network"
        return Endpoint(host=None, port=port, note=f"{why}; use `envkit ssh`")


def _found(context: Context, owner: str, token: str, index: int, deadline: float) -> str:
    """Return the directory of a task's instance, of a task whose container just starts a bit later.

    :raises NotFound: it is not here.
    """
    require_root("entering a job")
    account = invoking_user()
    if account.uid and account.name != owner:
        raise Unavailable(f"the jobs of {owner} are not yours to enter", resolution="only root may")
    while True:
        directory = find_task(context.paths, owner, token, index)
        # The note is there before the container; its configuration says that it is about to run.
        if directory is not None and os.path.exists(f"{directory}/lxc.conf"):
            name = container_name(os.path.basename(directory))
            if lxc.init_pid(name, lxc_path=context.paths.lxc) is not None:
                return directory
        if time.monotonic() > deadline:
            raise NotFound("this task does not run on this node", resolution="see `envkit jobs`")
        time.sleep(_PAUSE)


def _running(book: Book, name: TaskId) -> tuple[Followed, Task]:
    job, task = _only(book.jobs([name]), name)
    if task.state.over:
        raise _over(task)
    if task.state is not State.RUNNING:
        raise JobOver(f"{name} does not run yet: it is {task.state.value}", resolution="see `envkit jobs`")
    return job, task


def _only(found: Sequence[Followed], name: TaskId) -> tuple[Followed, Task]:
    """Return the one task that a name means."""
    job = found[0]
    if len(job.tasks) != 1:
        raise NotFound(f"job {name} has {len(job.tasks)} tasks", resolution=f"name one of them, as in {name.job}_0")
    return job, job.tasks[0]


def _over(task: Task) -> JobOver:
    code = "" if task.code is None else f", exit code {task.code}"
    return JobOver(f"{task.id} is over: {task.state.value}{code}", resolution=f"see `envkit logs {task.id}`")


def _inside(
    context: Context, book: Book, job: Followed, task: Task, words: Sequence[str], *, terminal: bool
) -> list[str]:
    """Return the command that runs `envkit enter` beside a task, on its node, as root."""
    check_owner(job)
    local = is_local(book.queue)
    program = shlex.split(this_program()) if local else [context.config.node_program]
    options = [word for word in words if word != "--"] if words[:1] != ["--"] else []
    rest = list(words) if words[:1] == ["--"] else []
    place = [job.owner, job.ticket.token, str(task.index)]
    argv = [*program, *node_flags(context, local=local), "enter", *options, *place, *rest]
    return book.queue.inside(task.id, ["/bin/sh", "-c", _AS_ROOT, "sh", *argv], terminal=terminal)
