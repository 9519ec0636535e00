"""Owns ending jobs before their time: which of them the caller may end, and what became of it."""

import logging
import time
from collections.abc import Sequence

from envkit.errors import EnvkitError, Unavailable
from envkit.model.jobid import TaskId
from envkit.model.task import State, TaskResult
from envkit.node.account import invoking_user
from envkit.services.context import Context
from envkit.services.jobs.following import Book, Followed, Task, key_of
from envkit.services.jobs.ticketing import pinned_order
from envkit.store import orders
from envkit.store.parallel import each

_CODE = 1
"""A result has to have a code; of a task that never began nobody is told it."""


def kill(context: Context, ids: Sequence[TaskId], *, owner: str | None = None) -> tuple[list[TaskId], list[TaskId]]:
    """End jobs and tasks; return those that were ended, and those that were over already.

    What had not begun has a result from then on, as if it had left one: queues forget, and then it would seem lost.

    :raises JobUnknown: there is no such job of this owner's.
    """
    book = Book(context, owner=owner)
    known = book.jobs(ids)
    for job in known:
        check_owner(job)
    here = {job.ticket.number for job in known if job.user}  # others are forgotten; their numbers may mean other jobs
    late = {one for one in ids if one.job not in here}
    late |= set(book.queue.kill([one for one in ids if one not in late]))
    ended = [one for one in ids if one not in late]
    try:
        _seal_unbegun(context, book, ended)
    except EnvkitError as error:
        logging.getLogger("envkit").warning("ended, but not noted for good: %s", error.brief)
    return ended, [one for one in ids if one in late]


def _seal_unbegun(context: Context, book: Book, ended: Sequence[TaskId]) -> None:
    """Leave a result for each task that never began, by the word of the queue after it was ended.

    Should one begin all the same, its own result is stored under the next attempt, and counts.
    """
    for job in book.jobs(ended) if ended else ():
        unbegun = [task for task in job.tasks if _never_began(task)]
        if unbegun:
            _seal(context, job, unbegun)


def _seal(context: Context, job: Followed, tasks: Sequence[Task]) -> None:
    order = pinned_order(context, job.owner, job.ticket.token)
    key = key_of(context, job.ticket.token, job.owner)
    now = time.time()

    def seal(task: Task) -> None:
        result = TaskResult(index=task.index, attempt=task.attempt, state=State.KILLED, code=_CODE, ended=now)
        orders.put_result(context.store, order, key, result)

    with context.progress.step("noting", total=len(tasks), unit="tasks") as step:
        for _ in each(seal, tasks):
            step.advance(1)


def _never_began(task: Task) -> bool:
    return task.state is State.KILLED and task.result is None and not task.began


def check_owner(job: Followed) -> None:
    """Refuse to touch a job of the queue that belongs to somebody else, whatever a ticket in the store says.

    :raises Unavailable: it does.
    """
    account = invoking_user()
    if account.uid and job.user not in ("", account.name, str(account.uid)):
        raise Unavailable(f"job {job.ticket.number} belongs to {job.user} now", resolution="the queue has counted anew")
