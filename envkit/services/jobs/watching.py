"""Owns following many jobs for one client, for as long as it lives: what became of tasks, and the values they left.

Unlike `waiting.py` it takes further jobs as time goes by, and looks up what a task left when it is over: small values
go out at once, so that five hundred of them need not be asked for one by one.
"""

from collections import deque
from collections.abc import Iterator

from envkit.errors import Damaged
from envkit.model.jobid import TaskId
from envkit.model.record import Record
from envkit.model.task import State
from envkit.queues.queue import JobUnknown
from envkit.services.context import Context
from envkit.services.jobs.following import Book, Followed, Task, key_of, task_json
from envkit.services.jobs.output import read_output
from envkit.store import orders
from envkit.store.errors import ObjectNotFound, ObjectTooLarge
from envkit.store.orders import Ticket
from envkit.store.parallel import each

INLINE = 1 << 20
"""Values of more bytes than this are asked for one by one."""
_LAST_WORDS = 4096
FIRST_PAUSE = 0.1
_GROWTH = 1.4
_LAST_PAUSE = 5.0
_TASKS_A_SECOND = 100
"""Of so many tasks the queue is asked once a second at most."""


class Event(Record):
    """A task whose state is another than before: its JSON row, and a small value."""

    row: dict[str, object]
    data: bytes | None = None


class _Open(Record):
    """A job some of whose tasks are not over yet."""

    ticket: Ticket
    states: dict[int, State | None]


class Watch:
    """Jobs of somebody that are followed until they are over.

    :ivar pause: seconds to wait before the next look: few after something happened, then more and more.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = Book(context)
        self._open: dict[int, _Open] = {}
        self.pause = FIRST_PAUSE

    @property
    def idle(self) -> bool:
        """Whether all that was asked for is over."""
        return not self._open

    def add(self, number: int) -> Iterator[Event]:
        """Follow a job; one that is not known is told as lost."""
        self.pause = FIRST_PAUSE
        try:
            job = self._book.jobs([TaskId(job=number)])[0]
        except JobUnknown as error:
            lost = {"id": str(number), "job": number, "index": None, "state": State.LOST.value, "error": error.brief}
            yield Event(row=lost)
            return
        self._open[number] = _Open(ticket=job.ticket, states=dict.fromkeys(range(job.ticket.count)))

    def look(self) -> Iterator[Event]:
        """Ask the queue once for all jobs, and yield what has changed.

        :raises QueueFailed: it does not answer.
        """
        changed = False
        statuses = self._book.queue.statuses(self._open) if self._open else {}
        for number, known in list(self._open.items()):
            job = self._book.followed(known.ticket, statuses.get(number), set(known.states))
            news = [task for task in job.tasks if task.state is not known.states[task.index]]
            over = {task.index for task in news if task.state.over}
            changed = changed or bool(news)
            for task in news:
                known.states[task.index] = task.state
                if not task.state.over:
                    yield Event(row=task_json(job, task))
            if over:
                ended = self._book.followed(known.ticket, statuses.get(number), over, results=True)
                yield from each(lambda task, job=ended: self._ended(job, task), ended.tasks)  # type: ignore[misc]
            for index in over:
                del known.states[index]
            if not known.states:
                del self._open[number]
        waiting = sum(len(known.states) for known in self._open.values())
        pause = FIRST_PAUSE if changed else self.pause * _GROWTH
        self.pause = min(_LAST_PAUSE, max(pause, waiting / _TASKS_A_SECOND))

    def _ended(self, job: Followed, task: Task) -> Event:
        """Return what to tell of a task that is over."""
        row = task_json(job, task)
        try:
            return self._left(job, task, row)
        except Damaged as error:  # of this task, and no reason not to tell of the others
            return Event(row=row | {"value": False, "error": error.brief})

    def _left(self, job: Followed, task: Task, row: dict[str, object]) -> Event:
        token = job.ticket.token
        key = key_of(self._context, token, job.owner)
        place = (self._context.store, job.owner, token, key, task.index, task.attempt)
        if task.result is None or not task.result.value:
            last = b"".join(deque(read_output(*place, "err"), maxlen=2))[-_LAST_WORDS:]
            return Event(row=row | {"value": False, "stderr": last.decode("utf-8", "replace")})
        try:
            data = orders.get_part(*place, orders.VALUE, limit=INLINE)
        except ObjectTooLarge:
            return Event(row=row | {"value": True})
        except ObjectNotFound:
            return Event(row=row | {"value": False, "error": "its value is gone from the store"})
        return Event(row=row | {"value": True, "sent": len(data)}, data=data)
