"""Owns what a queue is: it takes batch scripts, runs them when there is room, and tells how they are.

Slurm is one; the other one is this machine by itself, for those who have no cluster. Both run the same script, which
calls `envkit task` on the node; neither knows what an environment is.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from envkit.errors import EXIT_UNAVAILABLE, Conflict, EnvkitError, NotFound
from envkit.model.jobid import TaskId
from envkit.model.order import Resources
from envkit.model.record import Record
from envkit.model.task import JobStatus, NodeFacts


class QueueFailed(EnvkitError):
    """The queue does not answer, or refuses; `resolution` says what to do about it."""

    exit_code = EXIT_UNAVAILABLE


class JobUnknown(NotFound):
    """The queue has no such job, or has forgotten it."""


class JobOver(Conflict):
    """It is too late for what was asked: the job has ended."""


class Submission(Record):
    """What a queue is told of a job: the script, as which user, and for how many tasks; None for no array.

    `name` and `comment` are for people and for finding it again; `depends_on` are jobs that must end with 0 before.
    """

    script: str
    uid: int
    gid: int
    name: str
    comment: str
    count: int | None
    resources: Resources
    depends_on: tuple[int, ...] = ()
    requeue: bool = True
    directory: str = "/"


class Queue(ABC):
    """A queue. Every verb raises QueueFailed when it does not answer."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name, good as a part of a key in a store: no other queue that uses the same store has it."""

    @abstractmethod
    def submit(self, submission: Submission) -> int:
        """Put a job into the queue, and return its number. If this process dies meanwhile, it is there or it is not."""

    @abstractmethod
    def statuses(self, jobs: Iterable[int] | None = None) -> dict[int, JobStatus]:
        """Return how jobs are, by number, in one question to the queue; None means all. Forgotten ones are missing."""

    @abstractmethod
    def kill(self, tasks: Sequence[TaskId]) -> list[TaskId]:
        """End tasks, or whole jobs; return those that were not there to be ended any more."""

    @abstractmethod
    def nodes(self) -> list[NodeFacts]:
        """Return the nodes that it has."""

    @abstractmethod
    def inside(self, task: TaskId, argv: Sequence[str], *, terminal: bool) -> list[str]:
        """Return the command that runs another one beside a running task, on its node.

        :raises JobOver: it does not run any more; :raises JobUnknown: there is no such task.
        """
