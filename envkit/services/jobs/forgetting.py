"""Owns forgetting jobs that ended long ago: their orders, tickets, output and results; and what open orders still need.

A job that waits or runs is never forgotten. Of a job in a queue that this machine cannot ask, only the results in the
store say that it is over, or its age. An order without any ticket was never queued: its submitter died before.
"""

from collections.abc import Iterable, Iterator, Sequence

from envkit.errors import Conflict, Damaged, EnvkitError
from envkit.model.jobid import TaskId
from envkit.model.order import MAX_TIME
from envkit.model.record import Record
from envkit.queues.choose import open_queue
from envkit.queues.queue import Queue
from envkit.services.context import Context, require_root
from envkit.services.jobs.following import Book
from envkit.store import layout, orders
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound
from envkit.store.parallel import each

KEPT = 30 * 86_400.0
"""Seconds after its submission for which a job that is over can be looked at."""
_FORSAKEN = KEPT + MAX_TIME
"""Seconds after which no job of a queue that nobody can ask is still waiting or running."""


class _Old(Record):
    """An order that is old enough, how many tasks have left a result, and its jobs: (queue, number)."""

    owner: str
    token: str
    written: float
    results: int
    jobs: tuple[tuple[str, int], ...] = ()


def forget(context: Context, ids: Sequence[TaskId], *, owner: str | None = None) -> list[int]:
    """Delete what the store has of some jobs; return their numbers.

    :raises Conflict: one is not over.
    """
    require_root("forgetting a job")
    book = Book(context, owner=owner)
    found = book.jobs([TaskId(job=one.job) for one in ids])
    for job in found:
        if not job.over:
            raise Conflict(
                f"job {job.ticket.number} is not over", resolution=f"`envkit kill {job.ticket.number}` ends it"
            )
    for job in found:
        _delete(context.store, job.owner, job.ticket.token, [(book.queue.name, job.ticket.number)])
    return [job.ticket.number for job in found]


def forget_old(context: Context, *, now: float, dry_run: bool = False) -> int:
    """Delete what the store has of jobs that ended long ago; return how many these are.

    :param now: the time by the store's clock.
    """
    old = _with_jobs(context.store, _old_orders(context.store, now - KEPT), now - KEPT)
    if not old:
        return 0
    queue = open_queue(context.config, context.paths)
    statuses = queue.statuses()
    busy = {number for number, job in statuses.items() if any(not task.state.over for task in job.tasks)}
    named = " ".join(statuses[number].comment for number in busy)
    count = 0
    for order in old:
        if order.token not in named and _is_over(context.store, order, queue, busy, now):
            count += 1
            if not dry_run:
                _delete(context.store, order.owner, order.token, order.jobs)
    return count


def needed_layers(store: Store) -> set[str]:
    """Return the layers of all orders whose tasks have not all left a result: some task may still be to begin."""
    tokens: dict[tuple[str, str], int] = {}
    for key in store.list(layout.JOBS):
        place = layout.order_of(key)
        if place is not None:
            tokens[place] = tokens.get(place, 0) + _is_result(key)
    needed: set[str] = set()
    for layers in each(lambda item: _layers(store, *item), tokens.items()):
        needed |= layers
    return needed


def _layers(store: Store, place: tuple[str, str], results: int) -> set[str]:
    try:
        order = orders.get_order(store, *place)
    except (ObjectNotFound, Damaged):  # no task would begin with it either
        return set()
    return set() if results >= order.count else {layer.tree for layer in order.layers}


def _is_result(key: str) -> bool:
    task = layout.task_of(key)
    return task is not None and task[2] == orders.RESULT


def _old_orders(store: Store, before: float) -> dict[tuple[str, str], _Old]:
    """Return the orders that were stored before a time, with those of which only something else is left."""
    found: dict[tuple[str, str], _Old] = {}
    young: set[tuple[str, str]] = set()
    for key, status in store.list_status(layout.JOBS):
        place = layout.order_of(key)
        if place is None:
            continue
        if status.modified >= before:
            young.add(place)  # also an old order with a task that wrote something lately
            continue
        known = found.get(place) or _Old(owner=place[0], token=place[1], written=0.0, results=0)
        found[place] = known.replace(
            written=max(known.written, status.modified), results=known.results + _is_result(key)
        )
    return {place: order for place, order in found.items() if place not in young}


def _with_jobs(store: Store, old: dict[tuple[str, str], _Old], before: float) -> list[_Old]:
    """Add to orders which jobs they are."""
    if not old:
        return []
    owners = {owner for owner, _ in old}
    places = [
        place
        for key, status in store.list_status(layout.TICKETS)
        if (place := layout.ticket_of(key)) is not None and place[0] in owners and status.modified < before
    ]
    for (owner, queue, number), token in zip(places, each(lambda place: _token(store, *place), places), strict=True):
        order = old.get((owner, token))
        if order is not None:
            old[owner, token] = order.replace(jobs=(*order.jobs, (queue, number)))
    return list(old.values())


def _token(store: Store, owner: str, queue: str, number: int) -> str:
    try:
        return orders.get_ticket(store, owner, queue, number).token
    except (ObjectNotFound, Damaged):
        return ""


def _is_over(store: Store, order: _Old, queue: Queue, busy: Iterable[int], now: float) -> bool:
    if any(name == queue.name and number in busy for name, number in order.jobs):
        return False
    if all(name == queue.name for name, _ in order.jobs):
        return True
    if now - order.written > _FORSAKEN:
        return True
    try:
        return order.results >= orders.get_order(store, order.owner, order.token).count
    except ObjectNotFound:
        return True
    except Damaged:
        return False


def _delete(store: Store, owner: str, token: str, jobs: Iterable[tuple[str, int]]) -> None:
    """Delete an order with all that belongs to it, and then its tickets: what is left names what is to be deleted."""
    orders.forget(store, owner, token)
    for key in _ticket_keys(owner, jobs):
        store.delete(key)


def _ticket_keys(owner: str, jobs: Iterable[tuple[str, int]]) -> Iterator[str]:
    return (layout.ticket_key(owner, queue, number) for queue, number in jobs)


def forget_old_or_say(context: Context, *, now: float, dry_run: bool) -> tuple[int, str]:
    """Do what `forget_old` does; where the queue does not answer, return why instead of failing."""
    try:
        return forget_old(context, now=now, dry_run=dry_run), ""
    except EnvkitError as error:
        return 0, f"no jobs were forgotten: {error.brief}"
