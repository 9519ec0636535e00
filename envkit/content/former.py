"""Owns finding out which chunks of a large file are still in their place after it was changed.

Where FastCDC cuts depends on the bytes from the last cut up to the first one behind the new cut, and on nothing else.
So where a chunk and the next one are where they were, byte for byte, so is the cut between them, and neither need be
cut again. Comparing digests takes less than cutting and hashing, and all cores do it, beside a thread that runs Python.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from envkit.model.tree import Chunk, Entry, Segment

_BATCH = 4 << 20  # bytes that are read at once
_PATIENCE = 16  # batches without a chunk in its place, after which the rest is taken to be new
_WORTH = 8  # largest chunks: going on behind fewer bytes than this costs more than they do

Read = Callable[[Entry, int], Iterable[tuple[int, bytes]]]


class Comparison:
    """Files that are compared with what they were while other work is done; a context manager.

    :param chunks: the table of when they were cut.
    :param read: see `find_kept`.
    :param most: size in bytes of the largest chunk.
    """

    def __init__(self, chunks: Sequence[Chunk], read: Read, *, most: int) -> None:
        self._chunks = chunks
        self._source = read
        self._most = most
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="envkit-compare")
        self._found: dict[bytes, Future[dict[int, Segment]]] = {}
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def begin(self, entry: Entry, former: Sequence[Segment]) -> None:
        """Have a file compared with where its bytes were; files take turns."""
        found = self._pool.submit(find_kept, entry, former, self._chunks, self._read, most=self._most)
        self._found[entry.path] = found

    def kept(self, entry: Entry) -> dict[int, Segment]:
        """Return what `find_kept` does, when it is done, and raise what reading has raised; nothing of other files."""
        found = self._found.get(entry.path)
        return {} if found is None else found.result()

    def _read(self, entry: Entry, start: int) -> Iterable[tuple[int, bytes]]:
        if self._ended:
            raise CancelledError
        return self._source(entry, start)


def find_kept(
    entry: Entry, former: Sequence[Segment], chunks: Sequence[Chunk], read: Read, *, most: int, batch: int = _BATCH
) -> dict[int, Segment]:
    """Return the segments of a file that the same cuts would give again, by their start.

    :param former: where its bytes were when it was last cut, in `chunks`.
    :param read: gives its data from a byte on, as (start, bytes); called from several threads.
    :param most: size in bytes of the largest chunk.
    """
    whole = [
        s for s in former if not s.offset and s.length == chunks[s.chunk].size and s.start + s.length <= entry.size
    ]
    kept: dict[int, Segment] = {}
    for run in _runs(_in_place(entry, list(_batches(whole, batch)), chunks, read)):
        if run[-1].start + run[-1].length < entry.size:
            run.pop()  # its end may have been the file's, or due to the byte behind it
        if sum(segment.length for segment in run) >= _WORTH * most:
            kept.update((segment.start, segment) for segment in run)
    return kept


def _batches(segments: Iterable[Segment], size: int) -> Iterator[list[Segment]]:
    """Yield segments that follow each other without a gap in lists of at most `size` bytes, if not of one segment."""
    batch: list[Segment] = []
    for segment in segments:
        if batch:
            gap = batch[-1].start + batch[-1].length != segment.start
            if gap or segment.start + segment.length - batch[0].start > size:
                yield batch
                batch = []
        batch.append(segment)
    if batch:
        yield batch


def _in_place(entry: Entry, batches: Sequence[list[Segment]], chunks: Sequence[Chunk], read: Read) -> Iterator[Segment]:
    """Yield the segments whose bytes are what they were, in order."""
    threads = min(8, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads, thread_name_prefix="envkit-compare") as pool:
        for first in range(0, len(batches), _PATIENCE):
            some = batches[first : first + _PATIENCE]
            found = list(pool.map(lambda batch: _same(entry, batch, chunks, read), some))
            if not any(found):
                return
            for segments in found:
                yield from segments


def _same(entry: Entry, batch: Sequence[Segment], chunks: Sequence[Chunk], read: Read) -> list[Segment]:
    """Return those of a batch whose bytes are in the first piece that is read, and are what they were."""
    start = batch[0].start
    found, data = next(iter(read(entry, start)), (start, b""))
    if found != start:  # there is a hole now
        return []
    view = memoryview(data)
    return [s for s in batch if _digest(view[s.start - start :][: s.length]) == chunks[s.chunk].digest]


def _digest(plain: memoryview) -> bytes:
    return hashlib.sha256(plain).digest()


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
