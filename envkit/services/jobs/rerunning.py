"""Owns running a job again: the same layers, the same command, the same input, as a new job."""

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from envkit.errors import Damaged, InvalidInput, NotFound
from envkit.model.jobid import TaskId
from envkit.model.order import TASK_NUMBER, Input, Order
from envkit.model.task import State
from envkit.model.version import Version, VersionKind
from envkit.queues.choose import open_queue
from envkit.services.context import Context, require_root
from envkit.services.jobs import preflight
from envkit.services.jobs.following import Book
from envkit.services.jobs.submitting import Submitted, enqueue, job_owner
from envkit.services.jobs.ticketing import KEEPER, pinned_order
from envkit.store import layout, versions
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound

_BLOCK = 8 << 20


def rerun(context: Context, job: TaskId, *, failed: bool = False) -> tuple[Submitted, Order]:
    """Queue a job again, or one task of it; with `failed` only the tasks that are over and did not end well.

    :returns: the new job, and its order.
    :raises NotFound: the order is gone, or no task has failed.
    """
    require_root("submitting a job")
    account, owner = job_owner()
    queue = open_queue(context.config, context.paths)
    known = Book(context, owner=owner, queue=queue).jobs([job])[0]
    try:
        order = pinned_order(context, owner, known.ticket.token)
    except ObjectNotFound as error:
        raise NotFound(f"what job {job.job} was is forgotten", resolution="submit it again") from error
    if order.job.command[0] == KEEPER:
        raise InvalidInput(f"job {job.job} was interactive", resolution="use `envkit shell-on`")
    wanted = known.tasks
    if failed:
        wanted = tuple(task for task in wanted if task.state.over and task.state is not State.DONE)
        if not wanted:
            raise NotFound(f"no task of job {job.job} has failed")
    indexes = [task.index for task in wanted]
    again = order.replace(
        token=secrets.token_hex(16),
        uid=account.uid,
        gid=account.gid,
        depends_on=(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    found = preflight.check(context, _pinned(context.store, order), order.resources, queue.nodes())
    if len(indexes) < order.count:
        again = _some(again, order, indexes)
    parts = _parts(order, indexes)
    if again.input is not None and len(parts) > 1:
        whole = hashlib.sha256()
        for piece in _pieces(context.store, order, parts):
            whole.update(piece)
        again = again.replace(input=again.input.replace(digest=whole.hexdigest()))
    return enqueue(context, queue, again, _pieces(context.store, order, parts), found), again


def _pinned(store: Store, order: Order) -> Version:
    """Return the version that an order pins, be it deleted or not; if it is gone, as far as the order knows it."""
    with suppress(NotFound, Damaged):
        version = versions.load(store, order.env, order.version)
        if version.layers == order.layers:
            return version
    return Version(
        env=order.env, number=order.version, kind=VersionKind.ENVIRONMENT, layers=order.layers, arch=order.arch
    )


def _some(again: Order, order: Order, indexes: Sequence[int]) -> Order:
    """Return an order with some tasks only; each of them still sees the number that it had."""
    names, rows = order.names, order.rows or tuple(() for _ in range(order.count))
    if order.array and TASK_NUMBER not in names:
        names = (*names, TASK_NUMBER)
        rows = tuple((*row, str(index)) for index, row in enumerate(rows))
    given = order.input
    if given is not None and given.offsets:
        given = _some_parts(given, indexes)
    return again.replace(count=len(indexes), names=names, rows=tuple(rows[index] for index in indexes), input=given)


def _some_parts(given: Input, indexes: Sequence[int]) -> Input:
    """Return the input of some tasks, all but its own digest."""
    lengths = [given.part(0)[1], *(given.part(index + 1)[1] for index in indexes)]
    offsets = tuple(sum(lengths[: place + 1]) for place in range(len(indexes)))
    digests = (given.digests[0], *(given.digests[index + 1] for index in indexes))
    return given.replace(size=sum(lengths), offsets=offsets, digests=digests)


def _parts(order: Order, indexes: Sequence[int]) -> list[tuple[int, int, str]]:
    """Return start, length and digest of what is taken of the input of an order."""
    given = order.input
    if given is None:
        return []
    if not given.offsets or len(indexes) == order.count:
        return [(0, given.size, given.digest)]
    return [given.part(0), *(given.part(index + 1) for index in indexes)]


def _pieces(store: Store, order: Order, parts: Sequence[tuple[int, int, str]]) -> Iterator[bytes]:
    """Yield parts of the input of an order, verified.

    :raises Damaged: it is another one.
    """
    if order.input is None:
        return
    key = layout.input_key(order.owner, order.token, order.input.digest)
    for start, length, wanted in parts:
        digest = hashlib.sha256()
        for at in range(start, start + length, _BLOCK):
            data = store.get_range(key, at, min(_BLOCK, start + length - at))
            digest.update(data)
            yield data
        if digest.hexdigest() != wanted:
            raise Damaged(f"{key} is not the input that was submitted")
