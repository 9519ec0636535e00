"""Owns bringing a start pack to a node while what it is for is starting: in its order, what somebody waits for first.

A few ranges are on their way at any time; the rest is asked for as they come, so that a frame can be hurried without
fetching anything twice. A frame is verified before anything of it is handed on. What cannot be had is given up, and
whoever waits for it is told: a start pack is a hint, and the chunks have everything.
"""

import enum
import threading
import time
from collections.abc import Callable, Collection

from envkit.content.startpack import DamagedStart, StartPack, unpack
from envkit.errors import EnvkitError
from envkit.ondemand.fetcher import Fetcher, Priority, Source
from envkit.ondemand.log import complain
from envkit.ondemand.progress import Progress
from envkit.store.errors import ObjectNotFound

RANGES = 16
"""How many ranges are on their way at once."""
PATIENCE = 5.0
"""Seconds for which somebody waits for a granule; after that it is better to look for the chunk."""
MAX_WAITERS = 4096
_SHORT_RANGE = 512 << 10
_LONG_RANGE = 1 << 20
_ALONE = 2  # frames that share no range with others: the first ones
_TRIES = 2
_FAILURES = 3

Put = Callable[[int, int, "bytes | memoryview"], None]
"""Takes a granule that was verified: layer number, granule number, its bytes. If it raises, the stream ends."""
Wanted = Callable[[int, int], bool]
_Arrival = tuple[list[int], bytes]
Waiter = Callable[[bool], None]
"""Told whether a granule has come, True, or will not, False; once; must not raise."""


class _State(enum.Enum):
    """Where a frame is: not asked for yet, on its way, handed on, given up."""

    QUEUED = enum.auto()
    ASKED = enum.auto()
    DONE = enum.auto()
    GONE = enum.auto()


