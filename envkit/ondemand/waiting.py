"""Owns what waits to be fetched: what goes next, and what goes with it in one request. No threads, no I/O, no clock.

A request begins with the oldest item of the highest priority. Chunks that lie near it in the same pack come along as
long as that is cheaper than a request of their own. Of the connections some are kept free for what is more urgent:
each class has a limit for itself and all below it together.
"""

import enum
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable

from envkit.errors import EnvkitError
from envkit.model.tree import Chunk
from envkit.ondemand.link import Link
from envkit.store.layout import pack_key


class Priority(enum.IntEnum):
    """How urgent something is; less is more."""

    DEMAND = 0
    START = 1
    AHEAD = 2
    BACKGROUND = 3


# `Priority.DEMAND` is a slow look-up in Python 3.11.
_DEMAND, _START, _AHEAD, _BACKGROUND = Priority
_SHARES = (20, 16, 8, 4)  # of 20 connections
_MAX_SPAN = 8 << 20
_MIN_SPANS = (512 << 10, 512 << 10, 1 << 20, 1 << 20)
_BACKGROUND_SECONDS = 0.5  # so long at most has a reader to wait that wants what the background is fetching
_MIN_RIDERS = 64 << 10

Done = Callable[[bytes | None, EnvkitError | None], None]
"""Gets the bytes or the reason why there are none, exactly one of the two, once, from another thread; never raises."""


class Source:
    """A store as the fetcher sees it: `get_range(key, start, length)` reads any object. Equal are those of one name."""

    __slots__ = ("get_range", "name")

    def __init__(self, name: str, get_range: Callable[[str, int, int], bytes]) -> None:
        self.name = name
        self.get_range = get_range

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Waiter:
    """Somebody who asked, and the place where the bytes should be by what they know."""

    __slots__ = ("chunk", "deadline", "done", "item", "source")

    def __init__(self, source: Source, chunk: Chunk | None, done: Done) -> None:
        self.source = source
        self.chunk = chunk
        self.done = done
        self.deadline = float("inf")
        self.item: Item | None = None


class Item:
    """A range of an object that is wanted; with `chunk`, it is this chunk's frame, and whoever wants it waits for this.

    `alone` keeps it out of requests for others: one of those failed already.
    """

    __slots__ = (
        "alone", "chunk", "damaged", "end", "error", "flight", "identity", "key", "number", "priority", "source",
        "start", "tries", "waiters", "waiting",
    )  # fmt: skip

    def __init__(
        self, identity: bytes | int, number: int, source: Source, key: str, start: int, end: int, priority: Priority
    ) -> None:
        self.identity = identity
        self.number = number
        self.source = source
        self.key = key
        self.start = start
        self.end = end
        self.priority = priority
        self.chunk: Chunk | None = None
        self.waiters: list[Waiter] = []
        self.waiting = False
        self.alone = False
        self.flight: Flight | None = None
        self.tries = 0
        self.damaged = 0
        self.error: EnvkitError | None = None

    def __str__(self) -> str:
        if self.chunk is not None:
            return f"chunk {self.chunk.digest.hex()} in {self.key} of the store {self.source.name}"
        return f"bytes {self.start} to {self.end} of {self.key} in the store {self.source.name}"


def chunk_item(number: int, source: Source, chunk: Chunk, priority: Priority) -> Item:
    """Return the item for a chunk: the range of its frame in its pack."""
    key = pack_key(chunk.pack.hex())
    item = Item(chunk.digest, number, source, key, chunk.offset, chunk.offset + chunk.stored, priority)
    item.chunk = chunk
    return item


def urgency(item: Item) -> tuple[int, int]:
    """Sort what is to be unpacked first to the end."""
    return (-item.priority, -item.start)


class Flight:
    """One request under way. `stirred`: an item of it became more urgent. `lost`: nobody waits for it any more."""

    __slots__ = ("end", "items", "key", "lost", "priority", "source", "start", "stirred")

    def __init__(self, lead: Item, items: list[Item], start: int, end: int) -> None:
        self.source = lead.source
        self.key = lead.key
        self.priority = lead.priority
        self.items = items
        self.start = start
        self.end = end
        self.stirred = False
        self.lost = False


