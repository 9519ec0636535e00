"""Owns the use case `task`: what a queue starts on a node, from an order in the store to a result in the store.

Two processes: one keeps the command company in its container, as `envkit run` does; the other one, its parent, stores
what it prints while it runs, and its result in the end. A store that is away delays that, never the command.
"""

import contextlib
import gc
import os
import signal
import stat
import sys
import time
from collections.abc import Callable

from envkit.drivers.caller import find_caller
from envkit.errors import EXIT_RUN_FAILED, EXIT_TIMEOUT, EnvkitError, InvalidInput
from envkit.model.ids import check_owner, is_digest
from envkit.model.order import TOKEN, Order
from envkit.model.payload import VALUE as VALUE_FILE
from envkit.model.task import MAX_ATTEMPTS, State, TaskResult, result_to_json
from envkit.node.instance import Instance, prepare
from envkit.queues.script import Place
from envkit.services.context import Context, require_root
from envkit.services.jobs.companion import FORWARDED, Companion, Report
from envkit.services.jobs.output import Output
from envkit.services.jobs.ranks import has_ranks, launch
from envkit.services.jobs.taskwork import additions, job_of
from envkit.store import layout, orders
from envkit.store.errors import ObjectNotFound, StoreError
from envkit.store.orders import MAX_VALUE, RESULT, VALUE

