"""Owns the map of a cached layer: what its image is made of, and the file `map` in which a node keeps that.

    header      magic, format, numbers and sizes of what follows, SHA-256 of the image's metadata
    extents     the block map: image offsets (8 bytes each), lengths, chunk numbers, offsets in chunks (4 each)
    order       numbers of the extents by ascending chunk, 4 bytes each
    parted      numbers of the chunks of which the image has only some bytes, 4 bytes each
    chunks      the tree's chunk table as msgpack
    SHA-256     of all that

In the byte order of this machine: a map is never given to another one.
"""

import hashlib
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from envkit.cache.bits import Bits
from envkit.cache.complete import MAP
from envkit.cache.datafile import read_small
from envkit.cache.errors import CacheLost
from envkit.model.blockmap import BlockMap, Extent
from envkit.model.collector import no_collector
from envkit.model.record import Record
from envkit.model.tree import MAX_CHUNK, Chunk

MAX_MAP = 1 << 30
MAX_IMAGE = 1 << 44
MAX_CHUNKS = 1 << 22

_MAGIC = b"envkitmp"
_FORMAT = 1
_DIGEST = 32
_HEADER = struct.Struct("=8sIIQQ16s32sQQQ")
"""Magic, format, chunks, bytes of the image, bytes of its metadata, UUID, digest of the metadata, extents, parted
chunks, bytes of the chunk table."""
_EXTENT = 8 + 4 * 4

_chunks_decoder = msgspec.msgpack.Decoder(Annotated[list[Chunk], msgspec.Meta(max_length=MAX_CHUNKS)])


class LayerMap(Record):
    """What a layer's image is made of: `size` bytes, `metadata` of them at its start, the rest from chunks or zeros.

    `uuid` is that of the image's superblock.
    """

    size: int
    metadata: int
    uuid: bytes
    blocks: BlockMap
    chunks: Sequence[Chunk]


class IndexedBlocks(BlockMap):
    """A block map as it is stored, which can also tell the extents of one chunk."""

    def __init__(self) -> None:
        super().__init__()
        self._order = array("I")

    @classmethod
    def of(cls, blocks: BlockMap) -> "IndexedBlocks":
        """Return a block map with its index."""
        indexed = cls()
        theirs = blocks._image_offsets, blocks._lengths, blocks._chunks, blocks._offsets
        for own, column in zip(indexed._columns, theirs, strict=True):
            own.extend(column)
        indexed._order.extend(sorted(range(len(blocks)), key=indexed._chunks.tolist().__getitem__))
        indexed._end = blocks.end
        return indexed

    @classmethod
    def from_bytes(cls, data: memoryview, count: int) -> "IndexedBlocks":
        """Return what `to_bytes` gave for `count` extents.

        :raises ValueError: these are not as many bytes.
        """
        indexed = cls()
        for column in (*indexed._columns, indexed._order):
            length = count * column.itemsize
            column.frombytes(data[:length])
            data = data[length:]
        if data or any(len(column) != count for column in (*indexed._columns, indexed._order)):
            raise ValueError(f"these are not {count} extents")
        if count:
            indexed._end = indexed._image_offsets[-1] + indexed._lengths[-1]
        return indexed

    def to_bytes(self) -> bytes:
        return b"".join(column.tobytes() for column in (*self._columns, self._order))

    def of_chunk(self, number: int) -> list[Extent]:
        """Return the extents of one chunk by image offset."""
        found = []
        first = bisect_left(self._order, number, key=self._chunks.__getitem__)
        for place in range(first, len(self._order)):
            index = self._order[place]
            if self._chunks[index] != number:
                break
            found.append(Extent(self._image_offsets[index], self._lengths[index], number, self._offsets[index]))
        return found

    def by_chunk_order(self) -> Iterator[tuple[int, int, int]]:
        """Yield (chunk, offset in it, length) of each extent by ascending chunk."""
        ordered = (map(column.__getitem__, self._order) for column in (self._chunks, self._offsets, self._lengths))
        return zip(*ordered, strict=True)

    def covered_by(self, chunks: Bits) -> int:
        """Return how many bytes of the image come from some chunks."""
        if not chunks.total():
            return 0
        return sum(length for length, chunk in zip(self._lengths, self._chunks, strict=True) if chunks[chunk])

    def needed(self) -> set[int]:
        """Return the numbers of the chunks that the image needs."""
        return set(self._chunks)

    @property
    def _columns(self) -> tuple["array[int]", ...]:
        return self._image_offsets, self._lengths, self._chunks, self._offsets


class StoredMap(Record):
    """A map with what was worked out for it: the index, the digest of the image's metadata, the parted chunks."""

    map: LayerMap
    blocks: IndexedBlocks
    metadata_digest: bytes
    parted: Sequence[int]


