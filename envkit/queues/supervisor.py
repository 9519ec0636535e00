"""Owns one task of this machine's queue while it runs: a process that starts the script, bounds its time and its
output, ends all that it has started, and writes down how it ended.

A supervisor is not needed by the runner that started it, nor the other way round: it lives on when that is killed, and
what it writes, by rename, waits for the next one. That it lives is known by the lock `INDEX.lock`: the runner takes it
before it forks, so there is no moment at which a task runs and its lock is free. The script itself gets SIGKILL
when its supervisor dies.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Mapping

from envkit.drivers import process
from envkit.drivers.files import is_locked, read_bounded, read_text
from envkit.errors import EXIT_RUN_FAILED, EnvkitError
from envkit.model.record import Record
from envkit.model.task import State

GRACE = 30.0
"""Seconds between asking a task to end and killing it, as Slurm has it."""
_MAX_LOG = 256 << 10
_TAIL = 2000
_MAX_REASON = 300
_MAX_END = 4096
_PATIENCE = 60.0
_ENDED = os.WEXITED | os.WNOWAIT
_STATES = (State.DONE, State.FAILED, State.TIMEOUT, State.KILLED)


class Assignment(Record):
    """A task to be run: in which directory its files are, with which variables, where, for how many seconds at most.

    `queue` is the name of its queue, `bell` the FIFO that tells a runner that the task has ended.
    """

    queue: str
    place: str
    index: int
    attempt: int
    variables: Mapping[str, str]
    directory: str
    time: int | None
    grace: float
    bell: str


class End(Record):
    """How a task has ended, as its supervisor saw it; `reason` is empty where the code says it all.

    `forced`: it did not end when it was asked to, and was killed.
    """

    state: State
    code: int
    reason: str
    ended: float
    forced: bool


def lock_path(place: str, index: int) -> str:
    """Return the file whose lock says that the supervisor of a task lives."""
    return f"{place}/{index}.lock"


def read_end(place: str, index: int, attempt: int, *, queue: str) -> End | None:
    """Return how an attempt at a task has ended; None where nothing, or nothing whole, says so.

    :param queue: the name of the queue; a task of an earlier one, whose ledger was taken away, may have the same place.
    """
    try:
        data = read_bounded(_end_path(place, index, attempt), _MAX_END)
        document = json.loads(data or b"null")
        if not isinstance(document, dict) or document.pop("queue", None) != queue:
            return None
        end = End(**document | {"state": State(document["state"])})
    except (EnvkitError, ValueError, TypeError, KeyError):
        return None
    good = end.state in _STATES and isinstance(end.code, int) and isinstance(end.reason, str)
    return end if good and isinstance(end.ended, float) and isinstance(end.forced, bool) else None


def forget(place: str, index: int, attempt: int) -> None:
    """Remove what an attempt has left, but for its log."""
    for path in (_end_path(place, index, attempt), lock_path(place, index)):
        with contextlib.suppress(OSError):
            os.unlink(path)


def ask_to_end(place: str, index: int) -> None:
    """Have a running task ended; no error where it has just ended by itself."""
    path = lock_path(place, index)
    pid = read_text(path, 100).partition(" ")[0]
    if not pid.isdecimal():
        return
    try:
        descriptor = os.pidfd_open(int(pid))
    except OSError:
        return
    try:
        if is_locked(path):  # so the descriptor is that of the supervisor
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def is_clear(place: str, index: int) -> bool:
    """Kill what a supervisor that was killed has left running; tell whether nothing of it is there any more.

    Its processes are those of its session. A session's number is given to no other one while a process of it lives.
    """
    pid, _, boot = read_text(lock_path(place, index), 100).partition(" ")
    if not pid.isdecimal() or boot != _boot() or process.start_time(int(pid)) is not None:
        return True
    return not _kill_session(int(pid))


def supervise(task: Assignment, lock: int) -> int:
    """Start the supervisor of a task, which owns the lock from now on; return its pid, for the runner to reap.

    Signals must be blocked by the caller.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            os.closerange(3, lock)
            os.closerange(lock + 1, os.sysconf("SC_OPEN_MAX"))
            os.pwrite(lock, f"{os.getpid()} {_boot()}".encode(), 0)
            _Supervisor(task).run()
        finally:
            os._exit(0)
    return pid


