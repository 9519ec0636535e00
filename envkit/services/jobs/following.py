"""Owns looking at jobs: what their queue says and what their tasks have left in the store, put together.

A task that has left a result is over, whatever its queue says; the result's state and code count. One that the queue
has forgotten, and that has left none, is lost.
"""

import fnmatch
import logging
import time
from collections.abc import Collection, Iterable, Sequence

from envkit.errors import Damaged, EnvkitError, InvalidInput, Unavailable
from envkit.model.ids import EnvRef, check_owner
from envkit.model.jobid import TaskId
from envkit.model.order import Order
from envkit.model.record import Record
from envkit.model.task import JobStatus, State, TaskResult, TaskStatus
from envkit.node.account import invoking_user
from envkit.queues.choose import open_queue
from envkit.queues.queue import JobUnknown, Queue
from envkit.services.context import Context, require_root
from envkit.services.jobs.sealing import submission_key
from envkit.services.jobs.ticketing import order_stack, pinned_order, ticket_of, token_of, write_ticket
from envkit.store import orders
from envkit.store.errors import ObjectNotFound
from envkit.store.orders import Ticket
from envkit.store.parallel import each

RECENT = 24 * 3600.0
"""Seconds for which jobs that are over are shown without being asked for."""
LIMIT = 50
"""How many of those are shown at most."""
_NO_RESULT = "it ended without a result: its node, or envkit there, was ended or failed"


class Task(Record):
    """A task as far as it is known. `attempt` is the last one that left anything; times are seconds since 1970, or 0.

    `reason` is the queue's, `error` envkit's own line; `result` what the task left, where that was looked for.
    """

    id: TaskId
    index: int
    state: State
    code: int | None = None
    attempt: int = 0
    node: str = ""
    began: float = 0.0
    ended: float = 0.0
    reason: str = ""
    error: str = ""
    result: TaskResult | None = None


class Followed(Record):
    """A job, and those of its tasks that were asked for; `order` where that was asked for, too."""

    owner: str
    ticket: Ticket
    tasks: tuple[Task, ...]
    user: str = ""
    order: Order | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to these tasks."""
        return all(task.state.over for task in self.tasks)


class Filter(Record):
    """Which jobs to show. `label` is a pattern as for files, `env` an environment, `limit` None shows all.

    `recent`: of those that are over only young ones.
    """

    label: str | None = None
    states: frozenset[State] = frozenset()
    env: str | None = None
    recent: bool = True
    limit: int | None = LIMIT


def key_of(context: Context, token: str, owner: str | None = None) -> bytes:
    """Return the key that seals what the tasks of a submission leave."""
    return submission_key(context.paths, owner or jobs_owner(None), token)


def jobs_owner(asked: str | None) -> str:
    """Return whose jobs are meant: the caller's, or for root those of somebody else, too.

    :raises Unavailable: somebody else's were asked for.
    """
    require_root("looking at jobs")
    own = check_owner(invoking_user().name)
    if asked is not None and asked != own and invoking_user().uid != 0:
        raise Unavailable(f"the jobs of {asked} are not yours to see", resolution="only root may")
    return own if asked is None else check_owner(asked)


def jobs(context: Context, wanted: Filter, *, owner: str | None = None, pinned: bool = False) -> list[Followed]:
    """Return somebody's jobs, the newest first; `pinned`: with their orders."""
    book = Book(context, owner=owner)
    found = book.recent(wanted)
    return book.with_orders(found) if pinned else found


def look(
    context: Context, ids: Sequence[TaskId], *, owner: str | None = None, results: bool = False, pinned: bool = False
) -> list[Followed]:
    """Return jobs by their numbers.

    :param results: what the tasks left is wanted, and not only what became of them.
    :raises JobUnknown: there is no such job, or not this owner's.
    """
    book = Book(context, owner=owner)
    found = book.jobs(ids, results=results)
    return book.with_orders(found) if pinned else found


