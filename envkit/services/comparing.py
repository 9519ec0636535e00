"""Owns looking into the files of merged views without mounting anything: small ones whole, large ones to compare them.

Chunks are fetched by several threads ahead of their use, verified, and kept for a while: small files share them with
their neighbours, so whoever reads in the order of paths reads each chunk once. Memory is bounded, whatever the size of
files.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from envkit.content.reader import ChunkReader
from envkit.model.difference import Change
from envkit.model.tree import Chunk, Entry
from envkit.model.view import View
from envkit.services.context import Context
from envkit.store.objects import pack_ranges

_THREADS = 8
_AHEAD = 8  # pieces that are being fetched; of at most two chunks each
_KEPT = 96 << 20  # bytes of chunks, more than all pieces ahead can have

Place = tuple[Chunk, int] | None
"""Where a range of a file lies: in a chunk from an offset, or nowhere, in a hole."""


class Contents:
    """Reads from the configured store; a context manager that ends its threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reader = ChunkReader(pack_ranges(context.store))
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="envkit-read")
        self._chunks: OrderedDict[bytes, Future[bytes]] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._kept = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, view: View, entry: Entry, *, limit: int) -> bytes | None:
        """Return the content of a small file; None if it has more than `limit` bytes.

        :raises DamagedChunk: it cannot be had.
        """
        if entry.size > limit:
            return None
        data = bytearray(entry.size)
        for segment in entry.segments:
            plain = self._ask(view.chunks[segment.chunk]).result()
            data[segment.start : segment.start + segment.length] = plain[
                segment.offset : segment.offset + segment.length
            ]
        return bytes(data)

    def compare(self, before: View, after: View, changes: Sequence[Change]) -> Iterator[tuple[Change, bool]]:
        """Yield undecided changes with whether their contents are the same, in order.

        :raises DamagedChunk: a content cannot be had.
        """
        pieces = _pieces(before, after, changes)
        differing: set[int] = set()
        waiting: deque[_Waiting] = deque()
        next_one = 0
        total = sum(change.before.size for change in changes if change.before is not None)
        with self._context.progress.step("comparing contents", total=total, unit="bytes") as step:
            while True:
                while len(waiting) < _AHEAD and (piece := next(pieces, None)) is not None:
                    if piece.number not in differing:
                        waiting.append(_Waiting(piece, self._fetched(piece.before), self._fetched(piece.after)))
                last = waiting[0].piece.number if waiting else len(changes)
                for number in range(next_one, last):
                    yield changes[number], number not in differing
                    step.advance(_size(changes[number]))
                next_one = last
                if not waiting:
                    return
                first = waiting.popleft()
                if first.piece.number not in differing and not first.same():
                    differing.add(first.piece.number)

    def _fetched(self, place: Place) -> "Future[bytes] | None":
        return None if place is None else self._ask(place[0])

    def _ask(self, chunk: Chunk) -> "Future[bytes]":
        """Return a chunk that was fetched or will be; the ones asked for longest ago are let go."""
        found = self._chunks.get(chunk.digest)
        if found is not None:
            self._chunks.move_to_end(chunk.digest)
            return found
        asked = self._chunks[chunk.digest] = self._pool.submit(self._reader.read, chunk)
        self._sizes[chunk.digest] = chunk.size
        self._kept += chunk.size
        while self._kept > _KEPT:
            digest, _ = self._chunks.popitem(last=False)
            self._kept -= self._sizes.pop(digest)
        return asked


@dataclass(frozen=True)
class _Piece:
    """A range that has to be looked at: of which change, how long, and where it lies on both sides."""

    number: int
    length: int
    before: Place
    after: Place


@dataclass(frozen=True)
class _Waiting:
    """A piece whose chunks are on their way."""

    piece: _Piece
    before: "Future[bytes] | None"
    after: "Future[bytes] | None"

    def same(self) -> bool:
        length = self.piece.length
        return _range(self.piece.before, self.before, length) == _range(self.piece.after, self.after, length)


def _range(place: Place, fetched: "Future[bytes] | None", length: int) -> bytes:
    if place is None or fetched is None:
        return bytes(length)
    return fetched.result()[place[1] : place[1] + length]


def _size(change: Change) -> int:
    return 0 if change.before is None else change.before.size


def _pieces(before: View, after: View, changes: Iterable[Change]) -> Iterator[_Piece]:
    for number, change in enumerate(changes):
        if change.before is None or change.after is None:
            continue
        for length, a, b in _ranges(change.before, before.chunks, change.after, after.chunks):
            if a is None and b is None:
                continue
            if a is not None and b is not None and a[0].digest == b[0].digest and a[1] == b[1]:
                continue
            yield _Piece(number, length, a, b)


def _ranges(a: Entry, a_chunks: list[Chunk], b: Entry, b_chunks: list[Chunk]) -> Iterator[tuple[int, Place, Place]]:
    """Cut two files of one size into ranges that lie in one place on each side; long holes come in several."""
    left, right = _places(a, a_chunks), _places(b, b_chunks)
    a_length, a_place = next(left, (0, None))
    b_length, b_place = next(right, (0, None))
    while a_length and b_length:
        length = min(a_length, b_length)
        yield length, a_place, b_place
        a_length, a_place = (
            (a_length - length, _further(a_place, length)) if a_length > length else next(left, (0, None))
        )
        b_length, b_place = (
            (b_length - length, _further(b_place, length)) if b_length > length else next(right, (0, None))
        )


def _places(entry: Entry, chunks: list[Chunk]) -> Iterator[tuple[int, Place]]:
    end = 0
    for segment in entry.segments:
        if segment.start > end:
            yield segment.start - end, None
        yield segment.length, (chunks[segment.chunk], segment.offset)
        end = segment.start + segment.length
    if entry.size > end:
        yield entry.size - end, None


def _further(place: Place, length: int) -> Place:
    return None if place is None else (place[0], place[1] + length)
