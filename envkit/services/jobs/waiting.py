"""Owns waiting for jobs: one question to the queue for all of them at a time, more seldom the longer it takes."""

import time
from collections.abc import Callable, Iterable, Sequence

from envkit.model.jobid import TaskId
from envkit.model.task import State
from envkit.queues.queue import QueueFailed
from envkit.services.context import Context
from envkit.services.jobs.following import Book, Followed, Task

_FIRST = 0.1
_GROWTH = 1.5
_LONGEST = 10.0
_SHORTEST_LONGEST = 2.0
_TASKS_A_SECOND = 100
"""Of so many tasks the queue is asked once a second at most."""
_PATIENCE = 300.0
"""Seconds for which a queue may be silent, as while its server is started again."""

Change = Callable[[Followed, Task], None]


def wait(
    context: Context,
    ids: Sequence[TaskId],
    *,
    timeout: float | None = None,
    on_change: Change | None = None,
    until: Callable[[Task], bool] | None = None,
    owner: str | None = None,
) -> tuple[list[Followed], bool]:
    """Wait until some tasks are over, or what `until` says of each.

    :param on_change: called with each task whose state is another than before, at first with all.
    :returns: how they are in the end, and whether they got there in time.
    :raises JobUnknown: there is no such job.
    """
    book = Book(context, owner=owner)
    deadline = None if timeout is None else time.monotonic() + timeout
    reached = until or (lambda task: task.state.over)
    found = book.jobs(ids)
    states: dict[tuple[int, int], State] = {}
    pause = _FIRST
    while True:
        changed = _tell(found, states, on_change)
        waiting = sum(not reached(task) for job in found for task in job.tasks)
        if not waiting:
            return found, True
        longest = min(_LONGEST, max(_SHORTEST_LONGEST, waiting / _TASKS_A_SECOND))
        pause = _FIRST if changed else min(longest, pause * _GROWTH)
        pause = max(pause, min(longest, waiting / _TASKS_A_SECOND))
        if deadline is not None:
            pause = min(pause, deadline - time.monotonic())
            if pause <= 0:
                return found, False
        time.sleep(pause)
        found = _patiently(book, found)


def _patiently(book: Book, before: Sequence[Followed]) -> list[Followed]:
    """Ask again for the tasks that were not over; try for a while where the queue does not answer."""
    silent_until = time.monotonic() + _PATIENCE
    open_jobs = {job.ticket.number: job for job in before if not job.over}
    statuses = None
    while statuses is None:
        try:
            statuses = book.queue.statuses(open_jobs)
        except QueueFailed:
            if time.monotonic() > silent_until:
                raise
            time.sleep(_LONGEST)
    found = []
    for job in before:
        number = job.ticket.number
        if number in open_jobs:
            job = _merged(job, book.followed(job.ticket, statuses.get(number), _open(job.tasks)))
        found.append(job)
    return found


def _open(tasks: Iterable[Task]) -> set[int]:
    return {task.index for task in tasks if not task.state.over}


def _merged(before: Followed, now: Followed) -> Followed:
    news = {task.index: task for task in now.tasks}
    return before.replace(tasks=tuple(news.get(task.index, task) for task in before.tasks))


def _tell(found: Iterable[Followed], states: dict[tuple[int, int], State], on_change: Change | None) -> bool:
    """Tell of tasks whose state is another than before; return whether there were any."""
    changed = False
    for job in found:
        for task in job.tasks:
            name = (job.ticket.number, task.index)
            if states.get(name) is not task.state:
                states[name] = task.state
                changed = True
                if on_change is not None:
                    on_change(job, task)
    return changed
