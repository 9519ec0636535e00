"""Owns the queue that is Slurm: what its answers mean for jobs of envkit, and what to do where it gives none.

A number alone says little: a head that is killed forgets the jobs of its last second and gives their numbers to others.
Jobs are known by their comments, which nobody can forge for another user.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from envkit.drivers import slurm
from envkit.drivers.errors import ProgramMissing
from envkit.drivers.slurm import ClusterFacts, JobRow, SlurmRefused, SlurmSilent
from envkit.errors import InvalidInput
from envkit.model.jobid import TaskId
from envkit.model.task import JobStatus, NodeFacts, State, TaskStatus
from envkit.queues.queue import JobOver, JobUnknown, Queue, QueueFailed, Submission

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_UNHEARD = "connect failure"
_MARK = "envkit "  # how the comments of envkit's jobs begin
_FILES = {"output": "o", "error": "e", "input": "i"}
_HELD = ("Dependency", "JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "DependencyNeverSatisfied")
_STATES = {
    "PENDING": State.QUEUED,
    "CONFIGURING": State.QUEUED,
    "REQUEUED": State.QUEUED,
    "REQUEUE_FED": State.QUEUED,
    "REQUEUE_HOLD": State.WAITING,
    "RESV_DEL_HOLD": State.WAITING,
    "SPECIAL_EXIT": State.WAITING,
    "COMPLETED": State.DONE,
    "FAILED": State.FAILED,
    "OUT_OF_MEMORY": State.FAILED,
    "TIMEOUT": State.TIMEOUT,
    "DEADLINE": State.TIMEOUT,
    "CANCELLED": State.KILLED,
    "PREEMPTED": State.KILLED,
    "REVOKED": State.KILLED,
    "NODE_FAIL": State.LOST,
    "BOOT_FAIL": State.LOST,
}
"""What Slurm's states mean; in all others, as SUSPENDED or COMPLETING, a task has its nodes."""
_REASONS = {
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
    "PREEMPTED": "preempted",
    "DEADLINE": "its deadline passed",
    "CONFIGURING": "its nodes are starting",
    "COMPLETING": "ending",
    "SUSPENDED": "suspended",
}
_WORDS = {
    "None": "",
    "NonZeroExitCode": "",
    "TimeLimit": "",
    "Dependency": "waits for other jobs",
    "DependencyNeverSatisfied": "a job that it depends on did not end well",
    "JobHeldUser": "held",
    "JobHeldAdmin": "held by an admin",
    "BeginTime": "begins later",
    "JobArrayTaskLimit": "waits for other tasks",
}
"""People's words for the commonest of Slurm's reasons."""
_BEFORE = ("Dependency", "JobHeldUser", "JobHeldAdmin", "Resources", "Priority", "BeginTime", "JobArrayTaskLimit")
"""What a task waited for that was ended then: Slurm keeps the reason, which says nothing any more."""
_HINTS = (
    ("partition", "`sinfo` lists the partitions"),
    ("node configuration", "no node has that much: see `sinfo -N -o '%N %P %c %m %G %f'`"),
    ("feature", "see `sinfo -o '%N %f'`"),
    ("array", "`scontrol show config | grep MaxArraySize` tells how large an array may be"),
    ("account", "ask the admins of the cluster which accounts are yours"),
    ("qos", "ask the admins of the cluster which QOS are yours"),
    ("permission", "ask the admins of the cluster"),
    ("denied", "ask the admins of the cluster"),
    ("time limit", "`sinfo -o '%P %l'` tells how long jobs may run"),
    ("option", "see `man sbatch`"),
    ("specification", "see `man sbatch`"),
)


