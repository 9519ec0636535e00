"""Owns how file contents are cut into chunks, so that the same files are stored once whatever surrounds them.

A large file is cut by FastCDC, for itself; holes take no part. Small files share chunks with their neighbours in
path order. Where such a group ends depends on the names of its files (the last two components, so that a moved or
copied directory gives the same chunks) and their sizes, and on nothing before the group: a change in one file leaves
the groups after the next one as they are. Compiled Python files are cut without their heads (`heads`). Readers know
nothing of all this; it may change without a new format.

A file that is known not to have changed since it was last cut need not be read: a `Memo` says where its bytes were.
Of a large file that has changed, what is still in its place need not be cut (`former`). What comes out is the same with
a memo or without, but for the chunks of heads.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import msgspec
from pyfastcdc import FastCDC

from envkit.content.errors import ContentChanged
from envkit.content.heads import Heads
from envkit.model.tree import Entry, Segment

Content = Iterable[tuple[int, bytes]]
"""The data of a file without its holes: `(start, bytes)` in order, in pieces of any size."""

Put = Callable[[bytes | memoryview], int]
"""Takes a chunk; returns what segments name it by."""


class Read(Protocol):
    """Gives the content of a file, from a byte on; asked for the beginning it is called with the entry alone."""

    def __call__(self, entry: Entry, start: int = 0, /) -> Content:
        """Return the data at `start` and behind it."""


class Memo(Protocol):
    """What is known of files that were cut before, with the same `Sizes`."""

    def recall(self, entry: Entry) -> tuple[Segment, ...] | None:
        """Return where a file's bytes were, if its content is certainly the same; None if it has to be read."""

    def size(self, chunk: int) -> int:
        """Return the size in bytes of a chunk that recalled segments name."""

    def reuse(self, chunk: int) -> int:
        """Take a chunk that recalled segments name instead of its bytes; returns what `put` would have."""

    def kept(self, entry: Entry) -> Mapping[int, Segment]:
        """Return what a large file, which has to be read, has in common with what it was, see `former.find_kept`."""


class _Forgetful:
    """Knows nothing of any file."""

    def recall(self, entry: Entry) -> None:
        del entry

    def kept(self, entry: Entry) -> Mapping[int, Segment]:
        del entry
        return {}

    def size(self, chunk: int) -> int:
        raise AssertionError(chunk)

    reuse = size


