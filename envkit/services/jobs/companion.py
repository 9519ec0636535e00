"""Owns the process that keeps a task's command company: forked early, told later what to run, its output in pipes.

Early, because the client of a store in a bucket has threads, which a fork would not take along.
"""

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from envkit.drivers import libc, process
from envkit.drivers.caller import Caller
from envkit.errors import EXIT_RUN_FAILED, EXIT_TIMEOUT, EnvkitError
from envkit.model.job import Job, Volume
from envkit.model.order import Kind, Order, order_from_json, order_to_json
from envkit.model.record import Record
from envkit.node.instance import TaskNote
from envkit.services.context import Context
from envkit.services.jobs.output import STREAMS
from envkit.services.jobs.taskwork import version_of
from envkit.services.run import Additions, run_version

_BLOCK = 64 * 1024
_MAX_ERROR = 2000
_MAX_REPORT = 48 * 1024
"""Less than a pipe holds, so that nobody has to read while it is written."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Report(Record):
    """What became of a command: exit code, envkit's own line if it failed, and what its environment has cost."""

    code: int
    error: str = ""
    cost: dict[str, object] = {}


class Companion:
    """The process, as its parent sees it; it dies with its parent, whatever kills that."""

    def __init__(self, context: Context) -> None:
        """Start it; until `begin` it does nothing. Call this before anything asks for the store."""
        pipes = {name: os.pipe() for name in ("work", "report", *STREAMS)}
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _Child(context, parent, pipes).live()
            finally:
                os._exit(EXIT_RUN_FAILED)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        self._silent = self._told = False
        self._work = pipes["work"][1]
        self._report = pipes["report"][0]
        self._streams = {pipes[name][0]: name for name in STREAMS}
        self._process = os.pidfd_open(self.pid)
        for descriptor in (pipes["work"][0], pipes["report"][1], *(pipes[name][1] for name in STREAMS)):
            os.close(descriptor)

    def begin(self, order: Order, job: Job, added: Additions) -> None:
        """Have it run a job in the version that an order pins."""
        # Only what running needs: the parameters of thousands of tasks would have to be read again.
        slim = order.replace(job=job, kind=Kind.COMMAND, count=1, names=(), rows=(), input=None)
        message = {
            "order": order_to_json(slim).decode(),
            "binds": [[bind.source, bind.target, bind.read_only] for bind in added.binds],
            "variables": added.variables,
            "note": added.note and [getattr(added.note, name) for name in TaskNote._fields],
            "hostname": added.hostname,
        }
        self._tell(message)

    def begin_program(self, argv: Sequence[str], environment: Mapping[str, str], caller: Caller) -> None:
        """Have it become a program of the host instead, as the caller; that leaves no more than its exit code."""
        self._silent = True
        user = {name: getattr(caller, name) for name in Caller._fields}
        self._tell({"argv": list(argv), "environment": dict(environment), "caller": user})

    def _tell(self, message: Mapping[str, object]) -> None:
        self._told = True
        with open(self._work, "wb") as pipe:
            pipe.write(json.dumps(message).encode())

    def follow(self, take: Callable[[str, bytes], None]) -> Report:
        """Hand on what the command prints until it ends.

        :param take: gets the name of a stream and what came.
        """
        poll = select.poll()
        for descriptor in self._streams:
            os.set_blocking(descriptor, False)
            poll.register(descriptor, select.POLLIN)
        poll.register(self._process, select.POLLIN)
        ended = False
        while not ended:
            for descriptor, _ in poll.poll():
                if descriptor == self._process:
                    ended = True
                elif not self._read(descriptor, take):
                    poll.unregister(descriptor)
        for descriptor in self._streams:  # what nobody has read yet; nothing more comes
            while self._read(descriptor, take):
                pass
        return self._end()

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, number)

    def discard(self) -> None:
        """End it without having told it anything; nothing happens if it was told."""
        if not self._told:
            os.close(self._work)
            os.waitpid(self.pid, 0)

    def _read(self, descriptor: int, take: Callable[[str, bytes], None]) -> bool:
        """Hand on what there is; False where there is nothing now, or nothing more."""
        try:
            data = os.read(descriptor, _BLOCK)
        except BlockingIOError:
            return False
        if data:
            take(self._streams[descriptor], data)
        return bool(data)

    def _end(self) -> Report:
        with open(self._report, "rb") as pipe:
            told = pipe.read(_MAX_REPORT)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if not told:
            code = 128 - status if status < 0 else status
            if self._silent:
                return Report(code=code)
            name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            return Report(code=code, error=f"envkit itself was ended by {name}")
        return Report(**json.loads(told))


