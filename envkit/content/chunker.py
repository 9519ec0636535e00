"""Owns how file contents are cut into chunks, so that the same files are stored once whatever surrounds them.

A large file is cut by FastCDC, for itself; holes take no part. Small files share chunks with their neighbours in
path order. Where such a group ends depends on the names of its files (the last two components, so that a moved or
copied directory gives the same chunks) and their sizes, and on nothing before the group: a change in one file leaves
the groups after the next one as they are. Readers know nothing of this; it may change without a new format.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec
from pyfastcdc import FastCDC

from envkit.content.errors import ContentChanged
from envkit.model.tree import Entry, Segment

Content = Iterable[tuple[int, bytes]]
"""The data of a file without its holes: `(start, bytes)` in order, in pieces of any size."""

# FastCDC looks at a buffer of this many largest chunks; the cuts are those of the whole file.
_WINDOW = 4


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes. `small`: files with less data share chunks. `least`, `most`: of a chunk. `usual`: FastCDC's average.

    A group with `least` bytes ends after each further file with a chance of the file's size in `spread`.
    """

    small: int = 128 << 10
    least: int = 128 << 10
    usual: int = 256 << 10
    most: int = 1 << 20
    spread: int = 192 << 10


DEFAULT_SIZES = Sizes()


def chunk_files(
    files: Iterable[tuple[Entry, Content]], put: Callable[[bytes], int], *, sizes: Sizes = DEFAULT_SIZES
) -> Iterator[Entry]:
    """Cut the contents of files, hand each chunk to `put`, and yield the entries with their segments, in order.

    `files` are all entries of a layer in canonical order; what is no file has no content. Each content is read once,
    when its turn comes. Segments name chunks by what `put` returned. Holds a few chunks, never a whole large file.

    :raises ContentChanged: a content is out of order or reaches beyond its entry's size.
    """
    group = _Group(put, sizes)
    for entry, content in files:
        pieces = _checked(entry, content)
        head = _head(pieces, sizes.small)
        if sum(len(data) for _, data in head) < sizes.small:
            yield from group.add(entry, head)
        else:
            # Does not end the group: a neighbour that grows large must not move small files between chunks.
            segments = _cut_large(chain(head, pieces), put, sizes)
            yield from group.add(msgspec.structs.replace(entry, segments=segments), [])
    yield from group.flush()


def renumber(entries: Iterable[Entry], numbers: Sequence[int]) -> Iterator[Entry]:
    """Yield entries whose segments name chunk `numbers[n]` where they named `n`."""
    same = all(number == place for place, number in enumerate(numbers))
    for entry in entries:
        if entry.segments and not same:
            moved = (Segment(s.start, s.length, numbers[s.chunk], s.offset) for s in entry.segments)
            yield msgspec.structs.replace(entry, segments=tuple(moved))
        else:
            yield entry


class _Extents:
    """Ranges of one file whose bytes are on their way into chunks, in order."""

    def __init__(self) -> None:
        self._ranges: deque[tuple[int, int]] = deque()

    def add(self, start: int, length: int) -> None:
        if self._ranges and sum(self._ranges[-1]) == start:
            start, before = self._ranges.pop()
            length += before
        self._ranges.append((start, length))

    def take(self, length: int, chunk: int, offset: int = 0) -> Iterator[Segment]:
        """Remove the next `length` bytes and yield them as segments of a chunk, from `offset` in it."""
        while length:
            start, available = self._ranges.popleft()
            taken = min(length, available)
            if taken < available:
                self._ranges.appendleft((start + taken, available - taken))
            yield Segment(start, taken, chunk, offset)
            offset += taken
            length -= taken


@dataclass(frozen=True)
class _Waiting:
    """An entry, and where its bytes lie in the group's chunk."""

    entry: Entry
    extents: _Extents
    offset: int
    length: int


class _Group:
    """Small files that will share the next chunk, and all entries that wait for it to keep their order."""

    def __init__(self, put: Callable[[bytes], int], sizes: Sizes) -> None:
        self._put = put
        self._sizes = sizes
        self._data: list[bytes] = []
        self._size = 0
        self._waiting: list[_Waiting] = []

    def add(self, entry: Entry, content: list[tuple[int, bytes]]) -> list[Entry]:
        """Take an entry and the data of it that belongs into the group; return the entries that are ready."""
        length = sum(len(data) for _, data in content)
        ready = self.flush() if self._size + length > self._sizes.most else []
        if not length and not self._size:
            return [*ready, entry]
        extents = _Extents()
        for start, data in content:
            extents.add(start, len(data))
            self._data.append(data)
        self._waiting.append(_Waiting(entry, extents, self._size, length))
        self._size += length
        if self._size >= self._sizes.least and _draw(entry.path) * self._sizes.spread < length << 32:
            ready += self.flush()
        return ready

    def flush(self) -> list[Entry]:
        """End the group; return the entries that are ready."""
        if not self._size:
            return []
        chunk = self._put(b"".join(self._data))
        ready = [
            msgspec.structs.replace(w.entry, segments=tuple(w.extents.take(w.length, chunk, w.offset)))
            if w.length
            else w.entry
            for w in self._waiting
        ]
        self._data, self._size, self._waiting = [], 0, []
        return ready


def _draw(path: bytes) -> int:
    """Return a number of 32 bits that depends on the last two components of a path."""
    tail = b"/".join(path.split(b"/")[-2:])
    return int.from_bytes(hashlib.blake2b(tail, digest_size=4).digest(), "big")


def _checked(entry: Entry, content: Content) -> Iterator[tuple[int, bytes]]:
    end = 0
    for start, data in content:
        if start < end or start + len(data) > entry.size:
            raise ContentChanged(entry.path)
        end = start + len(data)
        if data:
            yield start, data


def _head(pieces: Iterator[tuple[int, bytes]], small: int) -> list[tuple[int, bytes]]:
    """Take pieces until there are `small` bytes, or no more."""
    head = []
    size = 0
    while size < small and (piece := next(pieces, None)) is not None:
        head.append(piece)
        size += len(piece[1])
    return head


def _cut_large(pieces: Iterable[tuple[int, bytes]], put: Callable[[bytes], int], sizes: Sizes) -> tuple[Segment, ...]:
    extents = _Extents()

    def data_of() -> Iterator[bytes]:
        for start, data in pieces:
            extents.add(start, len(data))
            yield data

    segments: list[Segment] = []
    for plain in cut(data_of(), sizes):
        segments.extend(extents.take(len(plain), put(plain)))
    return tuple(segments)


def cut(stream: Iterator[bytes], sizes: Sizes = DEFAULT_SIZES) -> Iterator[bytes]:
    """Cut a stream by FastCDC exactly where the whole of it in one buffer would be cut, with a few chunks in memory."""
    window = _WINDOW * sizes.most
    cutter = FastCDC(sizes.usual, min_size=sizes.least, max_size=sizes.most)
    buffer = b""
    ended = False
    while not ended:
        pieces, size = [buffer], len(buffer)
        while size < window and not ended:
            piece = next(stream, None)
            if piece is None:
                ended = True
            else:
                pieces.append(piece)
                size += len(piece)
        buffer = b"".join(pieces)
        done = 0
        # A place to cut depends on no more than `most` bytes from the last one.
        for found in cutter.cut_buf(buffer):
            if not ended and len(buffer) - found.offset < sizes.most:
                break
            done = found.offset + found.length
            yield buffer[found.offset : done]
        buffer = buffer[done:]