# FastCDC looks at a buffer of this many largest chunks; the cuts are those of the whole file.
_WINDOW = 4


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes. `small`: files with less data share chunks. `least`, `most`: of a chunk. `usual`: FastCDC's average.

    A group with `least` bytes ends after each further file with a chance of the file's size in `spread`.
    """

    small: int = 64 << 10
    least: int = 64 << 10
    usual: int = 128 << 10
    most: int = 512 << 10
    spread: int = 96 << 10


DEFAULT_SIZES = Sizes()


def chunk_files(
    entries: Iterable[Entry], read: Read, put: Put, *, sizes: Sizes = DEFAULT_SIZES, memo: Memo | None = None
) -> Iterator[Entry]:
    """Cut the contents of files, hand each chunk to `put`, and yield the entries with their segments, in order.

    `entries` are all of a layer in canonical order. Each content is read at most once but for seams of kept chunks,
    when its turn comes. Segments name chunks by what `put` returned. Holds a few chunks, never a large file.

    :raises ContentChanged: a content is out of order or reaches beyond its entry's size.
    """
    heads = Heads(put, most=sizes.most)
    for entry in _chunk_bodies(entries, read, heads, put, sizes, memo or _Forgetful()):
        yield from heads.attach(entry)
    yield from heads.flush()


def _chunk_bodies(
    entries: Iterable[Entry], read: Read, heads: Heads, put: Put, sizes: Sizes, memo: Memo
) -> Iterator[Entry]:
    """Cut the contents without the heads of some, and yield the entries with the segments of these, in order."""

    def body_of(entry: Entry) -> Iterator[tuple[int, bytes]]:
        return heads.cut(entry, _checked(entry, read(entry)))

    group = _Group(put, body_of, memo, sizes)
    for entry in entries:
        if not entry.size:
            yield from group.pass_by(entry)
            continue
        recalled = memo.recall(entry)
        if recalled is not None:
            body = heads.recall(entry, recalled, memo.reuse)
            length = body[0].length if len(body) == 1 else sum([segment.length for segment in body])
            if length < sizes.small:
                yield from group.add(_Waiting(entry, length, recalled=body))
            else:
                segments = tuple([Segment(s.start, s.length, memo.reuse(s.chunk), s.offset) for s in body])
                yield from group.pass_by(msgspec.structs.replace(entry, segments=segments))
            continue
        pieces = body_of(entry)
        begin = _begin(pieces, sizes.small)
        length = sum(len(data) for _, data in begin)
        if length < sizes.small:
            yield from group.add(_Waiting(entry, length, data=begin))
            continue
        kept = {} if heads.has_one(entry) else memo.kept(entry)
        if kept:
            segments = _cut_between(entry, kept, read, put, memo, sizes)
        else:
            segments = _cut_large(chain(begin, pieces), put, sizes)
        yield from group.pass_by(msgspec.structs.replace(entry, segments=segments))
    yield from group.flush()


def renumber(entries: list[Entry], numbers: Sequence[int]) -> None:
    """Have the segments of all entries name chunk `numbers[n]` where they named `n`; the list itself is changed."""
    same = next((place for place, number in enumerate(numbers) if number != place), None)
    if same is None:
        return
    for place, entry in enumerate(entries):
        if not all([segment.chunk < same for segment in entry.segments]):
            moved = [Segment(s.start, s.length, numbers[s.chunk], s.offset) for s in entry.segments]
            entries[place] = msgspec.structs.replace(entry, segments=tuple(moved))


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


@dataclass(slots=True)
class _Waiting:
    """An entry with `length` bytes of data that waits for the chunk of its group; `data` is None until it is read."""

    entry: Entry
    length: int
    data: Sequence[tuple[int, bytes]] | None = None
    recalled: tuple[Segment, ...] = ()


class _Group:
    """Small files that will share the next chunk, and all entries that wait for it to keep their order."""

    def __init__(self, put: Put, read: Callable[[Entry], Content], memo: Memo, sizes: Sizes) -> None:
        self._put = put
        self._read = read
        self._memo = memo
        self._sizes = sizes
        self._size = 0
        self._waiting: list[_Waiting] = []

    def pass_by(self, entry: Entry) -> Sequence[Entry]:
        """Take an entry that needs no place in the chunk; return the entries that are ready.

        A large file does not end the group: a neighbour that grows large must not move small files between chunks.
        """
        if not self._size:
            return (entry,)
        self._waiting.append(_Waiting(entry, 0, data=()))
        return ()

    def add(self, file: _Waiting) -> Sequence[Entry]:
        """Take a small file; return the entries that are ready."""
        ready = self.flush() if self._size + file.length > self._sizes.most else []
        if not file.length and not self._size:
            return [*ready, file.entry]
        self._waiting.append(file)
        self._size += file.length
        if self._size >= self._sizes.least and _draw(file.entry.path) * self._sizes.spread < file.length << 32:
            ready += self.flush()
        return ready

    def flush(self) -> list[Entry]:
        """End the group; return the entries that are ready."""
        if not self._size:
            return []
        before = self._chunk_before()
        ready = self._stored() if before is None else self._kept(self._memo.reuse(before))
        self._size, self._waiting = 0, []
        return ready

    def _chunk_before(self) -> int | None:
        """Return the chunk that holds exactly this group already, if there is one."""
        chunk, end = None, 0
        for file in self._waiting:
            if file.length and not file.recalled:
                return None
            for segment in file.recalled:
                if segment.offset != end or chunk not in (None, segment.chunk):
                    return None
                chunk, end = segment.chunk, end + segment.length
        return chunk if chunk is not None and end == self._memo.size(chunk) else None

    def _kept(self, chunk: int) -> list[Entry]:
        """Return the entries with their recalled segments in a chunk of another number."""
        replace = msgspec.structs.replace
        ready = []
        for file in self._waiting:
            if file.length:
                moved = [Segment(s.start, s.length, chunk, s.offset) for s in file.recalled]
                ready.append(replace(file.entry, segments=tuple(moved)))
            else:
                ready.append(file.entry)
        return ready

    def _stored(self) -> list[Entry]:
        chunk = self._put(b"".join([data for file in self._waiting for _, data in self._data(file)]))
        offset = 0
        ready = []
        for file in self._waiting:
            if file.length:
                extents = _Extents()
                for start, data in self._data(file):
                    extents.add(start, len(data))
                segments = tuple(extents.take(file.length, chunk, offset))
                ready.append(msgspec.structs.replace(file.entry, segments=segments))
                offset += file.length
            else:
                ready.append(file.entry)
        return ready

    def _data(self, file: _Waiting) -> Sequence[tuple[int, bytes]]:
        """Return the data of a file, read now if it was not yet."""
        if file.data is None:
            file.data = list(self._read(file.entry))
            if sum(len(data) for _, data in file.data) != file.length:
                raise ContentChanged(file.entry.path)
        return file.data


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


def _begin(pieces: Iterator[tuple[int, bytes]], small: int) -> list[tuple[int, bytes]]:
    """Take pieces until there are `small` bytes, or no more."""
    begin = []
    size = 0
    while size < small and (piece := next(pieces, None)) is not None:
        begin.append(piece)
        size += len(piece[1])
    return begin


def _cut_large(pieces: Iterable[tuple[int, bytes]], put: Put, sizes: Sizes) -> tuple[Segment, ...]:
    extents = _Extents()
    segments: list[Segment] = []
    for plain in cut(_data_of(pieces, extents), sizes):
        segments.extend(extents.take(len(plain), put(plain)))
    return tuple(segments)


def _cut_between(
    entry: Entry, kept: Mapping[int, Segment], read: Read, put: Put, memo: Memo, sizes: Sizes
) -> tuple[Segment, ...]:
    """Cut only what lies between kept chunks, each of which begins where the cut before it is."""
    segments: list[Segment] = []
    position = 0
    while position < entry.size:
        same = kept.get(position)
        if same is not None:
            segments.append(Segment(position, same.length, memo.reuse(same.chunk), 0))
            position += same.length
            continue
        extents = _Extents()
        for plain in cut(_data_of(_checked(entry, read(entry, position)), extents), sizes):
            segments.extend(extents.take(len(plain), put(plain)))
            position = segments[-1].start + segments[-1].length
            if position in kept:
                break
        else:
            return tuple(segments)
    # Nothing was read to its end, which is what finds out whether somebody writes to the file.
    deque(read(entry, entry.size), maxlen=0)
    return tuple(segments)


def _data_of(pieces: Iterable[tuple[int, bytes]], extents: _Extents) -> Iterator[bytes]:
    """Yield the data, after noting where it is from."""
    for start, data in pieces:
        extents.add(start, len(data))
        yield data


def cut(stream: Iterator[bytes], sizes: Sizes = DEFAULT_SIZES) -> Iterator[memoryview]:
    """Cut a stream by FastCDC exactly where the whole of it in one buffer would be cut, with a few chunks in memory."""
    window = _WINDOW * sizes.most
    cutter = FastCDC(sizes.usual, min_size=sizes.least, max_size=sizes.most)
    rest = memoryview(b"")
    ended = False
    while not ended:
        pieces, size = [rest] if rest else [], len(rest)
        while size < window and not ended:
            piece = next(stream, None)
            if piece is None:
                ended = True
            else:
                pieces.append(memoryview(piece))
                size += len(piece)
        buffer = yield from _cut_seam(pieces, cutter, sizes.most)
        done = 0
        # A place to cut depends on no more than `most` bytes from the last one.
        for found in cutter.cut_buf(buffer):
            if not ended and len(buffer) - found.offset < sizes.most:
                break
            done = found.offset + found.length
            yield buffer[found.offset : done]
        rest = buffer[done:]


def _cut_seam(pieces: Sequence[memoryview], cutter: FastCDC, most: int) -> Generator[memoryview, None, memoryview]:
    """Yield the chunks that begin before the last piece; return what follows, which is copied only if it is small."""
    if len(pieces) == 1:
        return pieces[0]
    if not pieces or len(pieces[-1]) < most:
        return memoryview(b"".join(pieces))
    *begin, last = pieces
    length = sum(map(len, begin))
    seam = memoryview(b"".join((*begin, last[:most])))
    done = 0
    for found in cutter.cut_buf(seam):
        if found.offset >= length:
            break
        done = found.offset + found.length
        yield seam[found.offset : done]
    return last[done - length :]
