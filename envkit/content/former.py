"""Owns finding out which chunks of a large file are still in their place after it was changed.

Where FastCDC cuts depends on the bytes from the last cut up to the first one behind the new cut, and on nothing else.
So where a chunk and the next one are where they were, byte for byte, so is the cut between them, and neither need be
cut again. Comparing digests takes less than cutting and hashing, and a process of its own does it beside other work.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from envkit.drivers.hasher import Hasher, Ranges
from envkit.model.tree import Chunk, Entry, Segment

_PORTION = 64 << 20  # bytes that are compared at once; after as many without a chunk in its place the rest is new
WORTH = 8
"""Largest chunks: comparing fewer bytes than this, or going on behind them, costs more than it saves."""

Open = Callable[[Entry], AbstractContextManager[tuple[int, Iterable[tuple[int, int]]]]]
"""Gives a descriptor of a file, and where it has data, as (start, end) in bytes, in order; all else is holes."""
Digests = Callable[[int, Ranges], Sequence[bytes]]
"""Gives the SHA-256 of ranges of an open file."""


class Comparison:
    """Files that are compared with what they were while other work is done; a context manager.

    :param chunks: the table of when they were cut.
    :param opened: called in another thread.
    :param most: size in bytes of the largest chunk.
    """

    def __init__(self, chunks: Sequence[Chunk], opened: Open, *, most: int) -> None:
        self._chunks = chunks
        self._open = opened
        self._most = most
        self._hasher = Hasher()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="envkit-compare")
        self._found: dict[bytes, Future[dict[int, Segment]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what is under way; nothing is compared any more."""
        self._hasher.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._hasher.close()

    def begin(self, entry: Entry, former: Sequence[Segment]) -> None:
        """Have a file compared with where its bytes were, if that can be worth while; files take turns."""
        if _are_many(_whole(entry, former, self._chunks), self._most):
            self._found[entry.path] = self._pool.submit(self._find, entry, former)

    def kept(self, entry: Entry) -> dict[int, Segment]:
        """Return what `find_kept` does, when it is done, and raise what reading has raised; nothing of other files."""
        found = self._found.get(entry.path)
        return {} if found is None else found.result()

    def _find(self, entry: Entry, former: Sequence[Segment]) -> dict[int, Segment]:
        return find_kept(entry, former, self._chunks, self._open, self._hasher.digests, most=self._most)


def find_kept(
    entry: Entry,
    former: Sequence[Segment],
    chunks: Sequence[Chunk],
    opened: Open,
    digests: Digests,
    *,
    most: int,
    portion: int = _PORTION,
) -> dict[int, Segment]:
    """Return the segments of a file that the same cuts would give again, by their start.

    :param former: where its bytes were when it was last cut, in `chunks`.
    :param most: size in bytes of the largest chunk.
    """
    whole = _whole(entry, former, chunks)
    kept: dict[int, Segment] = {}
    if not _are_many(whole, most):
        return kept
    with opened(entry) as (fd, data):
        for run in _runs(_in_place(fd, _within(whole, data), chunks, digests, portion)):
            if run[-1].start + run[-1].length < entry.size:
                run.pop()  # its end may have been the file's, or due to the byte behind it
            if _are_many(run, most):
                kept.update((segment.start, segment) for segment in run)
    return kept


def _whole(entry: Entry, former: Sequence[Segment], chunks: Sequence[Chunk]) -> list[Segment]:
    """Return the segments that are whole chunks, and end before the file does now."""
    return [s for s in former if not s.offset and s.length == chunks[s.chunk].size and s.start + s.length <= entry.size]


def _are_many(segments: Iterable[Segment], most: int) -> bool:
    return sum(segment.length for segment in segments) >= WORTH * most


def _within(segments: Iterable[Segment], data: Iterable[tuple[int, int]]) -> Iterator[Segment]:
    """Yield the segments that have no hole in them now."""
    spans = iter(data)
    start, end = next(spans, (0, 0))
    for segment in segments:
        while end < segment.start + segment.length:
            following = next(spans, None)
            if following is None:
                return
            start, end = following
        if start <= segment.start:
            yield segment


def _in_place(
    fd: int, segments: Iterable[Segment], chunks: Sequence[Chunk], digests: Digests, portion: int
) -> Iterator[Segment]:
    """Yield the segments whose bytes are what they were, in order."""
    for some in _portions(segments, portion):
        found = digests(fd, [(segment.start, segment.length) for segment in some])
        same = [s for s, digest in zip(some, found, strict=True) if digest == chunks[s.chunk].digest]
        if not same:
            return
        yield from same


def _portions(segments: Iterable[Segment], size: int) -> Iterator[list[Segment]]:
    """Yield segments in lists of `size` bytes, or the first ones more."""
    some: list[Segment] = []
    total = 0
    for segment in segments:
        some.append(segment)
        total += segment.length
        if total >= size:
            yield some
            some, total = [], 0
    if some:
        yield some


def _runs(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Yield segments in lists of those that follow each other without a gap."""
    run: list[Segment] = []
    for segment in segments:
        if run and run[-1].start + run[-1].length != segment.start:
            yield run
            run = []
        run.append(segment)
    if run:
        yield run
