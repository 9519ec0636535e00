"""Owns one layer that is served: what of it is in the cache, who waits for the rest, and how the rest gets there.

A read waits for chunks, by number, or for granules of a start pack that are on their way. What arrives is verified
where it arrives, goes into the cache, and then everybody who waited for it looks again. Only verified bytes are ever
given out; where they cannot be had, the reader gets an error within the time that the fetcher allows.
"""

import errno
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from envkit.cache.bits import Bits
from envkit.cache.layer import GRANULE, CachedLayer, CacheLost, ChunksMissing, GranulesDiffer
from envkit.drivers.files import DiskFull
from envkit.errors import Damaged, EnvkitError
from envkit.model.tree import Chunk
from envkit.ondemand.background import is_worth_streaming
from envkit.ondemand.fetch_errors import FetchTimeout
from envkit.ondemand.fetcher import Fetcher, Forgotten, Priority, Source
from envkit.ondemand.log import complain
from envkit.ondemand.loop import Waiting
from envkit.ondemand.neighbours import Neighbours
from envkit.ondemand.overflow import Overflow
from envkit.ondemand.readahead import ReadAhead
from envkit.ondemand.reading import Read, Streams
from envkit.ondemand.recent import Recent
from envkit.ondemand.refusals import Refusals
from envkit.store.errors import ObjectNotFound

_ATTEMPTS = 3
_HOPELESS = 10.0
"""Seconds for which a chunk that no store has is not asked for again."""
_MAX_PULLED = 2000
Reopen = Callable[[], CachedLayer]
"""Opens what the cache has of a layer, making it anew from its tree if that is damaged or gone."""