class Waiting:
    """Items that wait for a connection, and the count of requests under way."""

    def __init__(self, connections: int) -> None:
        self._limits = [max(1, connections * share // _SHARES[0]) for share in _SHARES]
        # An item that was taken or became more urgent stays in its old row until it comes to the front there.
        self._rows: tuple[deque[Item], ...] = tuple(deque() for _ in Priority)
        self._objects: dict[tuple[str, str], list[tuple[int, int, Item]]] = {}
        self._flying = [0] * len(Priority)
        self.count = 0

    @property
    def flying(self) -> int:
        """Requests under way."""
        return sum(self._flying)

    def add(self, item: Item) -> None:
        """Have an item wait."""
        item.waiting = True
        self.count += 1
        self._rows[item.priority].append(item)
        if item.chunk is not None and not item.alone:
            insort(self._objects.setdefault((item.source.name, item.key), []), (item.start, item.number, item))

    def hasten(self, item: Item, priority: Priority) -> None:
        """Make an item more urgent, wherever it is."""
        item.priority = priority
        if item.waiting:
            self._rows[priority].append(item)
        elif item.flight is not None:
            item.flight.stirred = True

    def remove(self, item: Item) -> None:
        """Forget an item that waits."""
        self._taken(item)
        if item.chunk is not None and not item.alone:
            near = self._objects[item.source.name, item.key]
            self._cut(item, near, bisect_left(near, (item.start, item.number)), 1)

    def landed(self, flight: Flight) -> None:
        """Count a request as ended."""
        self._flying[flight.priority] -= 1

    def ready(self) -> bool:
        """Tell whether `take` would find something."""
        return self._lead() is not None

    def take(self, link: Link) -> Flight | None:
        """Return the next request to make, or None: nothing waits, or its connections are all in use."""
        lead = self._lead()
        if lead is None:
            return None
        flight = Flight(lead, [lead], lead.start, lead.end)
        if lead.chunk is None or lead.alone:
            self._taken(lead)
        else:
            self._gather(flight, lead, link)
        for item in flight.items:
            item.flight = flight
        self._flying[flight.priority] += 1
        return flight

    def _lead(self) -> Item | None:
        for priority in Priority:
            if sum(self._flying[priority:]) >= self._limits[priority]:
                return None
            row = self._rows[priority]
            while row:
                if row[0].waiting:
                    return row[0]
                row.popleft()
        return None

    def _gather(self, flight: Flight, lead: Item, link: Link) -> None:
        """Add neighbours to a request, the nearest first, and take all of them out of what waits."""
        near = self._objects[lead.source.name, lead.key]
        first = bisect_left(near, (lead.start, lead.number))
        last = first + 1
        bound, gap = _bound(lead.priority, link), link.gap
        riders = max(_MIN_RIDERS, link.arriving(link.round_trip / 4)) if lead.priority < _AHEAD else bound
        wanted = flight.end - flight.start
        while True:
            # What overlaps has a gap of 0.
            left = max(0, flight.start - near[first - 1][2].end) if first else gap + 1
            right = max(0, near[last][2].start - flight.end) if last < len(near) else gap + 1
            distance = min(left, right)
            if distance > gap:
                break
            item = near[last][2] if right <= left else near[first - 1][2]
            start, end = min(flight.start, item.start), max(flight.end, item.end)
            more = end - start - (flight.end - flight.start)
            if item.priority >= _AHEAD:
                riders -= more
            wanted += more - distance
            if end - start > bound or wanted * 2 < end - start or riders < 0:
                break
            flight.start, flight.end = start, end
            if right <= left:
                last += 1
            else:
                first -= 1
        flight.items = [item for _, _, item in near[first:last]]
        for item in flight.items:
            self._taken(item)
        self._cut(lead, near, first, last - first)

    def _taken(self, item: Item) -> None:
        item.waiting = False
        self.count -= 1

    def _cut(self, item: Item, near: list[tuple[int, int, Item]], first: int, count: int) -> None:
        del near[first : first + count]
        if not near:
            del self._objects[item.source.name, item.key]


def _bound(priority: Priority, link: Link) -> int:
    """Return how many bytes a request of some priority may have, if it is for more than one chunk."""
    seconds = _BACKGROUND_SECONDS if priority is _BACKGROUND else 1.5 * link.round_trip
    return min(_MAX_SPAN, max(_MIN_SPANS[priority], link.arriving(seconds)))