class Book:
    """Somebody's jobs in a queue."""

    def __init__(self, context: Context, *, owner: str | None = None, queue: Queue | None = None) -> None:
        self._context = context
        self._store = context.store
        self.owner = jobs_owner(owner)
        self.queue = queue or open_queue(context.config, context.paths)

    def jobs(self, ids: Sequence[TaskId], *, results: bool = False) -> list[Followed]:
        """Return jobs in the order in which they are named, each with the tasks that are named.

        :raises JobUnknown: there is no such job or task.
        """
        asked: dict[int, set[int] | None] = {}
        for one in ids:
            known = asked.setdefault(one.job, set())
            asked[one.job] = None if one.index is None or known is None else known | {one.index}
        statuses = self.queue.statuses(asked)
        tickets = dict(zip(asked, each(lambda number: self._ticket(number, statuses.get(number)), asked), strict=True))
        for number, ticket in tickets.items():
            if ticket is None:
                raise JobUnknown(f"{self.owner} has no job {number}", resolution="see `envkit jobs --all`")
            missing = [index for index in asked[number] or () if index >= ticket.count]
            if missing:
                raise JobUnknown(f"job {number} has {ticket.count} tasks, 0 to {ticket.count - 1}, and no {missing[0]}")
        return [
            self.followed(ticket, statuses.get(number), asked[number], results=results)
            for number, ticket in tickets.items()
            if ticket is not None
        ]

    def recent(self, wanted: Filter) -> list[Followed]:
        """Return the jobs that pass a filter, the newest first."""
        statuses = self.queue.statuses()
        mine = {number for number, status in statuses.items() if token_of(status.comment, self.owner)}
        noted = set(orders.ticket_numbers(self._store, self.owner, self.queue.name))
        numbers = sorted(noted | mine, reverse=True)
        active = {number for number in numbers if number in statuses and _is_open(statuses[number])}
        if wanted.recent:
            numbers = [n for place, n in enumerate(numbers) if n in active or place < 10 * LIMIT]
        since = time.time() - RECENT if wanted.recent else 0.0
        found: list[Followed] = []
        over = 0
        env = None if wanted.env is None else _wanted_env(wanted.env, self._context.owner)
        for ticket in each(lambda number: self._ticket_or_note(number, statuses.get(number)), numbers):
            if ticket is None or not _passes(ticket, wanted.label, env):
                continue
            is_active = ticket.number in active
            if not is_active and (created(ticket) < since or (wanted.limit is not None and over >= wanted.limit)):
                continue
            job = self.followed(ticket, statuses.get(ticket.number), None)
            if wanted.states:
                job = job.replace(tasks=tuple(task for task in job.tasks if task.state in wanted.states))
            if job.tasks:
                over += not is_active
                found.append(job)
        return found

    def followed(
        self, ticket: Ticket, status: JobStatus | None, indexes: Collection[int] | None, *, results: bool = False
    ) -> Followed:
        """Return what is known of a job's tasks; `indexes` None means all."""
        if status is not None and status.comment and token_of(status.comment, self.owner) != ticket.token:
            status = None  # the queue has lost the job, and given its number to another one
        places = range(ticket.count) if indexes is None else sorted(indexes)
        in_queue = {} if status is None else {task.id.index or 0: task for task in status.tasks}
        unsure = [index for index in places if results or _needs_result(in_queue.get(index))]
        left = orders.attempts(self._store, self.owner, ticket.token) if unsure else {}
        key = submission_key(self._context.paths, self.owner, ticket.token)

        def known(index: int) -> Task:
            return self._task(ticket, index, in_queue.get(index), left.get(index, {}), key)

        surely = {index: self._task(ticket, index, in_queue.get(index), None, key) for index in {*places} - {*unsure}}
        looked = dict(zip(unsure, each(known, unsure), strict=True))
        tasks = tuple((surely | looked)[index] for index in places)
        return Followed(owner=self.owner, ticket=ticket, tasks=tasks, user="" if status is None else status.user)

    def with_orders(self, found: Sequence[Followed]) -> list[Followed]:
        """Return jobs with their orders; without one where it is gone."""

        def complete(job: Followed) -> Followed:
            try:
                return job.replace(order=pinned_order(self._context, self.owner, job.ticket.token))
            except EnvkitError:
                return job

        return list(each(complete, found))

    def _ticket(self, number: int, status: JobStatus | None) -> Ticket | None:
        """Return a job's ticket; makes the one of a job whose submitter died before it wrote it."""
        token = None if status is None else token_of(status.comment, self.owner)
        try:
            ticket = orders.get_ticket(self._store, self.owner, self.queue.name, number)
        except ObjectNotFound:
            ticket = None
        if token is None or (ticket is not None and ticket.token == token):
            return ticket
        try:
            ticket = ticket_of(pinned_order(self._context, self.owner, token), number)
        except (ObjectNotFound, Damaged):
            return None
        write_ticket(self._store, self.owner, self.queue.name, ticket)
        return ticket

    def _ticket_or_note(self, number: int, status: JobStatus | None) -> Ticket | None:
        """Return a job's ticket; of one that is damaged only say so: the other jobs can be shown."""
        try:
            return self._ticket(number, status)
        except Damaged as error:
            logging.getLogger("envkit").warning("job %d is left out: %s", number, error.brief)
            return None

    def _task(
        self, ticket: Ticket, index: int, status: TaskStatus | None, left: dict[int, list[str]] | None, key: bytes
    ) -> Task:
        """Return a task; `left` is what it has left by attempt, None where nobody looked."""
        name = TaskId(job=ticket.number, index=index if ticket.array else None)
        attempt = max(left or (), default=0)
        begins_again = status is not None and status.state in (State.WAITING, State.QUEUED)
        damaged = ""
        if left and orders.RESULT in left[attempt] and not begins_again:
            try:
                result = orders.get_result(self._store, self.owner, ticket.token, key, index, attempt)
            except Damaged as error:
                result, damaged = None, error.brief
            if result is not None:
                return _of_result(name, index, result, status)
        if status is None:
            return Task(id=name, index=index, state=State.LOST, attempt=attempt, error=damaged or _NO_RESULT)
        silent = status.state in (State.FAILED, State.DONE) and left is not None
        return Task(
            id=name,
            index=index,
            state=status.state,
            code=status.code,
            attempt=attempt,
            node=status.node,
            began=status.began,
            ended=status.ended,
            reason=status.reason,
            error=damaged or (_NO_RESULT if silent else ""),
        )


