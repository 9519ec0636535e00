"""Owns getting chunks back from ranges of packs; no byte leaves here before the SHA-256 of its chunk is checked."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from envkit.content import frame
from envkit.content.errors import DamagedChunk, DamagedFrame
from envkit.model.tree import Chunk

MAX_RANGE = 8 << 20
MAX_GAP = 64 << 10
"""Frames this close together are read at once: cheaper than another round trip."""

GetRange = Callable[[str, int, int], bytes]
"""Returns `length` bytes from `start` of the pack with a digest in hexadecimal: `(digest, start, length)`."""


class ChunkReader:
    """Reads chunks from packs. Safe in several threads if `get_range` is.

    Errors of `get_range`, such as a pack that is not there, pass through.
    """

    def __init__(self, get_range: GetRange) -> None:
        self._get_range = get_range

    def read(self, chunk: Chunk) -> bytes:
        """Return the plain bytes of a chunk.

        :raises DamagedChunk: the pack has something else in its place.
        """
        return unpack_chunk(chunk, self._get_range(chunk.pack.hex(), chunk.offset, chunk.stored))

    def read_many(self, chunks: Sequence[Chunk], numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Yield `(number, bytes)` for some numbers of a chunk table, in the order of packs, neighbours in one request.

        :raises DamagedChunk: as `read`.
        """
        for span in spans(chunks, numbers):
            data = memoryview(self._get_range(span.pack.hex(), span.start, span.end - span.start))
            for number in span.numbers:
                chunk = chunks[number]
                start = chunk.offset - span.start
                yield number, unpack_chunk(chunk, data[start : start + chunk.stored])


def unpack_chunk(chunk: Chunk, stored: "bytes | memoryview") -> bytes:
    """Return the plain bytes of a chunk from what its pack has in its place.

    :raises DamagedChunk: these are not the chunk's bytes.
    """
    if len(stored) != chunk.stored:
        raise DamagedChunk(
            chunk.digest, chunk.pack, f"the pack is cut short, {len(stored)} of {chunk.stored} bytes are there"
        )
    try:
        plain = frame.unpack(bytes(stored), size=chunk.size)
    except DamagedFrame as error:
        raise DamagedChunk(chunk.digest, chunk.pack, error.brief) from error
    if hashlib.sha256(plain).digest() != chunk.digest:
        raise DamagedChunk(chunk.digest, chunk.pack, "its content has another digest")
    return plain


class Span:
    """A range of a pack that is read at once, and the chunks in it."""

    __slots__ = ("end", "numbers", "pack", "start")

    def __init__(self, pack: bytes, start: int, end: int) -> None:
        self.pack = pack
        self.start = start
        self.end = end
        self.numbers: list[int] = []


def spans(chunks: Sequence[Chunk], numbers: Iterable[int]) -> Iterator[Span]:
    """Yield the ranges to read for some numbers of a chunk table, in the order of packs."""
    span: Span | None = None
    for number in sorted(set(numbers), key=lambda number: (chunks[number].pack, chunks[number].offset, number)):
        chunk = chunks[number]
        end = chunk.offset + chunk.stored
        if span is None or chunk.pack != span.pack or chunk.offset > span.end + MAX_GAP or end - span.start > MAX_RANGE:
            if span is not None:
                yield span
            span = Span(chunk.pack, chunk.offset, end)
        span.end = max(span.end, end)
        span.numbers.append(number)
    if span is not None:
        yield span
