"""Owns fetching from the store: each chunk once however many wait for it, verified, in time, what is urgent first.

Worker threads, one a connection, start with the first requests. Which chunks go into one request is `waiting`'s. What
fails is tried again on its own until those who asked run out of time. A watchdog thread tells them then, also when a
request never comes back; its worker is written off and another takes its place, so that a store that hangs costs
waiting and not the node.
"""

import heapq
import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

from envkit.content.errors import DamagedChunk
from envkit.content.reader import unpack_chunk
from envkit.errors import Damaged, EnvkitError
from envkit.model.record import Record
from envkit.model.tree import Chunk
from envkit.ondemand.fetch_errors import FetcherClosed, FetchTimeout, Forgotten, as_known
from envkit.ondemand.link import Link
from envkit.ondemand.log import complain
from envkit.ondemand.waiting import Done, Flight, Item, Priority, Source, Waiter, Waiting, chunk_item, urgency
from envkit.store.errors import ObjectNotFound

__all__ = ["Counters", "Done", "Fetcher", "Forgotten", "Priority", "Source"]

PATIENCE = (60.0, 120.0)  # seconds: for readers, for everything else
_DAMAGED_TRIES = 4  # of what arrives damaged; after these it is so in the store
_PAUSES = (0.2, 5.0)  # seconds between two tries: the first, the longest
_CLOSING = 5.0

_Letter = tuple[Done, EnvkitError]


class Counters(Record):
    """What was done so far, by priority; and what is to be done.

    `requests`, `bytes`: made of the store. `chunks`: delivered, ranges included. `retries`: tries that failed and were
    repeated. `failures`: items that ended with an error.
    """

    requests: tuple[int, ...]
    bytes: tuple[int, ...]
    chunks: tuple[int, ...]
    retries: tuple[int, ...]
    failures: tuple[int, ...]
    waiting: int
    in_flight: int