class _Supervisor:
    def __init__(self, task: Assignment) -> None:
        self._task = task
        self._log = _Log(f"{task.place}/{task.index}.log")
        self._state: State | None = None
        self._kill_at: float | None = None
        self._asked = False
        self._forced = False

    def run(self) -> None:
        """Start the script, wait for its end, and write down what became of it."""
        awake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        output, into = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)

        def before_exec() -> None:
            os.dup2(into, 1)
            os.dup2(into, 2)
            try:
                os.chdir(self._task.directory)
            except OSError as error:
                os.write(2, f"error: cannot enter {self._task.directory}: {error.strerror}\n".encode())
                os._exit(EXIT_RUN_FAILED)

        argv = ["/bin/sh", f"{self._task.place}/script"]
        pid = process.spawn(argv[0], argv, env=self._task.variables, own_group=True, before_exec=before_exec)
        os.close(into)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGCHLD))
        code = self._wait(pid, output, awake)
        self._log.take(output)
        self._leave(code)

    def _ask(self, _number: int, _frame: object) -> None:
        self._asked = True

    def _wait(self, pid: int, output: int, awake: int) -> int:
        """Wait for the script, and bound its time; return its exit code when nothing of it runs any more."""
        limit = None if self._task.time is None else time.monotonic() + self._task.time
        poll = select.poll()
        poll.register(awake, select.POLLIN)
        poll.register(output, select.POLLIN)
        while os.waitid(os.P_PID, pid, _ENDED | os.WNOHANG) is None:
            now = time.monotonic()
            if self._state is None and (self._asked or (limit is not None and now >= limit)):
                self._state = State.KILLED if self._asked else State.TIMEOUT
                self._kill_at = now + self._task.grace
                _signal_group(pid, signal.SIGTERM)
            if self._kill_at is not None and now >= self._kill_at:
                self._kill_at = now + 1.0
                self._forced = True
                _signal_group(pid, signal.SIGKILL)
                _kill_session(os.getpid(), patience=0)
            until = limit if self._kill_at is None else self._kill_at
            ready = poll.poll(None if until is None else max(0.0, until - now) * 1000 + 1)
            for descriptor, _ in ready:
                if descriptor == awake:
                    os.read(awake, 4096)
                elif not self._log.take(output):
                    poll.unregister(output)
        end = os.waitid(os.P_PID, pid, _ENDED)
        if self._state is None and self._asked and end is not None and end.si_status:
            self._state = State.KILLED  # both were asked at once, as when the machine goes down
        # What it has left in the background goes with it. Until it is reaped, its number is nobody else's.
        _signal_group(pid, signal.SIGKILL)
        if self._state is not None and _kill_session(os.getpid()):
            self._log.note("some of its processes do not end")
        return process.wait(pid)

    def _leave(self, code: int) -> None:
        state = self._state or (State.FAILED if code else State.DONE)
        reason = {State.DONE: "", State.FAILED: self._log.reason, State.KILLED: ""}.get(state)
        if reason is None:
            reason = f"its time, {self._task.time} s, was over"
        end = End(state=state, code=code, reason=reason, ended=time.time(), forced=self._forced)
        document = {name: getattr(end, name) for name in End._fields} | {
            "state": state.value,
            "queue": self._task.queue,
        }
        path = _end_path(self._task.place, self._task.index, self._task.attempt)
        while True:
            try:
                with open(f"{path}.new", "w", encoding="utf-8") as file:
                    json.dump(document, file)
                os.rename(f"{path}.new", path)
                break
            except FileNotFoundError:
                return  # somebody has removed the queue
            except OSError:
                time.sleep(1)  # a full disk: the task goes on until this is known
        ring(self._task.bell)


class _Log:
    """What a script says by itself, bounded; what its command prints goes to the store."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None
        self._left = _MAX_LOG
        self._tail = b""

    def take(self, descriptor: int) -> bool:
        """Take over what there is to be read; return whether there may be more later."""
        while True:
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tail = (self._tail + data)[-_TAIL:]
            self._write(data[: self._left])

    def note(self, text: str) -> None:
        """Add a line of envkit's own."""
        data = f"envkit: {text}\n".encode()
        self._tail = (self._tail + b"\n" + data)[-_TAIL:]
        self._write(data)

    @property
    def reason(self) -> str:
        """The line that says best why it failed: the last one that tells an error, or else the last one."""
        lines = [line for line in self._tail.decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        line = (errors or lines or [""])[-1].strip()
        return "".join(character if character.isprintable() else "?" for character in line)[:_MAX_REASON]

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk; the end still has the reason
            if self._file is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._file = os.open(self._path, flags, 0o600)
                self._left = max(0, _MAX_LOG - os.fstat(self._file).st_size)
                data = data[: self._left]
            self._left -= os.write(self._file, data)


def ring(bell: str) -> None:
    """Wake the runner, if there is one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(bell, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)


def _end_path(place: str, index: int, attempt: int) -> str:
    return f"{place}/{index}.{attempt}.end"


def _boot() -> str:
    return read_text("/proc/sys/kernel/random/boot_id", 64).strip()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _kill_session(session: int, *, patience: float = _PATIENCE) -> list[int]:
    """Kill all other processes of a session, and wait until they are gone; return those that are not."""
    deadline = time.monotonic() + patience
    while True:
        members = [pid for pid in _members(session) if pid != os.getpid()]
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not members or time.monotonic() >= deadline:
            return members
        time.sleep(0.02)


def _members(session: int) -> list[int]:
    """Return the processes of a session that live."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if int(fields[3]) == session and fields[0] not in (b"Z", b"X"):
                    found.append(int(name))
    return found