class ServedLayer:
    """One layer; safe in any number of threads.

    :ivar reads: reads of the kernel; `waits`: those that had to wait; `stalled`: seconds of that, of all readers.
    :ivar refusals: reads that got an error.
    :ivar pulled: the first ranges of the image, (offset, length), that were fetched because somebody read them.
    :param on_demand: called whenever a read has to wait for the store.
    """

    def __init__(
        self,
        digest: str,
        cached: CachedLayer,
        reopen: Reopen,
        fetcher: Fetcher,
        streams: Streams,
        on_demand: Callable[[], None] = lambda: None,
    ) -> None:
        self.digest = digest
        self._sources: list[Source] = []
        self._failed: dict[int, tuple[float, str]] = {}
        self.refusals = Refusals()
        self.size = cached.map.size
        self.stalled = 0.0
        self.fetched_bytes = 0
        self.reads = 0
        self.waits = 0
        self.pulled: list[tuple[int, int]] = []
        self._cached = cached
        self._reopen = reopen
        self._fetcher = fetcher
        self._streams = streams
        self._on_demand = on_demand
        self._lock = threading.Lock()
        self._asking = threading.RLock()
        self._reads: set[Read] = set()
        self._asked: dict[int, Priority] = {}
        self._overflow = Overflow()
        self._ahead = ReadAhead()
        self._recent = Recent()
        self._neighbours = Neighbours(cached.map.chunks)
        self._touched = Bits(-(-self.size // GRANULE))
        self._touched_granules = 0
        self._remaking = threading.Lock()

    def come_from(self, sources: Sequence[Source]) -> None:
        """Name the stores that may have its chunks, the best first."""
        self._sources = list(sources)
        self._failed.clear()

    @property
    def cached(self) -> CachedLayer:
        """What the cache has of it now."""
        return self._cached

    @property
    def chunks(self) -> Sequence[Chunk]:
        """Its chunk table."""
        return self._cached.map.chunks

    @property
    def total(self) -> int:
        """Bytes of its image that come from chunks."""
        return self._cached.total_bytes

    @property
    def touched(self) -> int:
        """How many bytes of the image were read by somebody, in granules."""
        return self._touched_granules * GRANULE

    @property
    def sequential(self) -> int:
        """The most bytes that were read in a row."""
        return self._ahead.sequential

    def missing(self) -> list[int]:
        """Return the numbers of the chunks that are not in the cache."""
        cached = self._cached
        return [number for number in range(len(cached.map.chunks)) if not cached.chunk_ready(number)]

    def is_ready(self, number: int) -> bool:
        """Tell whether a chunk is in the cache."""
        return self._cached.chunk_ready(number)

    def is_asked(self, number: int) -> bool:
        """Tell whether a chunk was asked for and has neither come nor failed."""
        return number in self._asked

    @property
    def idle(self) -> bool:
        """Whether nobody waits for any of it now."""
        return not self._reads and not self._asked

    def read(self, offset: int, length: int, waiting: Waiting) -> bool:
        """Answer a read of the image, now or when its bytes have come; return whether it has to wait for the store."""
        length = max(0, min(length, self.size - offset))
        if not length:
            waiting.answer()
            return False
        self.reads += 1
        self._recent.note(offset, length)
        for granule in range(offset // GRANULE, (offset + length - 1) // GRANULE + 1):
            if not self._touched[granule]:
                self._touched.add(granule)
                self._touched_granules += 1
        return self._serve(Read(offset, length, waiting))

    def _serve(self, read: Read) -> bool:
        """Answer a read, or see to it that what it needs comes; return whether it has to wait for the store."""
        cached = self._cached
        try:
            data = self._overflow.read(cached, read.offset, read.length)
        except ChunksMissing as error:
            missing = error.numbers
            if self._failed and (why := self._is_hopeless(missing)):
                self._refuse([read], why)
                return False
        except CacheLost as lost:
            self._again(read, cached, lost)
            return False
        else:
            read.waiting.answer(data)
            self._read_ahead(read, missed=False)
            return False
        granules = self._on_their_way(cached, read)
        self.waits += 1
        if not granules and len(self.pulled) < _MAX_PULLED:
            self.pulled.append((read.offset, read.length))
        with self._lock:
            read.chunks = set(missing)
            read.needs |= read.chunks
            read.granules = set(granules)
            self._reads.add(read)
        if not granules:
            self._on_demand()
            self.fetch(missing, Priority.DEMAND)
            self.fetch(self._neighbours.of(missing, self._fetcher.link.gap), Priority.AHEAD)
        for granule in granules:
            if not self._wait_for(granule):  # it has come, or was given up, since it was looked at
                self.granule_arrived(granule, arrived=_has(cached, granule))
        self._read_ahead(read, missed=True)
        return not granules

    def _is_hopeless(self, numbers: Iterable[int]) -> str | None:
        """Return why asking for some chunks is in vain: no store had one of them a moment ago. None if it may help."""
        before = time.monotonic() - _HOPELESS
        known = (self._failed[number] for number in numbers if number in self._failed)
        return next((why for when, why in known if when > before), None)

    def _on_their_way(self, cached: CachedLayer, read: Read) -> list[int]:
        """Return the granules that a read still waits for, if all of them come with a start pack."""
        if read.by_chunks:
            return []
        numbers = range(read.offset // GRANULE, (read.offset + read.length - 1) // GRANULE + 1)
        wanted = [number for number in numbers if not _has(cached, number)]
        return wanted if all(self._streams.expected(self.digest, number) for number in wanted) else []

    def _wait_for(self, granule: int) -> bool:
        return self._streams.wait(self.digest, granule, lambda arrived: self.granule_arrived(granule, arrived=arrived))

    def _read_ahead(self, read: Read, *, missed: bool) -> None:
        with self._lock:
            ahead = self._ahead.observe(read.offset, read.length, missed)
        if ahead is not None and ahead[0] < self.size:
            try:
                self.fetch(self._cached.missing(ahead[0], min(ahead[1], self.size - ahead[0])), Priority.AHEAD)
            except CacheLost:
                return  # whoever reads next sees to it

    def fetch(self, numbers: Iterable[int], priority: Priority) -> None:
        """Ask for chunks; those that were asked for already come sooner if this is more urgent."""
        with self._asking:  # what is noted as asked for has been asked for, or a more urgent call would be lost
            there = self._fetch(numbers, priority)
        for number in there:  # it has come since it was found missing, before somebody began to wait for it
            with self._lock:
                reads = [read for read in self._reads if number in read.chunks]
            self._look_again(reads, number)

    def _fetch(self, numbers: Iterable[int], priority: Priority) -> list[int]:
        """Ask for chunks; return those that are there."""
        chunks = self._cached.map.chunks
        there: list[int] = []
        new: list[int] = []
        urgent: list[int] = []
        with self._lock:
            for number in numbers:
                before = self._asked.get(number)
                if before is None and (number in self._overflow or self._cached.chunk_ready(number)):
                    there.append(number)
                    continue
                if before is None:
                    new.append(number)
                elif priority < before:
                    urgent.append(number)
                else:
                    continue
                self._asked[number] = priority
        for number in urgent:
            self._fetcher.raise_priority(chunks[number].digest, priority)
        self._request(new, 0, priority)
        return there

    def _request(self, numbers: Sequence[int], which: int, priority: Priority) -> None:
        """Ask a source for chunks; what it cannot give, the next one is asked for."""
        sources = self._sources
        if which >= len(sources):
            for number in numbers:
                self._arrived(number, None, EnvkitError(f"no store is known for layer {self.digest[:12]}"))
            return

        def done(number: int, plain: bytes | None, error: EnvkitError | None) -> None:
            last = which + 1 >= len(sources)
            if error is None or last or isinstance(error, Forgotten):
                self._arrived(number, plain, error)
            else:
                self._request([number], which + 1, self._asked.get(number, priority))

        chunks = self._cached.map.chunks
        wanted = [(chunks[number], partial(done, number)) for number in numbers]
        self._fetcher.chunks(sources[which], wanted, priority)

    def _arrived(self, number: int, plain: bytes | None, error: EnvkitError | None) -> None:
        """Take a chunk, or the news that it cannot be had, to those who wait for it."""
        if plain is not None:
            self.fetched_bytes += self._cached.map.chunks[number].stored
            self._keep(number, plain)
        with self._lock:
            self._asked.pop(number, None)
            reads = [read for read in self._reads if number in read.chunks]
        if error is None:
            self._look_again(reads, number)
            return
        if isinstance(error, Forgotten):
            if reads:  # somebody came to need it in the moment in which it was dropped
                self.fetch([number], Priority.DEMAND)
            return
        if isinstance(error, Damaged | ObjectNotFound):
            self._failed[number] = (time.monotonic(), str(error))
        if isinstance(error, FetchTimeout):
            late = [read for read in reads if read.age < error.seconds / 2]
            if late:  # who came late to what others have waited for has more time
                reads = [read for read in reads if read not in late]
                self.fetch([number], Priority.DEMAND)
        if reads:
            complain(f"layer {self.digest[:12]}: {error}")
        for read in reads:
            self._leave(read)
        self._refuse(reads, str(error))

    def _refuse(self, reads: Sequence[Read], why: str) -> None:
        """Let reads fail."""
        if reads:
            self.refusals.note(why, len(reads))
        for read in reads:
            read.waiting.refuse(errno.EIO)

    def _keep(self, number: int, plain: bytes) -> None:
        """Put a verified chunk into the cache; where there is no room, into memory for those who wait."""
        cached = self._cached
        try:
            self._put(cached, number, plain)
        except CacheLost as lost:
            self._remake(cached, lost)
            self._remember(number, plain)
        except DiskFull as full:
            complain(f"the cache keeps nothing more: {full}")
            self._remember(number, plain)

    @staticmethod
    def _put(cached: CachedLayer, number: int, plain: bytes) -> None:
        """Put a chunk into the cache; where that shows that a start pack lies, nothing of it is given out any more."""
        try:
            cached.put_chunk(number, plain)
        except GranulesDiffer as error:
            complain(str(error))
            cached.distrust_granules()

    def _remember(self, number: int, plain: bytes) -> None:
        with self._lock:
            needed = {chunk for read in self._reads for chunk in read.needs}
        self._overflow.keep(number, plain, needed)

    def granule_arrived(self, number: int, *, arrived: bool) -> None:
        """Look again at the reads that need no granule but this one: it is in the cache now, or it will not come."""
        with self._lock:
            reads = [read for read in self._reads if number in read.granules]
            for read in reads:
                read.granules.discard(number)
                read.by_chunks |= not arrived
            reads = [read for read in reads if not read.granules or read.by_chunks]
        self._look_again(reads)

    def _look_again(self, reads: Iterable[Read], number: int | None = None) -> None:
        for read in reads:
            with self._lock:
                if read not in self._reads:
                    continue
                read.chunks.discard(-1 if number is None else number)
                if number is not None and read.chunks:
                    continue
                self._reads.discard(read)
            self.stalled += read.age
            self._serve(read)

    def _leave(self, read: Read) -> None:
        with self._lock:
            self._reads.discard(read)

    def _again(self, read: Read, cached: CachedLayer, lost: CacheLost) -> None:
        """Serve a read after the cache was lost under it; not for ever."""
        read.attempts += 1
        if read.attempts > _ATTEMPTS or not self._remake(cached, lost):
            self._refuse([read], str(lost))
        else:
            self._serve(read)

    def _remake(self, old: CachedLayer, lost: CacheLost) -> bool:
        """Make the layer's place in the cache anew; return whether there is one now. One thread does it."""
        with self._remaking:
            if self._cached is not old:
                return True
            complain(str(lost))
            old.retire()
            try:
                anew = self._reopen()
            except (EnvkitError, OSError) as error:
                complain(f"layer {self.digest[:12]} cannot be made anew: {error}")
                return False
            if (anew.map.uuid, anew.map.size) != (old.map.uuid, old.map.size):
                complain(f"layer {self.digest[:12]} has become another image, as envkit was updated meanwhile")
                anew.retire()
                return False
            self._cached = anew
            return True

    def flush(self) -> None:
        """Make what has come durable; where the layer is complete, make it the image that others mount directly."""
        cached = self._cached
        recent = self._recent.take()
        # Whoever streams it reads next what has just come.
        read = recent if recent and is_worth_streaming(self) else None
        try:
            cached.flush(read)
            for number, plain in self._overflow.items():
                self._put(cached, number, plain)
                self._overflow.discard(number)
            cached.finish(read)
        except CacheLost as lost:
            self._remake(cached, lost)
        except DiskFull as full:
            complain(str(full))


def _has(cached: CachedLayer, granule: int) -> bool:
    """Tell whether every byte of a granule can be read now."""
    try:
        return cached.has_granule(granule)
    except CacheLost:  # whoever reads it sees to it
        return False
