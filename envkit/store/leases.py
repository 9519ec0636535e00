"""Owns leases: how a writer tells collections that it is at work, and how both learn when that no longer counts.

A lease is a row of objects. The first, the anchor, stays until the writer ends; the others are signs of life, each
written before the one before it is removed. Nothing is ever overwritten. A lease whose last sign of life is older than
EXPIRY is dead, and a collection removes its anchor before it looks what is in use.

So a writer whose anchor is there after it has published knows that every collection waits for it, or will see what
it published, whatever the clocks say. It also gives up by itself after PATIENCE without a sign of life, measured by a
clock that goes on while the machine sleeps: who wakes up too late must not renew what was long given up.
"""

import os
import threading
import time
from collections.abc import Callable

from envkit.drivers.crash import crash_point
from envkit.errors import Conflict, EnvkitError
from envkit.model.record import Record
from envkit.store import documents, layout
from envkit.store.base import Store

EXPIRY = 12 * 3600.0
PATIENCE = 11 * 3600.0
_ANCHOR = 1
_MAX_DOCUMENT = 65_536


class LeaseLost(Conflict):
    """A writer took a break so long that what it relies on may have been collected."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"this has lost its hold on the store {url}: for hours it could not tell it that it is at work",
            details="was this machine asleep, or the store out of reach?",
            resolution="repeat the command: nothing is lost, and what was stored is not stored again",
        )


def boot_time() -> float:
    """Return seconds since this machine was started, those asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """A lease as its writer has it. Safe in several threads."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = boot_time) -> None:
        """Take a lease; on return every collection that begins to look for leases sees it."""
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._lost = False
        self.identity = os.urandom(16).hex()
        self._number = _ANCHOR
        self._signs: list[int] = []
        self._renewed = clock()
        self._sign(_ANCHOR)
        crash_point("lease:taken")

    def renew(self) -> None:
        """Give a sign of life.

        :raises LeaseLost: it comes too late.
        """
        with self._lock:
            began = self._clock()
            self._look(began)
            # A number is used once, also where nobody knows whether writing it worked.
            self._number += 1
            self._sign(self._number)
            self._look(self._clock())
            self._renewed = began
            while self._signs:
                self._store.delete(layout.lease_key(self.identity, self._signs[0]))
                self._signs.pop(0)
            self._signs.append(self._number)

    def check(self) -> None:
        """Make sure that the lease holds.

        :raises LeaseLost: it does not.
        """
        with self._lock:
            self._look(self._clock())

    def release(self) -> None:
        """Remove the lease."""
        with self._lock:
            for number in (*self._signs, _ANCHOR):
                self._store.delete(layout.lease_key(self.identity, number))
            self._lost = True

    def _sign(self, number: int) -> None:
        node = os.uname().nodename
        fields: dict[str, object] = {"host": node, "process": os.getpid()}
        self._store.put_if_absent(layout.lease_key(self.identity, number), documents.encode(fields))

    def _look(self, now: float) -> None:
        anchor = layout.lease_key(self.identity, _ANCHOR)
        if self._lost or now - self._renewed > PATIENCE or self._store.status(anchor) is None:
            self._lost = True
            raise LeaseLost(self._store.url)


class Held(Record):
    """A lease as others see it: its objects, the anchor first, and when its last sign of life was written."""

    identity: str
    keys: tuple[str, ...]
    renewed: float

    def is_expired(self, now: float) -> bool:
        """Tell whether it is dead at a time by the store's clock."""
        return now - self.renewed > EXPIRY


def held(store: Store) -> list[Held]:
    """Return all leases, the dead ones included."""
    found: dict[str, list[tuple[str, float]]] = {}
    for key, status in store.list_status(layout.LEASES):
        place = layout.lease_of(key)
        if place is not None:
            found.setdefault(place[0], []).append((key, status.modified))
    return [
        Held(identity=identity, keys=tuple(key for key, _ in objects), renewed=max(when for _, when in objects))
        for identity, objects in found.items()
    ]


def remove(store: Store, lease: Held) -> None:
    """Remove a dead lease, the anchor first: its writer learns of it there."""
    for key in sorted(lease.keys):
        store.delete(key)
        crash_point("lease:expired")


def owner(store: Store, lease: Held) -> str:
    """Say who holds a lease, for people."""
    try:
        fields = documents.decode(store.get(lease.keys[-1], limit=_MAX_DOCUMENT), where=lease.keys[-1])
    except EnvkitError:
        return f"writer {lease.identity[:8]}"
    return f"process {fields.get('process')!r:.12} on {fields.get('host')!s:.64}"
