"""Owns how jobs and their tasks are called: `12`, `12_3` for a task of an array, and ranges of both for people."""

import re
from collections.abc import Iterable

from envkit.errors import InvalidInput
from envkit.model.record import Record

MAX_TASKS = 100_000
MAX_NUMBER = (1 << 31) - 1
RULE = "use 12, 12_3 (a task of it), 12-15, 12_0-9, or several with commas"
_PART = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")
_TASKS = re.compile(r"([0-9]{1,10})_([0-9]{1,10})(?:-([0-9]{1,10}))?")


class TaskId(Record):
    """A job by its number in its queue, and one task of it; `index` None means the job as a whole."""

    job: int
    index: int | None = None

    def __str__(self) -> str:
        return str(self.job) if self.index is None else f"{self.job}_{self.index}"


def is_job(text: str) -> bool:
    """Tell whether text looks like the number of a job, or of a task, rather than like a name."""
    return _PART.fullmatch(text) is not None or _TASKS.fullmatch(text) is not None


def parse_id(text: str) -> TaskId:
    """Read one job or task.

    :raises InvalidInput: it is none, or more than one.
    """
    found = parse_ids([text])
    if len(found) != 1:
        raise InvalidInput(f"{text!r:.80} means several jobs", resolution="give one")
    return found[0]


def parse_ids(texts: Iterable[str]) -> list[TaskId]:
    """Read jobs, tasks and ranges of them, each text with commas; without repetition, in the order given.

    :raises InvalidInput: a part is none of these, or they are more than 100,000.
    """
    found: dict[TaskId, None] = {}
    for text in texts:
        for part in text.split(","):
            for one in _expanded(part.strip()):
                found[one] = None
                if len(found) > MAX_TASKS:
                    raise InvalidInput(f"{text!r:.80} means more than {MAX_TASKS} jobs")
    return list(found)


def _expanded(part: str) -> Iterable[TaskId]:
    if match := _PART.fullmatch(part):
        return (TaskId(job=number) for number in _range(part, match[1], match[2]))
    if match := _TASKS.fullmatch(part):
        job = _range(part, match[1], None)[0]
        return (TaskId(job=job, index=number) for number in _range(part, match[2], match[3]))
    raise InvalidInput(f"{part!r:.80} is no job", resolution=RULE)


def _range(part: str, first: str, last: str | None) -> range:
    start, end = int(first), int(last or first)
    if end < start or end > MAX_NUMBER:
        raise InvalidInput(f"{part!r:.80} is no range of jobs", resolution=RULE)
    return range(start, end + 1)
