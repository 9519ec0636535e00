"""Owns reading what tasks leave: their output, while they run or afterwards, and the values of Python calls."""

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from envkit.errors import Conflict, NotFound
from envkit.model.jobid import TaskId
from envkit.model.task import State
from envkit.services.context import Context
from envkit.services.jobs.following import Book, Followed, Task, key_of
from envkit.services.jobs.output import STREAMS, read_output
from envkit.store import orders
from envkit.store.errors import ObjectNotFound

_FIRST = 0.2
_GROWTH = 1.5
_LONGEST = 5.0


class Write(Protocol):
    """Takes what a task has printed on a stream; `several`: it is one of several tasks."""

    def __call__(self, task: Task, stream: str, data: bytes, *, several: bool) -> None: ...


class StillRunning(Conflict):
    """The result of a task was asked for, and it has none yet."""

    def __init__(self, task: Task) -> None:
        super().__init__(
            f"{task.id} is not over: it is {task.state.value}", resolution=f"`envkit wait {task.id}` waits for it"
        )


class _Reader:
    """How far the output of a task has been read."""

    def __init__(self, context: Context, job: Followed, task: Task, streams: Sequence[str]) -> None:
        self.job, self.task = job, task
        self._context = context
        self._key = key_of(context, job.ticket.token, job.owner)
        self._segments = dict.fromkeys(streams, 0)

    def advance(self, write: Write, *, several: bool) -> bool:
        """Write what is there and was not read before; tell whether there was anything."""
        found = False
        for stream, first in self._segments.items():
            for data in read_output(
                self._context.store,
                self.job.owner,
                self.job.ticket.token,
                self._key,
                self.task.index,
                self.task.attempt,
                stream,
                first,
            ):
                write(self.task, stream, data, several=several)
                self._segments[stream] += 1
                found = True
        return found

    def update(self, task: Task) -> None:
        """Go on with another attempt, if there is one, from its beginning."""
        if task.attempt != self.task.attempt:
            self._segments = dict.fromkeys(self._segments, 0)
        self.task = task


def logs(
    context: Context,
    ids: Sequence[TaskId],
    write: Write,
    *,
    streams: Sequence[str] = STREAMS,
    follow: bool = False,
    owner: str | None = None,
) -> None:
    """Write what tasks have printed; with `follow` until they are over."""
    book = Book(context, owner=owner)
    readers = [_Reader(context, job, task, streams) for job in book.jobs(ids, results=True) for task in job.tasks]
    several = len(readers) > 1
    pause = _FIRST
    while readers:
        found = False
        for reader in readers:
            found |= reader.advance(write, several=several)
        readers = [reader for reader in readers if follow and not reader.task.state.over]
        if not readers:
            return
        pause = _FIRST if found else min(_LONGEST, pause * _GROWTH)
        time.sleep(pause)
        _look_again(book, readers)


def _look_again(book: Book, readers: Sequence[_Reader]) -> None:
    """Ask how tasks are, all in one question."""
    jobs = {reader.job.ticket.number: reader.job.ticket for reader in readers}
    statuses = book.queue.statuses(jobs)
    for number, ticket in jobs.items():
        mine = {reader.task.index: reader for reader in readers if reader.job.ticket.number == number}
        for task in book.followed(ticket, statuses.get(number), set(mine), results=True).tasks:
            mine[task.index].update(task)


def results(context: Context, ids: Sequence[TaskId], *, owner: str | None = None) -> list[Followed]:
    """Return jobs whose tasks are all over, with their orders.

    :raises StillRunning: one is not.
    """
    book = Book(context, owner=owner)
    found = book.jobs(ids, results=True)
    for job in found:
        for task in job.tasks:
            if not task.state.over:
                raise StillRunning(task)
    return book.with_orders(found)


def output(context: Context, job: Followed, task: Task, stream: str) -> Iterator[bytes]:
    """Yield what a task has printed on "out" or "err"."""
    key = key_of(context, job.ticket.token, job.owner)
    return read_output(context.store, job.owner, job.ticket.token, key, task.index, task.attempt, stream)


def value(context: Context, job: Followed, task: Task) -> bytes:
    """Return the value that a Python call has left, verified: a pickle of the function's result or exception.

    :raises NotFound: it left none.
    """
    key = key_of(context, job.ticket.token, job.owner)
    try:
        return orders.get_part(
            context.store,
            job.owner,
            job.ticket.token,
            key,
            task.index,
            task.attempt,
            orders.VALUE,
            limit=orders.MAX_VALUE,
        )
    except ObjectNotFound as error:
        why = task.error or (f"it is {task.state.value}" if task.state is not State.DONE else "it is no Python call")
        raise NotFound(f"{task.id} has left no value: {why}") from error
