"""Owns what ties a job of a queue to its order: the comment that the queue keeps, the ticket in the store, the seal.

The ticket is written after the job is queued. Should its writer die in between, the comment still says which order it
is; tasks write the ticket, too.
"""

import re
import shlex

from envkit.model.order import TOKEN, Kind, Order
from envkit.model.startpack import stack_digest
from envkit.services.context import Context
from envkit.services.jobs.sealing import submission_key
from envkit.store import layout, orders
from envkit.store.base import Store
from envkit.store.orders import Ticket

_MAX_COMMAND = 2000
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./{}-]+")
_MARK = "envkit"
KEEPER = "envkit:shell-on"
"""What the script is called that keeps the place of an interactive job."""


def order_stack(order: Order) -> str:
    """Return the digest of the stack that an order pins."""
    return stack_digest(layer.tree for layer in order.layers)


def shown_command(order: Order) -> str:
    """Return an order's command as lists show it; of a call the function's name."""
    words = order.job.command
    text = words[-1] if order.kind is Kind.CALL else " ".join(map(_quoted, words))
    return text if len(text) <= _MAX_COMMAND else text[:_MAX_COMMAND] + "..."


def _quoted(word: str) -> str:
    """Return a word as a shell would take it; the braces of a parameter are left as they are."""
    return word if _PLAIN.fullmatch(word) else shlex.quote(word)


def comment_of(order: Order) -> str:
    """Return the comment of a job: whose and which order it is, and what it pins."""
    return f"{_MARK} {order.owner} {order.token} {order.reference} sha256:{order_stack(order)}"


def token_of(comment: str, owner: str) -> str | None:
    """Return which of somebody's orders the comment of a job names, or None if it is no such job."""
    words = comment.split()
    named = words[:2] == [_MARK, owner] and len(words) > 2 and TOKEN.fullmatch(words[2])
    return words[2] if named else None


def ticket_of(order: Order, number: int) -> Ticket:
    """Return the ticket of a job of an order."""
    return Ticket(
        number=number,
        token=order.token,
        reference=order.reference,
        label=order.label,
        command=shown_command(order),
        count=order.count,
        created=order.created,
        array=order.array,
    )


def write_ticket(store: Store, owner: str, queue: str, ticket: Ticket) -> None:
    """Write a job's ticket, over that of an earlier job where the queue has begun to count anew."""
    orders.put_ticket(store, owner, queue, ticket)
    if orders.get_ticket(store, owner, queue, ticket.number).token != ticket.token:
        store.delete(layout.ticket_key(owner, queue, ticket.number))
        orders.put_ticket(store, owner, queue, ticket)


def pin(context: Context, order: Order, digest: str) -> None:
    """Note an order's digest under the submission's seal, for those who have to believe the order later."""
    key = submission_key(context.paths, order.owner, order.token)
    orders.put_part(context.store, order, key, 0, 0, orders.PINNED, digest.encode())


def pinned_order(context: Context, owner: str, token: str) -> Order:
    """Return an order that this machine submitted.

    :raises ObjectNotFound: it is gone.
    :raises Damaged: it is not the one that was submitted.
    """
    key = submission_key(context.paths, owner, token)
    digest = orders.get_part(context.store, owner, token, key, 0, 0, orders.PINNED, limit=64)
    return orders.get_order(context.store, owner, token, digest=digest.decode("ascii", "replace"))
