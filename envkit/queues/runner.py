"""Owns the process that runs the jobs of this machine: it starts tasks when there is room, and notes how they end.

Who submits starts one if there is none; it ends when nothing waits or runs. It leaves the terminal, the session and
the control group of whoever started it. It knows nothing that is not in the ledger, or in a lock or a file of a
task's supervisor. So it may be killed at any moment: a task's lock is taken first, then the start is committed, then
the process is made; and the next runner goes on with what it finds.
"""

import contextlib
import os
import select
import signal
import sys
import time

from envkit.drivers import cgroup, detached, process
from envkit.drivers.files import is_locked, remove_tree, try_lock
from envkit.errors import EnvkitError
from envkit.model.paths import Paths
from envkit.model.task import State
from envkit.queues import agenda, endings, machine, supervisor
from envkit.queues.agenda import Room, Running, Start
from envkit.queues.ledger import Ledger, LedgerDamaged, user_name
from envkit.queues.queue import QueueFailed
from envkit.queues.script import ATTEMPT, INDEX, NUMBER, QUEUE
from envkit.queues.supervisor import Assignment, End

GROUP = "envkit-queue"
_LOOK_AGAIN = 2.0
"""Seconds until it looks by itself, for what nobody could tell it: that a supervisor was killed."""
_AFTER_TROUBLE = 5.0
_PATIENCE = 1.0
_FORGET_EVERY = 3600.0
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
_SWEEP_SECONDS = 60.0
_SWEEP = "from envkit.__main__ import main; main()"
_PROGRAM = "from envkit.queues.runner import main; main()"


def start(paths: Paths, slots: int, *, grace: float) -> None:
    """Start a runner, detached from this process. If there is one already, the new one ends at once.

    :param grace: seconds between asking a task to end and killing it.
    """
    arguments = [paths.root, str(slots), str(grace)]
    detached.start(_PROGRAM, arguments, what="what runs the queue", log=paths.runner_log)


def main() -> None:
    """Be the runner that `start` has started."""
    _, root, slots, grace = sys.argv
    paths = Paths.at(root)
    lock = _take(paths)
    if lock is None:
        return
    os.chdir("/")
    try:
        cgroup.leave(GROUP)
    except OSError as error:
        complain(f"the queue stays in the control group of what started it: {error}")
    try:
        Runner(paths, int(slots), lock, grace=float(grace)).run()
    except EnvkitError as error:
        complain(f"the queue ends: {error}")