class SlurmQueue(Queue):
    """Slurm, by way of its programs and as this machine has it configured."""

    def __init__(self) -> None:
        self._cluster: ClusterFacts | None = None

    @property
    def name(self) -> str:
        """`slurm-` and the name of the cluster, which tasks know from SLURM_CLUSTER_NAME."""
        name = self._facts().name
        if not _NAME.fullmatch(name):
            raise QueueFailed(f"the cluster is called {name!r:.80}", resolution="give it a plain ClusterName")
        return f"slurm-{name}"

    def submit(self, submission: Submission) -> int:
        """Put a job into the queue, and return its number.

        :raises InvalidInput: it is an array that is too large, or has options that contradict one another.
        """
        self._check(submission)
        extra = _absolute(submission.resources.extra, os.getcwd())
        options = slurm.job_options(
            name=submission.name,
            comment=submission.comment,
            count=submission.count,
            resources=submission.resources.replace(extra=tuple(extra)),
            depends_on=submission.depends_on,
            requeue=submission.requeue,
            directory=submission.directory,
        )
        submitter = slurm.user(submission.uid, submission.gid)
        with _told("refuses the job"):
            try:
                return slurm.submit(options, submission.script, submitter)
            except SlurmSilent as error:
                if _UNHEARD in error.reason:
                    raise
                # Its answer may be all that was lost.
                for row in slurm.jobs():
                    if row.comment == submission.comment and row.uid == submission.uid:
                        return row.job
                raise

    def statuses(self, jobs: Iterable[int] | None = None) -> dict[int, JobStatus]:
        """Return how jobs are, also those that ended less than MinJobAge ago; None means all of envkit's."""
        wanted = None if jobs is None else set(jobs)
        if wanted is not None and not wanted:
            return {}
        with _told("does not list its jobs"):
            rows = slurm.jobs(wanted)
            groups: dict[int, list[JobRow]] = {}
            for row in rows:
                if wanted is not None or row.comment.startswith(_MARK):
                    groups.setdefault(row.job, []).append(row)
            return {number: _status(number, group) for number, group in groups.items()}

    def kill(self, tasks: Sequence[TaskId]) -> list[TaskId]:
        """End tasks, or whole jobs; return those that were not there to be ended any more."""
        statuses = self.statuses({task.job for task in tasks})
        names: list[str] = []
        waiting: list[str] = []
        missing: list[TaskId] = []
        for task in tasks:
            there = [one for one in _tasks(statuses.get(task.job), task) if not one.state.over]
            if there:
                names.append(str(task if there[0].id.index is not None else TaskId(job=task.job)))
                if task.index is not None and there[0].id == task and there[0].state is not State.RUNNING:
                    waiting.append(names[-1])
            else:
                missing.append(task)
        with _told("does not end jobs"):
            slurm.part(waiting)
            slurm.cancel(names)
        return missing

    def nodes(self) -> list[NodeFacts]:
        """Return the nodes; those that are switched off until they are needed have a name and nothing else."""
        with _told("does not list its nodes"):
            return slurm.nodes()

    def inside(self, task: TaskId, argv: Sequence[str], *, terminal: bool) -> list[str]:
        """Return the command that runs another one beside a running task, as the task's owner.

        :raises JobOver: it does not run any more, or not yet; :raises JobUnknown: there is no such task.
        """
        with _told("does not list its jobs"):
            rows = slurm.jobs([task.job])
            found = [row for row in rows if _holds(row, task)]
            if not found:
                raise JobUnknown(f"Slurm has no job {task}")
            row = found[0]
            state = _task(row, None).state
            if state is not State.RUNNING or not row.node:
                raise JobOver(f"job {task} does not run: it is {state.value}")
            owner = slurm.user(row.uid)
            return slurm.step_argv(row, owner, argv, terminal=terminal)

    def _facts(self) -> ClusterFacts:
        if self._cluster is None:
            with _told("does not tell its configuration"):
                self._cluster = slurm.cluster()
        return self._cluster

    def _check(self, submission: Submission) -> None:
        most = self._facts().max_array
        if submission.count is not None and submission.count > most:
            raise InvalidInput(
                f"this Slurm takes arrays of at most {most:,} tasks, not {submission.count:,}",
                resolution="submit several arrays, or have MaxArraySize in slurm.conf raised",
            )
        if submission.depends_on and any(re.match("--dep|-d", word) for word in submission.resources.extra):
            raise InvalidInput(
                "--depends-on and another --dependency cannot be combined", resolution="say all of it with --dependency"
            )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what Slurm's programs say into what its queue says.

    :param what: says what Slurm does not do, as in "refuses the job".
    """
    try:
        yield
    except SlurmSilent as error:
        raise QueueFailed(
            "Slurm's head does not answer",
            details=error.brief,
            resolution="jobs that run go on; `scontrol ping` tells when it is back",
        ) from error
    except SlurmRefused as error:
        hint = next((hint for word, hint in _HINTS if word in error.reason.lower()), None)
        raise QueueFailed(f"Slurm {what}: {error.reason}", details=error.details, resolution=hint) from error
    except ProgramMissing as error:
        raise QueueFailed(
            error.brief,
            resolution="install Slurm's programs, or link them into /usr/local/bin; or set `queue` to local",
        ) from error


def _status(number: int, rows: Sequence[JobRow]) -> JobStatus:
    tasks: list[TaskStatus] = []
    for row in rows:
        indexes = slurm.expanded(row.indexes)
        tasks += [_task(row, None)] if indexes is None else [_task(row, index) for index in indexes]
    tasks.sort(key=lambda task: task.id.index or 0)
    owner = slurm.user(rows[0].uid)
    return JobStatus(number=number, comment=_own(rows[0]), user=owner.name or str(owner.uid), tasks=tuple(tasks))


def _own(row: JobRow) -> str:
    """Return a job's comment, unless it says that the job is another user's."""
    named = row.comment.split()[1:2] if row.comment.startswith(_MARK) else []
    number = slurm.number_of(named[0]) if named else None
    return row.comment if number in (None, row.uid) else "of another user"


def _task(row: JobRow, index: int | None) -> TaskStatus:
    state = _STATES.get(row.state, State.RUNNING)
    if state is State.QUEUED and row.reason.partition(",")[0] in _HELD:
        state = State.WAITING
    reason = row.reason
    if state is State.KILLED and reason in _BEFORE:
        reason = "None"
    began = bool(row.node) and state not in (State.QUEUED, State.WAITING)
    return TaskStatus(
        id=TaskId(job=row.job, index=index),
        state=state,
        reason=_REASONS.get(row.state) or _WORDS.get(reason, reason)[:200],
        node=row.node,
        began=row.began if began else 0.0,
        ended=row.ended if state.over else 0.0,
        # In other states it says who ended the task, and not what that did.
        code=_exit_code(row.code) if state in (State.DONE, State.FAILED) else None,
    )


def _exit_code(status: int) -> int:
    """Return the exit code of a status as wait(2) has it; of a signal what a shell makes of it."""
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF


def _tasks(status: JobStatus | None, name: TaskId) -> list[TaskStatus]:
    """Return the tasks of a job that a name means; the one of a job that is no array has index 0, too."""
    if status is None:
        return []
    return [task for task in status.tasks if name.index is None or (task.id.index or 0) == name.index]


def _holds(row: JobRow, task: TaskId) -> bool:
    indexes = slurm.expanded(row.indexes)
    return row.job == task.job and (task.index or 0) in (indexes or (0,))


def _absolute(words: Sequence[str], directory: str) -> list[str]:
    """Return options of sbatch with names of files as they are meant where they were written: jobs begin elsewhere."""
    found: list[str] = []
    follows = False
    for word in words:
        name, equals, value = word.partition("=")
        if follows:
            found.append(os.path.join(directory, word))
        elif equals and name.removeprefix("--") in _FILES and name.startswith("--"):
            found.append(f"{name}={os.path.join(directory, value)}")
        elif len(word) > 2 and word[1] in _FILES.values() and word[0] == "-":
            found.append(word[:2] + os.path.join(directory, word[2:].removeprefix("=")))
        else:
            found.append(word)
        follows = not follows and word in (
            *(f"--{name}" for name in _FILES),
            *(f"-{short}" for short in _FILES.values()),
        )
    return found