class _Child:
    """The process itself."""

    def __init__(self, context: Context, parent: int, pipes: dict[str, tuple[int, int]]) -> None:
        self._context = context
        self._parent = parent
        self._work, self._report = pipes["work"][0], pipes["report"][1]
        self._streams = {number: pipes[name][1] for number, name in enumerate(STREAMS, start=1)}
        ours = {self._work, self._report, *self._streams.values()}
        for descriptor in {end for pipe in pipes.values() for end in pipe} - ours:
            os.close(descriptor)

    def live(self) -> None:
        libc.die_with_parent(signal.SIGKILL)
        if os.getppid() != self._parent:  # it died before that took effect
            return
        for forwarded in FORWARDED:
            signal.signal(forwarded, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        with open(self._work, "rb") as pipe:
            told = pipe.read()
        if not told:
            return
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        for number, descriptor in self._streams.items():
            os.dup2(descriptor, number)
            os.close(descriptor)
        work = json.loads(told)
        if "argv" in work:
            try:
                process.become(work["argv"], work["environment"], Caller(**work["caller"]))
            except OSError as error:
                os.write(2, f"error: cannot start {work['argv'][0]}: {error.strerror}\n".encode())
                return
        report = self._run(work)
        sys.stdout.flush()
        sys.stderr.flush()
        document = {"code": report.code, "error": report.error[:_MAX_ERROR], "cost": report.cost}
        data = json.dumps(document).encode()
        if len(data) > _MAX_REPORT:
            data = json.dumps({**document, "cost": {}}).encode()
        os.write(self._report, data)
        os._exit(report.code)

    def _run(self, told: dict[str, object]) -> Report:
        try:
            order = order_from_json(str(told["order"]).encode(), where="the order")
            outcome = run_version(self._context, order.job, version_of(order), _additions(told))
        except EnvkitError as error:
            if error.exit_code < EXIT_TIMEOUT:
                error.exit_code = EXIT_RUN_FAILED
            lines = [f"error: {error.brief}", *(error.details or "").splitlines()]
            if error.resolution:
                lines.append(f"hint: {error.resolution}")
            os.write(2, "".join(f"{_printable(line)}\n" for line in lines).encode())
            return Report(code=error.exit_code, error=_printable(error.brief))
        except BaseException as error:  # noqa: BLE001  # a mistake in envkit: all of it goes to where output goes
            import traceback

            traceback.print_exc()
            return Report(code=EXIT_RUN_FAILED, error=f"envkit failed: {type(error).__name__}: {error}")
        reasons = outcome.cost.get("refused_because")
        told_why = ""
        if reasons and isinstance(reasons, list):  # of which the command knows no more than "Input/output error"
            told_why = _printable(f"reads of {order.reference} failed: {reasons[0]}")
            os.write(2, f"note: {told_why}\n".encode())
        return Report(code=outcome.code, error=told_why if outcome.code else "", cost=outcome.cost)


def _additions(told: dict[str, object]) -> Additions:
    binds, variables, note = told["binds"], told["variables"], told["note"]
    assert isinstance(binds, list)  # noqa: S101  # the parent wrote it
    assert isinstance(variables, list)  # noqa: S101
    return Additions(
        binds=tuple(Volume(source=source, target=target, read_only=mode) for source, target, mode in binds),
        variables=tuple((name, value) for name, value in variables),
        note=TaskNote(**dict(zip(TaskNote._fields, note, strict=True))) if isinstance(note, list) else None,
        hostname=str(told["hostname"]) if told["hostname"] else None,
    )


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