def _take(paths: Paths) -> int | None:
    """Take the queue's lock; None if another runner has it. Who only looks whether it is held has it for a moment."""
    deadline = time.monotonic() + _PATIENCE
    while (lock := try_lock(paths.runner_lock)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return lock


def is_ready(paths: Paths) -> bool:
    """Tell whether a runner is there and has looked at all that ran before it."""
    try:
        return is_locked(paths.runner_lock) and os.path.getsize(paths.runner_lock) > 0
    except OSError:
        return False


def complain(text: str) -> None:
    """Write a line with the time to standard error, which is the runner's log."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f"{stamp} {text}\n")
    sys.stderr.flush()


class Runner:
    """A runner that holds the queue's lock. `keep`: it stays when there is nothing to do."""

    def __init__(self, paths: Paths, slots: int, lock: int, *, grace: float, keep: bool = False) -> None:
        self._paths = paths
        self._cards = machine.usable_gpus()
        self._machine = Room(slots=slots, memory=machine.memory(), gpus=len(self._cards))
        self._lock = lock
        self._grace = grace
        self._keep = keep
        self._stop = False
        self._queue = ""
        self._forget_at = 0.0

    def run(self) -> None:
        """Run jobs until nothing waits or runs, or somebody asks it to end; what runs then goes on.

        :raises QueueFailed: the ledger is damaged, or gone.
        """
        os.ftruncate(self._lock, 0)
        os.umask(0o022)
        bell = _open_bell(self._paths.runner_bell)
        for number in (signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
        try:
            with Ledger(self._paths.ledger) as ledger:
                ledger.check()
                self._queue = ledger.name
                self._serve(ledger, bell)
        finally:
            signal.set_wakeup_fd(-1)
            os.close(bell)

    def _ask(self, _number: int, _frame: object) -> None:
        self._stop = True

    def _serve(self, ledger: Ledger, bell: int) -> None:
        while not self._stop:
            if not ledger.is_there():
                raise QueueFailed(f"{self._paths.ledger} was taken away")
            pause = _LOOK_AGAIN
            try:
                self._turn(ledger)
                ledger.tidy(self._clear)
                self._forget(ledger)
                os.pwrite(self._lock, f"{os.getpid():>10}\n".encode(), 0)
                if not self._is_needed(ledger):
                    return
            except LedgerDamaged:
                raise
            except (OSError, EnvkitError) as error:  # a full disk, most likely
                complain(f"the queue tries again in {_AFTER_TROUBLE:g} s: {error}")
                pause = _AFTER_TROUBLE
            _wait(bell, pause)

    def _is_needed(self, ledger: Ledger) -> bool:
        """Tell whether to go on. Who submits looks at the lock after that: so look again after letting go of it."""
        if self._keep or not ledger.is_idle():
            return True
        os.close(self._lock)
        if ledger.is_idle():
            return False
        lock = _take(self._paths)
        if lock is None:
            return False
        self._lock = lock
        return True

    def _turn(self, ledger: Ledger) -> None:
        """Note which tasks have ended, start others in their place, and end those that have to."""
        _reap()
        tasks = agenda.running(ledger, self._machine)
        ends: dict[Running, End | None] = {}
        for task in tasks:
            place = self._paths.queued(task.job)
            end = supervisor.read_end(place, task.index, task.attempt, queue=self._queue)
            if end is None and is_locked(supervisor.lock_path(place, task.index)):
                if task.killed:
                    supervisor.ask_to_end(place, task.index)
                continue
            end = end or supervisor.read_end(place, task.index, task.attempt, queue=self._queue)
            if end is not None or supervisor.is_clear(place, task.index):
                ends[task] = end
        if not ends and not agenda.due(ledger):
            return
        if any(end is None or end.forced for end in ends.values()):
            self._sweep()
        staying = [task for task in tasks if task not in ends]
        locks: list[int] = []
        try:
            with ledger.turn():
                over = [task for task, end in ends.items() if _note(ledger, task, end)]
                starts = self._choose(ledger, staying, locks)
            self._begin(starts, locks)
        finally:
            for lock in locks:
                os.close(lock)
        for task in over:
            supervisor.forget(self._paths.queued(task.job), task.index, task.attempt)

    def _sweep(self) -> None:
        """End containers that have lost the process which ran them, as Slurm's epilog does, before a task is over."""
        if not os.path.isdir(self._paths.runs) or not os.listdir(self._paths.runs):
            return
        argv = detached.interpreter(_SWEEP, ["--root", self._paths.root, "sweep"])
        try:
            process.run(argv, timeout=_SWEEP_SECONDS)
        except EnvkitError as error:
            complain(f"what killed tasks have left stays until the next run: {error}")

    def _choose(self, ledger: Ledger, staying: list[Running], locks: list[int]) -> list[Start]:
        """Choose tasks to start beside those that run, and take their locks."""
        left = self._machine
        for other in staying:
            left = left.without(other.takes)
        given = {card for other in staying for card in other.cards}
        cards = [card for card in self._cards if card not in given]
        starts = []
        for task in agenda.choose(ledger, self._machine, left.replace(gpus=len(cards)), cards):
            place = self._paths.queued(task.job)
            if not os.path.exists(f"{place}/script"):
                reason = f"its script {place}/script is gone"
                endings.end(ledger.db, task.job, task.index, State.LOST, reason=reason, code=None, ended=time.time())
                continue
            lock = try_lock(supervisor.lock_path(place, task.index))
            if lock is None:
                raise QueueFailed(f"somebody holds the lock of task {task.index} of job {task.job}")
            locks.append(lock)
            os.ftruncate(lock, 0)
            starts.append(task)
        return starts

    def _begin(self, starts: list[Start], locks: list[int]) -> None:
        """Start the supervisors of tasks; they go on if this process is killed."""
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for task, lock in zip(starts, locks, strict=True):
                assignment = Assignment(
                    queue=self._queue,
                    place=self._paths.queued(task.job),
                    index=task.index,
                    attempt=task.attempt,
                    variables=self._variables(task),
                    directory=task.directory,
                    time=task.time,
                    grace=self._grace,
                    bell=self._paths.runner_bell,
                )
                supervisor.supervise(assignment, lock)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _variables(self, task: Start) -> dict[str, str]:
        """Return the environment of a task's script.

        It runs as root, as the runner does, and is told of its user as sudo(8) would: so it calls envkit as that user
        would, on a machine where nobody has written a rule for sudo. The user's command runs as the user, as in `run`.
        """
        variables = process.minimal_environment() | {
            NUMBER: str(task.job),
            INDEX: str(task.index),
            ATTEMPT: str(task.attempt),
            QUEUE: self._queue,
        }
        if task.cards:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(task.cards)
        if os.geteuid() == 0 and task.uid != 0:
            variables |= {"SUDO_UID": str(task.uid), "SUDO_GID": str(task.gid), "SUDO_USER": user_name(task.uid)}
        return variables

    def _clear(self, job: int) -> None:
        """Remove what is not needed when all of a job has ended: all but its logs; the script has the key."""
        place = self._paths.queued(job)
        with contextlib.suppress(OSError):
            for name in os.listdir(place):
                if not name.endswith(".log"):
                    os.unlink(f"{place}/{name}")
            os.rmdir(place)

    def _forget(self, ledger: Ledger) -> None:
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + _FORGET_EVERY
            ledger.forget(lambda number: remove_tree(self._paths.queued(number)))


def _note(ledger: Ledger, task: Running, end: End | None) -> bool:
    """Write down how a task has ended, or that its process has vanished; return whether it is over with that."""
    if end is None or end.state is State.KILLED:  # which need not be what somebody wanted: the machine goes down, too
        return not agenda.again(ledger, task, now=time.time())
    endings.end(ledger.db, task.job, task.index, end.state, reason=end.reason, code=end.code, ended=end.ended)
    return True


def _reap() -> None:
    """Let go of supervisors that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _open_bell(path: str) -> int:
    """Open the FIFO that wakes the runner; both ends, so that it is never at its end."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def _wait(bell: int, seconds: float) -> None:
    """Wait until somebody rings, or a signal comes."""
    poll = select.poll()
    poll.register(bell, select.POLLIN)
    poll.poll(seconds * 1000)
    with contextlib.suppress(BlockingIOError):
        while os.read(bell, 65536):
            pass