def _is_open(status: JobStatus) -> bool:
    return any(not task.state.over for task in status.tasks)


def _of_result(name: TaskId, index: int, result: TaskResult, status: TaskStatus | None) -> Task:
    return Task(
        id=name,
        index=index,
        state=result.state if result.state.over else State.FAILED,
        code=None if result.state is State.KILLED and not result.began else result.code,
        attempt=result.attempt,
        node=result.node or ("" if status is None else status.node),
        began=result.began,
        ended=result.ended,
        reason="" if status is None else status.reason,
        error=result.error,
        result=result,
    )


def _needs_result(status: TaskStatus | None) -> bool:
    """Tell whether the store has to be asked what became of a task: not where it runs, waits, or ended well."""
    return status is None or (status.state.over and status.state is not State.DONE)


def _wanted_env(text: str, owner: str) -> EnvRef:
    ref = EnvRef.parse(text, owner=owner)
    if ref.tag is not None:
        raise InvalidInput(
            f"jobs know the number of their version, not the tag {ref.tag!r}",
            resolution=f"`envkit log {ref.env}` says which one it is",
        )
    return ref


def _passes(ticket: Ticket, label: str | None, env: EnvRef | None) -> bool:
    if label is not None and not fnmatch.fnmatchcase(ticket.label, label):
        return False
    if env is None:
        return True
    return ticket.reference == str(env) if env.version else ticket.reference.rpartition("@")[0] == str(env.env)


def created(ticket: Ticket) -> float:
    """Return when a job was submitted, in seconds since 1970; 0 where its ticket does not say."""
    import calendar

    try:
        return float(calendar.timegm(time.strptime(ticket.created, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return 0.0


def rows_json(found: Iterable[Followed]) -> list[dict[str, object]]:
    """Return jobs for `--json`: a row for each task."""
    return [task_json(job, task) for job in found for task in job.tasks]


def task_json(job: Followed, task: Task) -> dict[str, object]:
    """Return a task for `--json`; null where something is not known."""
    ticket, order = job.ticket, job.order
    return {
        "id": str(task.id),
        "job": ticket.number,
        "index": task.index,
        "state": task.state.value,
        "code": task.code,
        "environment": ticket.reference,
        "digest": None if order is None else order_stack(order),
        "label": ticket.label or None,
        "node": task.node or None,
        "created": ticket.created or None,
        "began": _moment(task.began),
        "ended": _moment(task.ended),
        "reason": task.reason or None,
        "command": ticket.command,
        "parameters": None if order is None else order.parameters(task.index),
        "error": task.error or None,
    }


def _moment(seconds: float) -> str | None:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds else None