def encode(layer_map: LayerMap, metadata: bytes) -> bytes:
    """Return the content of a map file.

    :raises ValueError: the map contradicts itself or the image's metadata.
    """
    if len(metadata) != layer_map.metadata or len(layer_map.uuid) != 16:
        raise ValueError("the map is of another image")
    blocks = IndexedBlocks.of(layer_map.blocks)
    if problem := _problem(layer_map, blocks):
        raise ValueError(problem)
    parted = array("I", _parted(layer_map, blocks))
    table = msgspec.msgpack.encode(list(layer_map.chunks))
    header = _HEADER.pack(
        _MAGIC,
        _FORMAT,
        len(layer_map.chunks),
        layer_map.size,
        layer_map.metadata,
        layer_map.uuid,
        hashlib.sha256(metadata).digest(),
        len(blocks),
        len(parted),
        len(table),
    )
    data = b"".join((header, blocks.to_bytes(), parted.tobytes(), table))
    if len(data) + _DIGEST > MAX_MAP:
        raise ValueError("the map is too large")
    return data + hashlib.sha256(data).digest()


def load(directory: str) -> StoredMap:
    """Return a layer's map.

    :raises CacheLost: there is none, or it is damaged.
    """
    data = read_small(f"{directory}/{MAP}", MAX_MAP)
    if data is None:
        raise CacheLost(directory, "it has no map")
    try:
        return decode(data)
    except ValueError as error:
        raise CacheLost(directory, f"its map is damaged: {error}") from error


def decode(data: bytes) -> StoredMap:
    """Return the map that `encode` wrote.

    :raises ValueError: it is not whole, or of another version of envkit.
    """
    if len(data) < _HEADER.size + _DIGEST:
        raise ValueError("it is cut short")
    magic, version, count, size, metadata, uuid, metadata_digest, extents, parts, table = _HEADER.unpack_from(data)
    if (magic, version) != (_MAGIC, _FORMAT):
        raise ValueError("it has another format")
    if len(data) != _HEADER.size + extents * _EXTENT + parts * 4 + table + _DIGEST:
        raise ValueError("it has another length than it says")
    view = memoryview(data)
    if hashlib.sha256(view[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise ValueError("its content has another digest")
    place = _HEADER.size + extents * _EXTENT
    blocks = IndexedBlocks.from_bytes(view[_HEADER.size : place], extents)
    parted = array("I")
    parted.frombytes(view[place : place + parts * 4])
    try:
        with no_collector():
            chunks = _chunks_decoder.decode(view[place + parts * 4 : -_DIGEST])
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    layer_map = LayerMap(size=size, metadata=metadata, uuid=uuid, blocks=blocks, chunks=chunks)
    problem = _problem(layer_map, blocks)
    if problem is None and (len(chunks) != count or (parted and parted[-1] >= count)):
        problem = "it has another number of chunks than it says"
    if problem is not None:
        raise ValueError(problem)
    return StoredMap(map=layer_map, blocks=blocks, metadata_digest=metadata_digest, parted=parted)


def _problem(layer_map: LayerMap, blocks: IndexedBlocks) -> str | None:
    """Return what contradicts itself in a map, or None."""
    first = next(iter(blocks), None)
    if not 0 < layer_map.metadata <= layer_map.size <= MAX_IMAGE:
        return "its sizes are impossible"
    if first is not None and (first.image_offset < layer_map.metadata or blocks.end > layer_map.size):
        return "an extent lies outside the data region"
    if first is not None and max(blocks.needed()) >= len(layer_map.chunks):
        return "an extent names a chunk that there is not"
    for chunk in layer_map.chunks:
        if len(chunk.digest) != _DIGEST or len(chunk.pack) != _DIGEST or not 0 < chunk.size <= MAX_CHUNK:
            return "a chunk has an impossible digest or size"
    return None


def _parted(layer_map: LayerMap, blocks: IndexedBlocks) -> list[int]:
    """Return the numbers of the chunks of which the image has only some bytes, ascending.

    :raises ValueError: an extent is longer than its chunk.
    """
    sizes = [chunk.size for chunk in layer_map.chunks]
    reached = dict.fromkeys(blocks.needed(), 0)
    # Most chunks are cut into extents in order and without gaps; only the others deserve a second look.
    for number, offset, length in blocks.by_chunk_order():
        if reached[number] == offset:
            reached[number] = offset + length
        else:
            reached[number] = -1
    return [n for n in sorted(reached) if reached[n] != sizes[n] and _is_parted(sizes[n], blocks.of_chunk(n))]


def _is_parted(size: int, extents: Sequence[Extent]) -> bool:
    reached, gap = 0, False
    for offset, length in sorted((extent.offset, extent.length) for extent in extents):
        gap = gap or offset > reached
        reached = max(reached, offset + length)
    if reached > size:
        raise ValueError("an extent is longer than its chunk")
    return gap or reached < size
