"""Owns orders and what belongs to them as objects of a store: input, results, output, and the tickets of jobs.

Orders and inputs are checked with digests that do not come from the store. What tasks leave is sealed (see `seal`), so
that only who has the submission's key can have written it.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress

from envkit.errors import Damaged
from envkit.model.order import MAX_ORDER_BYTES, Input, Order, order_from_json, order_to_json
from envkit.model.record import Record
from envkit.model.task import MAX_RESULT_BYTES, TaskResult, result_from_json, result_to_json
from envkit.store import layout
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound

MAX_TICKET_BYTES = 64 << 10
MAX_SEGMENT = 8 << 20
MAX_VALUE = 4 << 30
RESULT = "result"
VALUE = "value"
PINNED = "order"
"""The part in which the submitter, as task 0, attempt 0, seals the digest of the order."""
_SEAL = 32


class Ticket(Record):
    """Which order a job of a queue is, and what a list of jobs shows of it."""

    number: int
    token: str
    reference: str
    label: str
    command: str
    count: int
    created: str
    array: bool = False


def put_order(store: Store, order: Order) -> str:
    """Store an order; return its digest."""
    data = order_to_json(order)
    store.put_if_absent(layout.order_key(order.owner, order.token), data)
    return hashlib.sha256(data).hexdigest()


def get_order(store: Store, owner: str, token: str, *, digest: str | None = None) -> Order:
    """Return an order.

    :param digest: the one that it must have, where that is known.
    :raises ObjectNotFound: there is none.
    :raises Damaged: it is no order, or not that one.
    """
    key = layout.order_key(owner, token)
    order = order_from_json(store.get(key, limit=MAX_ORDER_BYTES), where=key, digest=digest)
    if (order.owner, order.token) != (owner, token):
        raise Damaged(f"{key} is the order of another job")
    return order


def put_input(store: Store, owner: str, token: str, pieces: Iterable[bytes], digest: str) -> None:
    """Store the input of an order."""
    store.put_if_absent(layout.input_key(owner, token, digest), pieces)


def get_input(store: Store, order: Order, given: Input, *, limit: int) -> bytes:
    """Return the whole input of an order, verified.

    :raises Damaged: it is another one.
    """
    key = layout.input_key(order.owner, order.token, given.digest)
    data = store.get(key, limit=limit)
    if hashlib.sha256(data).hexdigest() != given.digest:
        raise Damaged(f"{key} is not the input that was submitted")
    return data


def seal(key: bytes, name: str, data: bytes) -> bytes:
    """Return data behind a seal: HMAC-SHA-256 under a submission's key, over the object's name and the data."""
    return _mac(key, name, data) + data


def unseal(key: bytes, name: str, sealed: bytes) -> bytes:
    """Return data without its seal.

    :raises Damaged: somebody else wrote it, for another name, or it was changed.
    """
    data = sealed[_SEAL:]
    if not hmac.compare_digest(_mac(key, name, data), sealed[:_SEAL]):
        raise Damaged(f"{name} was not written by the job that it belongs to")
    return data


def _mac(key: bytes, name: str, data: bytes) -> bytes:
    mac = hmac.new(key, name.encode() + b"\0", "sha256")
    mac.update(data)  # not in one piece: a value may have gigabytes
    return mac.digest()


def put_part(store: Store, order: Order, key: bytes, index: int, attempt: int, part: str, data: bytes) -> bool:
    """Store something that an attempt at a task leaves, sealed; False if there is something, which stays."""
    name = layout.task_key(order.owner, order.token, index, attempt, part)
    return store.put_if_absent(name, seal(key, name, data))


def get_part(
    store: Store, owner: str, token: str, key: bytes, index: int, attempt: int, part: str, *, limit: int
) -> bytes:
    """Return something that an attempt at a task has left, at most `limit` bytes.

    :raises ObjectNotFound: there is none.
    :raises Damaged: it is not that task's.
    """
    name = layout.task_key(owner, token, index, attempt, part)
    return unseal(key, name, store.get(name, limit=limit + _SEAL))


def put_result(store: Store, order: Order, key: bytes, result: TaskResult) -> None:
    """Store the result of an attempt at a task."""
    put_part(store, order, key, result.index, result.attempt, RESULT, result_to_json(result))


def get_result(store: Store, owner: str, token: str, key: bytes, index: int, attempt: int) -> TaskResult | None:
    """Return the result of an attempt at a task, or None where there is none yet.

    :raises Damaged: it is not that task's.
    """
    try:
        data = get_part(store, owner, token, key, index, attempt, RESULT, limit=MAX_RESULT_BYTES)
    except ObjectNotFound:
        return None
    result = result_from_json(data, where=layout.task_key(owner, token, index, attempt, RESULT))
    if (result.index, result.attempt) != (index, attempt):
        raise Damaged(f"a result of order {token} is that of another task")
    return result


def attempts(store: Store, owner: str, token: str) -> dict[int, dict[int, list[str]]]:
    """Return what an order's tasks have left: parts by attempt, by task."""
    found: dict[int, dict[int, list[str]]] = {}
    for name in store.list(layout.order_prefix(owner, token)):
        place = layout.task_of(name)
        if place is not None:
            index, attempt, part = place
            found.setdefault(index, {}).setdefault(attempt, []).append(part)
    return found


def put_ticket(store: Store, owner: str, queue: str, ticket: Ticket) -> None:
    """Note which order a job is; whoever notes it first, submitter or task, says the same."""
    data = json.dumps({name: getattr(ticket, name) for name in Ticket._fields}, sort_keys=True).encode()
    store.put_if_absent(layout.ticket_key(owner, queue, ticket.number), data)


def get_ticket(store: Store, owner: str, queue: str, number: int) -> Ticket:
    """Return the ticket of a job.

    :raises ObjectNotFound: there is none.
    :raises Damaged: it is none.
    """
    key = layout.ticket_key(owner, queue, number)
    try:
        document = json.loads(store.get(key, limit=MAX_TICKET_BYTES))
        ticket = Ticket(**document)
        kinds = {name: type(value) for name, value in document.items()}
        if ticket.number != number or kinds != _TICKET_KINDS:
            raise ValueError("its fields do not fit")
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"{key} is no ticket of a job", details=str(error)) from error
    return ticket


_TICKET_KINDS: dict[str, type] = {
    "number": int,
    "token": str,
    "reference": str,
    "label": str,
    "command": str,
    "count": int,
    "created": str,
    "array": bool,
}


def ticket_numbers(store: Store, owner: str, queue: str) -> Iterator[int]:
    """Yield the numbers of somebody's jobs in a queue, in no order."""
    for key in store.list(layout.tickets_prefix(owner, queue)):
        place = layout.ticket_of(key)
        if place is not None:
            yield place[2]


def forget(store: Store, owner: str, token: str) -> None:
    """Delete an order and all that belongs to it, the order last, so that a second try finds what is left."""
    last = layout.order_key(owner, token)
    for name in [key for key in store.list(layout.order_prefix(owner, token)) if key != last]:
        store.delete(name)
    with suppress(ObjectNotFound):
        store.delete(last)