class Stream:
    """One start pack on its way to this node. All methods are for any thread; none waits for the store."""

    def __init__(
        self,
        pack: StartPack,
        fetcher: Fetcher,
        source: Source,
        key: str,
        *,
        put: Put,
        layers: Collection[int],
        wanted: Wanted = lambda layer, granule: True,
        head: bytes = b"",
        held: bool = False,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare it; `start` begins.

        :param layers: numbers of those layers whose images here are the ones that it is of; others are passed over.
        :param wanted: tells whether a granule is not here yet; frames of which nothing is wanted are not fetched.
        :param head: the first bytes of the object, as `read_head` got them; frames in it need no request.
        :param held: keep what comes in memory, and hand nothing on before `release`.
        :param ended: called once when nothing more will come.
        """
        self._pack = pack
        self._fetcher = fetcher
        self._source = source
        self._key = key
        self._put = put
        self._layers = frozenset(layers)
        self._head = head
        self._held: list[_Arrival] | None = [] if held else None
        self._ended = ended
        self._lock = threading.Lock()
        self._places = pack.places
        self._states = [_State.QUEUED] * len(pack.frames)
        for number in range(len(pack.frames)):
            granules = ((piece.layer, piece.number) for piece in pack.pieces(number))
            if not any(layer in self._layers and wanted(layer, granule) for layer, granule in granules):
                self._states[number] = _State.DONE
        self._tries = [0] * len(pack.frames)
        self._late: set[int] = set()
        self._waiters: dict[tuple[int, int], list[tuple[float, Waiter]]] = {}
        self._waiting = 0
        self._next = 0
        self._flying = 0
        self._failures = 0
        self._closed = False
        self._told = False
        self._began = self._finished = time.monotonic()
        self._skipped = self._states.count(_State.DONE)
        self._hurried = self._granules = self._bytes = 0
        total = sum(pack.frames[n].stored for n, state in enumerate(self._states) if state is _State.QUEUED)
        self._target = min(_LONG_RANGE, max(_SHORT_RANGE, total // RANGES))

    def start(self) -> None:
        """Begin: hand on what came with the header, and ask for the rest."""
        self._began = self._finished = time.monotonic()
        self._ask_for_more()
        if self._held is None:
            self._take_head()

    def release(self, layers: Collection[int]) -> None:
        """Hand on what was held, and from now on what comes: layers have their places, those of these numbers."""
        with self._lock:
            held, self._held = self._held, None
            if held is None:
                return
            self._layers = self._layers & frozenset(layers)
        self._take_head()
        for numbers, data in held:
            self._take_range(numbers, data)
        self._finish_if_done()

    def _take_head(self) -> None:
        """Hand on what came with the header."""
        for number, frame in enumerate(self._pack.frames):
            if frame.offset + frame.stored > len(self._head):
                break
            with self._lock:
                if self._closed or self._states[number] is not _State.QUEUED:
                    continue
                self._states[number] = _State.ASKED
            self._take(number, memoryview(self._head)[frame.offset : frame.offset + frame.stored])
        self._head = b""
        self._finish_if_done()

    def expected(self, layer: int, granule: int) -> bool:
        """Tell whether a granule is on its way or will be."""
        with self._lock:
            return self._is_expected(layer, granule)

    def wait(self, layer: int, granule: int, waiter: Waiter) -> bool:
        """Have somebody told when a granule has come or will not come; False if it is not expected.

        Its frame is hurried. The waiter is called from another thread, or from `stop` or `expire`.
        """
        with self._lock:
            if not self._is_expected(layer, granule) or self._waiting >= MAX_WAITERS:
                return False
            self._waiters.setdefault((layer, granule), []).append((time.monotonic(), waiter))
            self._waiting += 1
        self.hurry(layer, granule)
        return True

    def hurry(self, layer: int, granule: int) -> None:
        """Fetch a granule's frame before all others, unless it is on its way already."""
        with self._lock:
            number = self._places.get((layer, granule)) if layer in self._layers else None
            if number is None or self._states[number] is not _State.QUEUED:
                return
            if self._pack.frames[number].offset < len(self._head):
                return  # `start` is at work on what came with the header
            self._hurried += 1
            self._mark_asked([number])
        self._ask([number], Priority.DEMAND)

    def expire(self) -> None:
        """Tell those who have waited too long to look elsewhere, and nobody to wait for that frame any more.

        To be called every second or so.
        """
        before = time.monotonic() - PATIENCE
        late: list[Waiter] = []
        with self._lock:
            for place, waiters in list(self._waiters.items()):
                if waiters[0][0] <= before:
                    self._late.add(self._places[place])
                late += [waiter for since, waiter in waiters if since <= before]
                left = [(since, waiter) for since, waiter in waiters if since > before]
                self._waiting -= len(waiters) - len(left)
                if left:
                    self._waiters[place] = left
                else:
                    del self._waiters[place]
        _tell(late, arrived=False)

    def stop(self) -> None:
        """Give up what has not come; nothing is handed on after what is being handed on now."""
        self._give_up_all()

    @property
    def active(self) -> bool:
        """Whether something may still come."""
        with self._lock:
            return not self._told

    def progress(self) -> Progress:
        """Return what was done so far."""
        with self._lock:
            return Progress(
                frames=len(self._states),
                skipped=self._skipped,
                done=self._states.count(_State.DONE) - self._skipped,
                gone=self._states.count(_State.GONE),
                hurried=self._hurried,
                granules=self._granules,
                bytes=self._bytes,
                seconds=self._finished - self._began,
            )

    def _is_expected(self, layer: int, granule: int) -> bool:
        """Do what `expected` does, with the lock held."""
        number = self._places.get((layer, granule)) if layer in self._layers else None
        if number is None or number in self._late:
            return False
        return self._states[number] in (_State.QUEUED, _State.ASKED)

    # Asking

    def _ask_for_more(self) -> None:
        """Ask for the next ranges, as many as may be on their way."""
        while True:
            with self._lock:
                if self._closed or self._flying >= RANGES:
                    return
                numbers = self._next_range()
                if not numbers:
                    return
                self._mark_asked(numbers)
            self._ask(numbers, Priority.START)

    def _next_range(self) -> list[int]:
        """Return the next frames that are not asked for, neighbours, as many as fit in a range. The lock is held."""
        frames, states = self._pack.frames, self._states
        inside = len(self._head)
        while self._next < len(frames) and (
            states[self._next] is not _State.QUEUED or frames[self._next].offset + frames[self._next].stored <= inside
        ):
            self._next += 1
        numbers: list[int] = []
        size = 0
        for number in range(self._next, len(frames)):
            if states[number] is not _State.QUEUED or size >= self._target:
                break
            if numbers and (number <= _ALONE or size + frames[number].stored > _LONG_RANGE):
                break
            numbers.append(number)
            size += frames[number].stored
        return numbers

    def _mark_asked(self, numbers: list[int]) -> None:
        for number in numbers:
            self._states[number] = _State.ASKED
        self._flying += 1

    def _ask(self, numbers: list[int], priority: Priority) -> None:
        frames = self._pack.frames
        start, end = frames[numbers[0]].offset, frames[numbers[-1]].offset + frames[numbers[-1]].stored
        # The header's request may have brought the beginning of a frame.
        known = self._head[start:end] if start < len(self._head) else b""

        def done(data: bytes | None, error: EnvkitError | None) -> None:
            self._arrived(numbers, known, data, error)

        self._fetcher.range(self._source, self._key, start + len(known), end - start - len(known), priority, done)

    # Taking

    def _arrived(self, numbers: list[int], known: bytes, data: bytes | None, error: EnvkitError | None) -> None:
        with self._lock:
            self._flying -= 1
        if isinstance(error, ObjectNotFound):
            complain(f"a start pack is gone: {error}")
            self._give_up_all()
            return
        # The next request must not wait until this one's bytes are unpacked.
        self._ask_for_more()
        if data is None:
            self._failed(numbers, error or EnvkitError("nothing came"))
        elif not self._hold(numbers, known + data if known else data):
            self._take_range(numbers, known + data if known else data)
        self._finish_if_done()

    def _hold(self, numbers: list[int], data: bytes) -> bool:
        """Keep frames for `release`, if it is still to come."""
        with self._lock:
            if self._held is not None:
                self._held.append((numbers, data))
            return self._held is not None

    def _take_range(self, numbers: list[int], data: bytes) -> None:
        view = memoryview(data)
        begin = self._pack.frames[numbers[0]].offset
        for number in numbers:
            frame = self._pack.frames[number]
            self._take(number, view[frame.offset - begin : frame.offset - begin + frame.stored])

    def _take(self, number: int, stored: memoryview) -> None:
        """Verify a frame, hand its granules on, and tell those who wait for them."""
        with self._lock:
            self._bytes += len(stored)
            if self._closed:
                return
        try:
            plain = memoryview(unpack(self._pack, number, stored))
        except DamagedStart as error:
            self._damaged(number, error)
            return
        pieces = [piece for piece in self._pack.pieces(number) if piece.layer in self._layers]
        for piece in pieces:
            try:
                self._put(piece.layer, piece.number, plain[piece.offset : piece.offset + piece.length])
            except Exception as error:  # noqa: BLE001  # whatever it is, those who wait have to be told
                complain(f"a start pack is given up: {type(error).__name__}: {error}")
                self._give_up_all()
                return
            self._tell_waiters([(piece.layer, piece.number)], arrived=True)
        with self._lock:
            self._granules += len(pieces)
            if self._states[number] is _State.ASKED:
                self._states[number] = _State.DONE
        # Who came while it was handed on.
        self._tell_waiters([(piece.layer, piece.number) for piece in pieces], arrived=True)

    def _damaged(self, number: int, error: DamagedStart) -> None:
        """Ask for a frame once more; if it is damaged again, it is so in the store."""
        with self._lock:
            self._tries[number] += 1
            again = self._tries[number] < _TRIES and not self._closed
            if again:
                self._flying += 1
        if again:
            self._ask_whole(number)
        else:
            self._failed([number], error)

    def _ask_whole(self, number: int) -> None:
        """Ask for one frame, all of it, even if some came with the header."""
        frame = self._pack.frames[number]

        def done(data: bytes | None, error: EnvkitError | None) -> None:
            self._arrived([number], b"", data, error)

        self._fetcher.range(self._source, self._key, frame.offset, frame.stored, Priority.START, done)

    def _failed(self, numbers: list[int], error: EnvkitError) -> None:
        """Give up frames; after a few failures all of them, as each costs those who wait time."""
        with self._lock:
            self._failures += 1
            closed, hopeless = self._closed, self._failures >= _FAILURES
            for number in numbers:
                if self._states[number] is _State.ASKED:
                    self._states[number] = _State.GONE
        if closed:
            return
        complain(f"a part of a start pack cannot be had: {error}")
        self._tell_waiters(
            [(p.layer, p.number) for number in numbers for p in self._pack.pieces(number)], arrived=False
        )
        if hopeless:
            self._give_up_all()

    def _give_up_all(self) -> None:
        with self._lock:
            self._closed = True
            for number, state in enumerate(self._states):
                if state in (_State.QUEUED, _State.ASKED):
                    self._states[number] = _State.GONE
            places = list(self._waiters)
        self._tell_waiters(places, arrived=False)
        self._finish_if_done()

    def _tell_waiters(self, places: list[tuple[int, int]], *, arrived: bool) -> None:
        waiters: list[Waiter] = []
        with self._lock:
            for place in places:
                found = self._waiters.pop(place, [])
                self._waiting -= len(found)
                waiters += [waiter for _, waiter in found]
        _tell(waiters, arrived=arrived)

    def _finish_if_done(self) -> None:
        with self._lock:
            if self._told or any(state in (_State.QUEUED, _State.ASKED) for state in self._states):
                return
            self._told = True
            self._finished = time.monotonic()
        self._ended()


def _tell(waiters: list[Waiter], *, arrived: bool) -> None:
    for waiter in waiters:
        try:
            waiter(arrived)
        except Exception as mistake:  # noqa: BLE001  # the others who wait must not pay for it
            complain(f"telling of a granule: {type(mistake).__name__}: {mistake}")