_PATIENCE = 600.0
"""Seconds for which a store that is away is tried after the command has ended, for each of output, value and result."""
_LAST_SECONDS = 20.0
"""The same where somebody asked the task to end: Slurm kills what is left after KillWait, 30 seconds by default."""
_TRIES = 6
_MAX_ERROR = 2000
_EARLY = 5.0
"""A signal this many seconds before the time is up came because of that: Slurm's clock began before ours."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing that costs more than reading the order
    from typing import TypeVar

    Answer = TypeVar("Answer")


def run_task(context: Context, owner: str, token: str, digest: str, key: bytes, place: Place) -> int:
    """Run a task of an order to its end, and leave its output and result in the store.

    :param digest: of the stored order.
    :param key: of the submission; what the task leaves is sealed with it.
    :returns: the command's exit code; 125, 126 and 127 as `run` has them.
    :raises EnvkitError: the arguments cannot be used, so that nobody waits for a result.
    """
    require_root("running a task")
    check_owner(owner)
    if not TOKEN.fullmatch(token) or not is_digest(digest):
        raise InvalidInput("this is no order", resolution="tasks are started by the queue; use envkit submit")
    if place.attempt > MAX_ATTEMPTS or place.index > 99_999_999:
        raise InvalidInput(f"task {place.index} cannot be started {place.attempt + 1} times")
    if layout.ticket_of(layout.ticket_key(owner, place.queue, place.number)) is None:
        raise InvalidInput(f"job {place.number} of {place.queue!r:.80} is no job of a queue")
    prepare(context.paths)
    companion = Companion(context)
    task = _Task(context, owner, token, key, place, companion)
    with _Signals(task):
        return task.run(digest)


class _Task:
    """One attempt at a task."""

    def __init__(
        self, context: Context, owner: str, token: str, key: bytes, place: Place, companion: Companion
    ) -> None:
        self._context = context
        self._owner, self._token, self._key, self._place = owner, token, key, place
        self._companion = companion
        self._asked: int | None = None
        self._asked_at = 0.0
        self._running = False
        self._output: Output | None = None
        self._began = time.time()

    def signal(self, number: int) -> None:
        """Take a signal: it goes to the command, and one that ends leaves not much time for the rest."""
        if number in _ENDING and self._asked is None:
            self._asked, self._asked_at = number, time.time()
        if self._running:
            self._companion.signal(number)
        elif self._asked is not None and self._output is not None:
            self._output.hurry(_LAST_SECONDS)

    def run(self, digest: str) -> int:
        owner, token, place = self._owner, self._token, self._place
        try:
            order = self._patiently(lambda: orders.get_order(self._context.store, owner, token, digest=digest))
            done = self._patiently(
                lambda: orders.get_result(self._context.store, owner, token, self._key, place.index, place.attempt)
            )
        except EnvkitError as error:
            self._companion.discard()
            error.exit_code = EXIT_RUN_FAILED
            self._leave_failure(error)
            raise
        if done is not None:  # started twice
            self._companion.discard()
            return done.code
        instance = Instance.create(self._context.paths)
        try:
            return self._attempt(order, digest, instance.directory)
        finally:
            instance.remove()

    def _patiently(self, ask: "Callable[[], Answer]") -> "Answer":
        """Ask the store, several times if it is away."""
        wait = 1.0
        for _ in range(_TRIES):
            try:
                return ask()
            except ObjectNotFound:
                raise
            except StoreError:
                if self._asked is not None:
                    raise
                time.sleep(wait)
                wait *= 2
        return ask()

    def _attempt(self, order: Order, digest: str, directory: str) -> int:
        self._output = output = self._new_output(directory)
        try:
            report = self._command(order, digest, directory, output)
        except EnvkitError as error:
            failed = error.exit_code if error.exit_code >= EXIT_TIMEOUT else EXIT_RUN_FAILED
            report = Report(code=failed, error=error.brief)
            output.write("err", f"error: {error.brief}\n".encode())
        except Exception as error:  # noqa: BLE001  # a mistake in envkit: who waits has to know
            import traceback

            report = Report(code=EXIT_RUN_FAILED, error=f"envkit failed: {type(error).__name__}: {error}")
            output.write("err", traceback.format_exc().encode())
        ended = time.time()
        self._running = False
        if self._asked is not None:
            output.hurry(_LAST_SECONDS)
        while (code := self._leave(order, report, ended, directory, output)) is None:
            output.start_again()
        output.close()
        return code

    def _leave(self, order: Order, report: Report, ended: float, directory: str, output: Output) -> int | None:
        """Store what is left of the output, the value and the result; return the task's exit code.

        :returns: None if somebody else has stored a value or a result of this attempt.
        """
        stored = output.finish(_PATIENCE)
        value = False
        if self._asked is None or report.code == 0:
            value, problem = self._value(directory, output)
            if output.taken:
                return None
            if problem:
                report = report.replace(error=problem, code=report.code or EXIT_RUN_FAILED)
        result = TaskResult(
            index=self._place.index,
            attempt=output.attempt,
            state=self._state(order, report.code, ended),
            code=report.code,
            node=_node(),
            began=self._began,
            ended=ended,
            error=report.error[:_MAX_ERROR],
            out=output.sizes["out"],
            err=output.sizes["err"],
            segments=output.segments,
            value=value,
            cost=report.cost,
        )
        if output.put(RESULT, result_to_json(result), _PATIENCE):
            if not stored:
                _complain(f"not all of the output of task {result.index} could be stored: {output.problem}")
        elif output.taken:
            return None
        else:
            _complain(f"the result of task {result.index} could not be stored: {output.problem}")
        return report.code

    def _new_output(self, directory: str) -> Output:
        return Output(
            self._context.store,
            self._owner,
            self._token,
            self._key,
            index=self._place.index,
            attempt=self._place.attempt,
            directory=directory,
        )

    def _command(self, order: Order, digest: str, directory: str, output: Output) -> Report:
        """Run the command, and have its output stored meanwhile."""
        try:
            job = job_of(order, self._place.index, os.environ)
            if has_ranks(order, os.environ):
                argv, environment = launch(self._context, order, digest, self._place)
                self._companion.begin_program(argv, environment, find_caller(os.environ))
            else:
                added = additions(self._context, order, self._place, directory)
                if self._asked is not None:
                    raise EnvkitError(f"ended by {signal.Signals(self._asked).name} before its command began")
                self._companion.begin(order, job, added)
        except BaseException:
            self._companion.discard()
            raise
        self._running = True
        if self._asked is not None:
            self._companion.signal(self._asked)
        gc.enable()  # a start goes without; from here on this process may live for days
        self._note_ticket(order)
        return self._companion.follow(_echoing(output.write) if _has_file(order) else output.write)

    def _note_ticket(self, order: Order) -> None:
        """Write the job's ticket, should the submitter have died before it did."""
        if self._place.index == 0:
            from envkit.services.jobs.ticketing import ticket_of, write_ticket

            try:
                ticket = ticket_of(order, self._place.number)
                write_ticket(self._context.store, order.owner, self._place.queue, ticket)
            except EnvkitError as error:
                _complain(str(error))

    def _value(self, directory: str, output: Output) -> tuple[bool, str]:
        """Store what a Python call has left; tell whether there was something, and what is wrong with it."""
        try:
            data = read_value(f"{directory}/shared/{VALUE_FILE}")
        except EnvkitError as error:
            return False, error.brief
        if data is None:
            return False, ""
        if not output.put(VALUE, data, _PATIENCE):
            return False, f"the value could not be stored: {output.problem}"
        return True, ""

    def _state(self, order: Order, code: int, ended: float) -> State:
        if code == 0:
            return State.DONE
        if self._asked is not None:
            up = self._asked == signal.SIGTERM and self._asked_at >= self._time_up(order) - _EARLY
            return State.TIMEOUT if up else State.KILLED
        limit = order.job.timeout
        if limit is not None and code == EXIT_TIMEOUT and ended - self._began >= limit:
            return State.TIMEOUT
        return State.FAILED

    def _time_up(self, order: Order) -> float:
        """Return when the job's time is up, as Slurm says, or as far as this task can know."""
        told = os.environ.get("SLURM_JOB_END_TIME", "")
        if told.isascii() and told.isdigit():
            return float(told)
        limit = order.resources.time
        return float("inf") if limit is None else self._began + limit

    def _leave_failure(self, error: EnvkitError) -> None:
        """Leave a result where there is not even an order, for who waits for one."""
        output = self._new_output(self._context.paths.runs)
        output.write("err", f"error: {error.brief}\n".encode())
        output.hurry(_LAST_SECONDS)
        output.finish(_LAST_SECONDS)
        result = TaskResult(
            index=self._place.index,
            attempt=output.attempt,
            state=State.FAILED if self._asked is None else State.KILLED,
            code=EXIT_RUN_FAILED,
            node=_node(),
            began=self._began,
            ended=time.time(),
            error=error.brief,
            err=output.sizes["err"],
            segments=output.segments,
        )
        output.put(RESULT, result_to_json(result), _LAST_SECONDS)
        output.close()


