"""Owns ending jobs before their time: which of them the caller may end, and what became of it."""

from collections.abc import Sequence

from envkit.errors import Unavailable
from envkit.model.jobid import TaskId
from envkit.node.account import invoking_user
from envkit.services.context import Context
from envkit.services.jobs.following import Book, Followed


def kill(context: Context, ids: Sequence[TaskId], *, owner: str | None = None) -> tuple[list[TaskId], list[TaskId]]:
    """End jobs and tasks; return those that were ended, and those that were over already.

    :raises JobUnknown: there is no such job of this owner's.
    """
    book = Book(context, owner=owner)
    known = book.jobs(ids)
    for job in known:
        check_owner(job)
    here = {job.ticket.number for job in known if job.user}  # others are forgotten; their numbers may mean other jobs
    late = {one for one in ids if one.job not in here}
    late |= set(book.queue.kill([one for one in ids if one not in late]))
    return [one for one in ids if one not in late], [one for one in ids if one in late]


def check_owner(job: Followed) -> None:
    """Refuse to touch a job of the queue that belongs to somebody else, whatever a ticket in the store says.

    :raises Unavailable: it does.
    """
    account = invoking_user()
    if account.uid and job.user not in ("", account.name, str(account.uid)):
        raise Unavailable(f"job {job.ticket.number} belongs to {job.user} now", resolution="the queue has counted anew")
