"""Owns the queue of this machine by itself, for those who have no cluster: so many tasks run at once as it has slots.

There is no service to install. Who submits writes the job into the ledger and starts a runner if there is none
(`runner.py`). Partitions, MPI plugins and further options of sbatch(1) say where in a cluster a job goes, so they say
nothing here.
"""

import fcntl
import os
import time
from collections.abc import Iterable, Sequence

from envkit.drivers.crash import crash_point
from envkit.drivers.files import is_locked, make_directory, remove_tree, write_atomic
from envkit.errors import InvalidInput
from envkit.model.jobid import TaskId
from envkit.model.paths import Paths
from envkit.model.task import JobStatus, NodeFacts, State
from envkit.queues import machine, runner
from envkit.queues.ledger import Ledger
from envkit.queues.queue import JobOver, Queue, QueueFailed, Submission
from envkit.queues.supervisor import GRACE, ring

_PATIENCE = 10.0


class LocalQueue(Queue):
    """The queue below a root directory, with `slots` slots: a task takes one for each of its CPUs, all at most.

    :param grace: seconds between asking a task to end and killing it.
    """

    def __init__(self, paths: Paths, slots: int, *, grace: float = GRACE) -> None:
        self._paths = paths
        self._slots = slots
        self._grace = grace

    @property
    def name(self) -> str:
        """`local-` and 8 hex digits, of this machine's identity and the ledger's."""
        with self._ledger() as ledger:
            return ledger.name

    def submit(self, submission: Submission) -> int:
        """Put a job into the queue, and return its number."""
        self._check(submission)

        def prepare(number: int) -> None:
            place = self._paths.queued(number)
            remove_tree(place)  # of a submission that was killed before it had the number for good
            make_directory(place)
            write_atomic(f"{place}/script", submission.script.encode("utf-8", "surrogateescape"))
            crash_point("submit:prepared")

        with self._ledger() as ledger:
            number = ledger.submit(submission, prepare)
        self._wake()
        return number

    def statuses(self, jobs: Iterable[int] | None = None) -> dict[int, JobStatus]:
        """Return how jobs are; starts a runner if there should be one, as after a reboot."""
        with self._ledger() as ledger:
            if not ledger.is_idle() and not is_locked(self._paths.runner_lock):
                self._start()
                self._await_runner()
            return ledger.statuses(jobs)

    def kill(self, tasks: Sequence[TaskId]) -> list[TaskId]:
        """End tasks, or whole jobs; return those that were not there to be ended any more."""
        with self._ledger() as ledger:
            missing = ledger.kill(tasks)
        if len(missing) < len(tasks):
            self._wake()
        return missing

    def nodes(self) -> list[NodeFacts]:
        """Return this machine."""
        return [machine.facts()]

    def inside(self, task: TaskId, argv: Sequence[str], *, terminal: bool) -> list[str]:
        """Return the command as it is: the task runs on this machine.

        :raises JobOver: it does not run any more, or not yet; :raises JobUnknown: there is no such task.
        """
        with self._ledger() as ledger:
            state = ledger.state(task)
        if state is not State.RUNNING:
            raise JobOver(f"job {task} does not run: it is {state.value}")
        return list(argv)

    def serve(self) -> None:
        """Be the runner, in the foreground, until SIGTERM, after another one has ended; what runs then goes on."""
        with self._ledger():
            pass  # a damaged ledger is told at once
        lock = os.open(self._paths.runner_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        runner.Runner(self._paths, self._slots, lock, grace=self._grace, keep=True).run()

    def _check(self, submission: Submission) -> None:
        """Refuse what would never begin.

        :raises InvalidInput: it asks for more than this machine has.
        """
        wanted = submission.resources
        if wanted.nodes is not None and wanted.nodes > 1:
            raise InvalidInput(
                f"a job for {wanted.nodes} nodes cannot run on this machine by itself",
                resolution="submit it where there is Slurm, or ask for one node",
            )
        for what, asked, has in (
            ("bytes of memory", wanted.memory or 0, machine.memory()),
            ("GPUs", wanted.gpus, len(machine.gpus()) if wanted.gpus else 0),
        ):
            if asked > has:
                raise InvalidInput(f"a job for {asked:,} {what} would never begin: this machine has {has:,}")
        if os.geteuid() != 0 and submission.uid != os.geteuid():
            raise QueueFailed("only root can run the jobs of other users", resolution="use sudo: sudo envkit ...")

    def _ledger(self) -> Ledger:
        make_directory(self._paths.queue, mode=0o700)
        return Ledger(self._paths.ledger)

    def _wake(self) -> None:
        """Have a runner look at what is new in the ledger."""
        if is_locked(self._paths.runner_lock):
            ring(self._paths.runner_bell)
        else:
            self._start()

    def _start(self) -> None:
        runner.start(self._paths, self._slots, grace=self._grace)

    def _await_runner(self) -> None:
        """Wait until a runner has seen what became of tasks that ran before, if it comes to that soon."""
        deadline = time.monotonic() + _PATIENCE
        while not runner.is_ready(self._paths) and time.monotonic() < deadline:
            time.sleep(0.02)