class _Signals:
    """A context in which signals go to a task."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._previous: dict[int, object] = {}

    def __enter__(self) -> None:
        for number in FORWARDED:
            self._previous[number] = signal.signal(number, lambda number, _frame: self._task.signal(number))

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned


def _has_file(order: Order) -> bool:
    """Tell whether the user has asked Slurm for files of the output; it writes what the batch script prints."""
    return any(word.startswith(("-o", "-e", "--output", "--error")) for word in order.resources.extra)


def _echoing(write: Callable[[str, bytes], None]) -> Callable[[str, bytes], None]:
    """Return what also prints all that it takes."""

    def both(stream: str, data: bytes) -> None:
        write(stream, data)
        view = memoryview(data)
        with contextlib.suppress(OSError):  # a full disk there: the store has it
            while view:
                view = view[os.write(1 if stream == "out" else 2, view) :]

    return both


def read_value(path: str) -> bytes | None:
    """Return what a Python call has left, None if it left nothing. The directory was its own: anything may be there.

    :raises EnvkitError: it is no plain file of its own, or too large.
    """
    try:
        # O_NONBLOCK: a FIFO must not be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise EnvkitError(f"the value that the task left cannot be read: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise EnvkitError("the value that the task left is no file")
    with open(descriptor, "rb") as file:
        data = b"" if status.st_size > MAX_VALUE else file.read(MAX_VALUE + 1)
    if status.st_size > MAX_VALUE or len(data) > MAX_VALUE:
        raise EnvkitError(f"the value that the task left has more than {MAX_VALUE >> 30} GiB")
    return data


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def _complain(text: str) -> None:
    """Say something in the log of the queue: nobody else hears it."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"envkit: {text}\n")
