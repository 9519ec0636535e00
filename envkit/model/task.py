"""Owns what can be known of a task: its state in a queue, and the result that it leaves in the store."""

import enum
import json

from envkit.errors import Damaged
from envkit.model.jobid import TaskId
from envkit.model.record import Record

RESULT_FORMAT = 1
MAX_RESULT_BYTES = 1 << 20
MAX_ATTEMPTS = 9999


class State(enum.Enum):
    """Where a task stands; the words are those that `jobs` prints."""

    WAITING = "waiting"
    """For jobs that it depends on, or for somebody to release it."""
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    """Its command ended with 0."""
    FAILED = "failed"
    """Its command ended otherwise, or could not begin."""
    TIMEOUT = "timeout"
    KILLED = "killed"
    LOST = "lost"
    """Its node went away, and it was not to be started again."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (State.WAITING, State.QUEUED, State.RUNNING)


class TaskStatus(Record):
    """A task as its queue knows it. Times are seconds since 1970, 0 where they are not known.

    `reason` says why it waits or how it ended, in the queue's words; `code` is its exit code, None while it has none.
    """

    id: TaskId
    state: State
    reason: str = ""
    node: str = ""
    began: float = 0.0
    ended: float = 0.0
    code: int | None = None


class JobStatus(Record):
    """A job as its queue knows it, with its tasks; `comment` is what its submitter left with it."""

    number: int
    comment: str
    user: str
    tasks: tuple[TaskStatus, ...]


class NodeFacts(Record):
    """A node of a queue: architecture as in uname(1), features as its admin named them, CPUs, bytes of memory, GPUs.

    `up`: it can be given jobs, now or when it is free.
    """

    name: str
    arch: str = ""
    features: tuple[str, ...] = ()
    cpus: int = 0
    memory: int = 0
    gpus: int = 0
    partitions: tuple[str, ...] = ()
    up: bool = True


class TaskResult(Record):
    """What became of one attempt at a task: state, exit code, node, and when, in seconds since 1970.

    `error` is envkit's own line where it failed; `out` and `err` are bytes of what the command printed, `segments` how
    many objects hold it. `value`: it left one (a Python result). `cost` as in `model.job.Outcome`.
    """

    index: int
    attempt: int
    state: State
    code: int
    node: str = ""
    began: float = 0.0
    ended: float = 0.0
    error: str = ""
    out: int = 0
    err: int = 0
    segments: int = 0
    value: bool = False
    cost: dict[str, object] = {}


def result_to_json(result: TaskResult) -> bytes:
    """Return the stored form."""
    document = {name: getattr(result, name) for name in TaskResult._fields} | {"state": result.state.value}
    return json.dumps({"format": RESULT_FORMAT, **document}, sort_keys=True).encode() + b"\n"


def result_from_json(data: bytes, *, where: str) -> TaskResult:
    """Read a stored result; `where` names the object in messages.

    :raises Damaged: it is none, or one of a newer format.
    """
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            raise TypeError("no object")
        if document.pop("format", None) != RESULT_FORMAT:
            raise Damaged(f"{where} has another format than this envkit reads", resolution="update envkit")
        for name, kind in _KINDS.items():
            value = document[name]
            if not isinstance(value, kind) or (isinstance(value, bool) and name != "value"):
                raise TypeError(f"{name} is {value!r:.40}")
        return TaskResult(**{**document, "state": State(document["state"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"{where} is not the result of a task", details=str(error)) from error


_KINDS: dict[str, type | tuple[type, ...]] = {
    "index": int,
    "attempt": int,
    "state": str,
    "code": int,
    "node": str,
    "began": (int, float),
    "ended": (int, float),
    "error": str,
    "out": int,
    "err": int,
    "segments": int,
    "value": bool,
    "cost": dict,
}