class Fetcher:
    """Fetches chunks and ranges with up to `connections` requests at once; all methods are for any thread.

    Nothing is kept: what `done` got is gone from here. No method calls `done` itself: workers or the watchdog do.
    """

    def __init__(self, *, link: Link | None = None, connections: int = 20) -> None:
        self.link = link or Link()
        self._connections = connections
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._alarm = threading.Condition(self._lock)
        self._waiting = Waiting(connections)
        self._items: dict[bytes | int, Item] = {}
        self._asked: tuple[OrderedDict[Waiter, float], ...] = tuple(OrderedDict() for _ in PATIENCE)
        self._pauses: list[tuple[float, int, Item]] = []
        self._letters: list[_Letter] = []
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._lost = 0
        self._watchdog: threading.Thread | None = None
        self._wakes = math.inf
        self._closed = False
        self._number = 0
        self._counts = {name: [0] * len(Priority) for name in ("requests", "bytes", "chunks", "retries", "failures")}

    def chunk(self, source: Source, chunk: Chunk, priority: Priority, done: Done) -> None:
        """Fetch a chunk; `done` gets its plain bytes, verified."""
        self.chunks(source, ((chunk, done),), priority)

    def chunks(self, source: Source, wanted: Iterable[tuple[Chunk, Done]], priority: Priority) -> None:
        """Fetch chunks as `chunk` does, known all at once: so neighbours share a request even if the link is idle."""
        everything = list(wanted)
        with self._lock:
            for chunk, done in everything:
                item = self._items.get(chunk.digest)
                if item is None:
                    item = self._add_chunk(source, chunk, priority)
                elif priority < item.priority:
                    self._waiting.hasten(item, priority)
                self._ask(item, Waiter(source, chunk, done), priority)
            self._stir()

    def range(self, source: Source, key: str, start: int, length: int, priority: Priority, done: Done) -> None:
        """Fetch a range of an object, a request of its own; `done` gets it as it arrived, not verified."""
        with self._lock:
            self._number += 1
            item = self._add(Item(self._number, self._number, source, key, start, start + length, priority))
            self._ask(item, Waiter(source, None, done), priority)
            self._stir()

    def raise_priority(self, chunk_digest: bytes, priority: Priority) -> None:
        """Make a chunk more urgent that is on its way or waits, as if asked for now; nothing happens to others."""
        with self._lock:
            item = self._items.get(chunk_digest)
            if item is not None and priority < item.priority:
                self._waiting.hasten(item, priority)
                for waiter in item.waiters:
                    self._limit(waiter, priority)
                self._stir()

    def drop(self, priority: Priority) -> int:
        """Forget what waits at this priority or a lower one; those who asked get `Forgotten`. Return how many items."""
        with self._lock:
            dropped = [item for item in self._items.values() if item.flight is None and item.priority >= priority]
            for item in dropped:
                self._forget(item)
                self._write(self._waiters_of(item), Forgotten(str(item)))
            return len(dropped)

    def counters(self) -> Counters:
        """Return what was done and what is to be done."""
        with self._lock:
            counts = {name: tuple(values) for name, values in self._counts.items()}
            return Counters(**counts, waiting=self._waiting.count, in_flight=self._waiting.flying)

    def close(self) -> None:
        """End; whoever still waits gets an error. Takes a few seconds at most, whatever the store does."""
        with self._lock:
            self._closed = True
            for item in list(self._items.values()):
                self._forget(item)
                self._write(self._waiters_of(item), FetcherClosed(str(item)))
            self._pauses.clear()
            self._work.notify_all()
            self._alarm.notify()
            threads = [*self._threads, *([self._watchdog] if self._watchdog else [])]
        until = time.monotonic() + _CLOSING
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    # What follows down to the threads is called with the lock held.

    def _add(self, item: Item) -> Item:
        self._items[item.identity] = item
        self._waiting.add(item)
        return item

    def _add_chunk(self, source: Source, chunk: Chunk, priority: Priority) -> Item:
        self._number += 1
        return self._add(chunk_item(self._number, source, chunk, priority))

    def _ask(self, item: Item, waiter: Waiter, priority: Priority) -> None:
        """Have somebody wait for an item, until their time is over."""
        waiter.item = item
        item.waiters.append(waiter)
        self._limit(waiter, priority)
        if self._closed:
            self._forget(item)
            self._write(self._waiters_of(item), FetcherClosed(str(item)))

    def _limit(self, waiter: Waiter, priority: Priority) -> None:
        """Give somebody the time from now that goes with a priority, less in an outage, never more than they had."""
        kind = min(priority, len(PATIENCE) - 1)
        patience = self.link.patience(PATIENCE[kind])
        deadline = time.monotonic() + patience
        if deadline < waiter.deadline:
            for asked in self._asked:
                asked.pop(waiter, None)
            waiter.deadline = deadline
            self._asked[kind][waiter] = round(patience, 1)
            if deadline < self._wakes:
                self._wake_watchdog()

    def _waiters_of(self, item: Item) -> list[Waiter]:
        """Return who waits for an item, and count them as answered."""
        waiters, item.waiters = item.waiters, []
        for waiter in waiters:
            for asked in self._asked:
                asked.pop(waiter, None)
        return waiters

    def _forget(self, item: Item) -> None:
        """Have nobody join an item any more; what is under way for it goes to nobody."""
        if self._items.get(item.identity) is item:
            del self._items[item.identity]
        if item.waiting:
            self._waiting.remove(item)

    def _write(self, waiters: list[Waiter], error: EnvkitError) -> None:
        """Have the watchdog tell an error."""
        if waiters:
            self._letters += [(waiter.done, error) for waiter in waiters]
            self._wake_watchdog()

    def _wake_watchdog(self) -> None:
        if self._watchdog is None:
            self._watchdog = threading.Thread(target=self._watch, name="envkit-fetch-watchdog", daemon=True)
            self._watchdog.start()
        self._alarm.notify()

    def _stir(self) -> None:
        """Wake a worker if there is work for it; it wakes the next."""
        if self._closed or not self._waiting.ready():
            return
        if self._idle:
            self._idle -= 1
            self._work.notify()
        elif len(self._threads) - self._lost < self._connections:
            thread = threading.Thread(target=self._serve, name="envkit-fetch", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _expire(self, now: float) -> None:
        """Give up on behalf of those whose time is over."""
        for asked in self._asked:
            while asked and (waiter := next(iter(asked))).deadline <= now:
                item, patience = waiter.item, asked.pop(waiter)
                if item is None:
                    continue
                item.waiters.remove(waiter)
                self._counts["failures"][item.priority] += 1
                self._write([waiter], FetchTimeout(str(item), patience, item.error))
                if not item.waiters:
                    self._forget(item)
                    self._write_off(item.flight)

    def _write_off(self, flight: Flight | None) -> None:
        """Give the connection of a request for which nobody waits any more to others."""
        if flight is None or flight.lost or self._lost >= self._connections:
            return
        if not any(item.waiters for item in flight.items):
            flight.lost = True
            self._lost += 1
            self._waiting.landed(flight)
            self._stir()

    def _resume(self, now: float) -> None:
        """Have those items wait again whose pause is over."""
        while self._pauses and self._pauses[0][0] <= now:
            item = heapq.heappop(self._pauses)[2]
            if self._items.get(item.identity) is item:
                self._waiting.add(item)
                self._stir()

    def _next_alarm(self) -> float:
        times = [next(iter(asked)).deadline for asked in self._asked if asked]
        if self._pauses:
            times.append(self._pauses[0][0])
        return min(times, default=math.inf)

    def _end(self, item: Item, error: EnvkitError) -> list[Waiter]:
        """End an item; return who is to be told. Who knows another place of the chunk has it looked for there."""
        self._counts["failures"][item.priority] += 1
        self._forget(item)
        waiters = item.waiters
        same = [waiter for waiter in waiters if waiter.source == item.source and waiter.chunk == item.chunk]
        others = [waiter for waiter in waiters if waiter not in same]
        item.waiters = same
        if others and others[0].chunk is not None:
            again = self._add_chunk(others[0].source, others[0].chunk, item.priority)
            again.waiters = others
            for waiter in others:
                waiter.item = again
        return self._waiters_of(item)

    def _pause(self, item: Item) -> None:
        first, longest = _PAUSES
        seconds = random.uniform(0.5, 1) * min(longest, first * 2.0 ** min(item.tries, 10))  # noqa: S311
        item.tries += 1
        item.alone = True
        self.link.failed()
        self._counts["retries"][item.priority] += 1
        self._number += 1
        heapq.heappush(self._pauses, (time.monotonic() + seconds, self._number, item))
        if self._pauses[0][2] is item:
            self._wake_watchdog()

    # The threads.

    def _watch(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                self._expire(now)
                self._resume(now)
                letters, self._letters = self._letters, []
                if not letters:
                    if self._closed:
                        self._watchdog = None
                        return
                    self._wakes = self._next_alarm()
                    self._alarm.wait(None if self._wakes == math.inf else max(0.0, self._wakes - now))
                    continue
            for done, error in letters:
                _tell(done, None, error)

    def _serve(self) -> None:
        flight: Flight | None = None
        while True:
            with self._lock:
                flight = self._next_flight(flight)
                if flight is None:
                    self._threads.discard(threading.current_thread())
                    return
                others = self._waiting.flying
            self._fly(flight, others)

    def _next_flight(self, last: Flight | None) -> Flight | None:
        """Wait for work; None: this worker ends. The lock is held."""
        if last is not None:
            if last.lost:
                self._lost -= 1
            else:
                self._waiting.landed(last)
        while not self._closed and len(self._threads) - self._lost <= self._connections:
            flight = self._waiting.take(self.link)
            if flight is not None:
                self._counts["requests"][flight.priority] += 1
                self._stir()
                return flight
            self._idle += 1
            self._work.wait()
        return None

    def _fly(self, flight: Flight, in_flight: int) -> None:
        """Make a request and hand out what came."""
        started = time.monotonic()
        try:
            data = flight.source.get_range(flight.key, flight.start, flight.end - flight.start)
        except Exception as error:  # noqa: BLE001  # also of a mistake somebody who waits has to hear
            self._failed(flight.items, as_known(error, str(flight.items[0])), counted=len(flight.items) == 1)
            return
        seconds = time.monotonic() - started
        with self._lock:
            self.link.observe(len(data), seconds, (in_flight + self._waiting.flying) / 2)
            self._counts["bytes"][flight.priority] += len(data)
        left = sorted(flight.items, key=urgency)
        while left:
            if flight.stirred:
                flight.stirred = False
                left.sort(key=urgency)
            item = left.pop()
            try:
                plain = _unpacked(item, data, flight.start, flight.end)
            except Exception as error:  # noqa: BLE001  # as above
                self._failed([item], as_known(error, str(item)), counted=True)
            else:
                self._deliver(item, plain)

    def _deliver(self, item: Item, plain: bytes) -> None:
        with self._lock:
            self._forget(item)
            self._counts["chunks"][item.priority] += 1
            waiters = self._waiters_of(item)
        for waiter in waiters:
            if waiter.chunk is not None and waiter.chunk.size != len(plain):
                problem = f"it has {len(plain)} bytes instead of {waiter.chunk.size}"
                _tell(waiter.done, None, DamagedChunk(waiter.chunk.digest, waiter.chunk.pack, problem))
            else:
                _tell(waiter.done, plain, None)

    def _failed(self, items: list[Item], error: EnvkitError, *, counted: bool) -> None:
        """Have items tried again one by one, or end them where it cannot help; `counted`: the error is this item's."""
        told: list[Waiter] = []
        with self._lock:
            for item in items:
                item.flight = None
                item.error = error
                item.damaged += counted and isinstance(error, Damaged)
                if isinstance(error, ObjectNotFound) or item.damaged >= _DAMAGED_TRIES:
                    told += self._end(item, error)
                elif item.waiters:
                    self._pause(item)
        for waiter in told:
            _tell(waiter.done, None, error)


def _unpacked(item: Item, data: bytes, start: int, end: int) -> bytes:
    if item.chunk is not None:
        return unpack_chunk(item.chunk, memoryview(data)[item.start - start : item.end - start])
    if len(data) != end - start:
        raise Damaged(f"{item} came as {len(data)} bytes")
    return data


def _tell(done: Done, data: bytes | None, error: EnvkitError | None) -> None:
    try:
        done(data, error)
    except Exception as mistake:  # noqa: BLE001  # the others who wait must not pay for it
        complain(f"handing on what was fetched: {type(mistake).__name__}: {mistake}")
