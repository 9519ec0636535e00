"""Owns the block map: which bytes of an image file come from which chunk.

The server that fills an image on demand asks it for a range; whoever fills a whole image walks it chunk by chunk.
What no extent covers, holes of sparse files and the padding behind a file's last block, is zeros.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple


class Extent(NamedTuple):
    """Bytes `image_offset .. image_offset+length` of an image lie at `offset` in the plain bytes of chunk `chunk`."""

    image_offset: int
    length: int
    chunk: int
    offset: int


class BlockMap:
    """Extents of one image, by ascending image offset, 20 bytes each. Grows at its end only."""

    def __init__(self) -> None:
        self._image_offsets = array("Q")
        self._lengths = array("I")
        self._chunks = array("I")
        self._offsets = array("I")
        self._end = 0

    def append(self, image_offset: int, length: int, chunk: int, offset: int) -> None:
        """Add an extent behind all others.

        :raises ValueError: it is empty or begins before the last one ends.
        """
        if length <= 0 or image_offset < self._end:
            raise ValueError(f"extent at {image_offset} of {length} bytes after one that ends at {self._end}")
        self._image_offsets.append(image_offset)
        self._lengths.append(length)
        self._chunks.append(chunk)
        self._offsets.append(offset)
        self._end = image_offset + length

    def __len__(self) -> int:
        return len(self._image_offsets)

    def __iter__(self) -> Iterator[Extent]:
        return map(Extent, self._image_offsets, self._lengths, self._chunks, self._offsets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockMap):
            return NotImplemented
        return (
            self._image_offsets == other._image_offsets
            and self._lengths == other._lengths
            and self._chunks == other._chunks
            and self._offsets == other._offsets
        )

    __hash__ = None  # type: ignore[assignment]  # it grows

    @property
    def end(self) -> int:
        """The image offset behind the last extent; 0 for an empty map."""
        return self._end

    @property
    def covered(self) -> int:
        """Bytes of the image that come from chunks."""
        return sum(self._lengths)

    def lookup(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield what the range `offset .. offset+length` of the image is made of, cut to it, in order."""
        if length <= 0:
            return
        end = offset + length
        index = bisect_right(self._image_offsets, offset) - 1
        if index < 0 or self._image_offsets[index] + self._lengths[index] <= offset:
            index += 1
        while index < len(self._image_offsets) and self._image_offsets[index] < end:
            start = self._image_offsets[index]
            skipped = max(0, offset - start)
            stop = min(end, start + self._lengths[index])
            yield Extent(start + skipped, stop - start - skipped, self._chunks[index], self._offsets[index] + skipped)
            index += 1

    def by_chunk(self) -> Iterator[tuple[int, list[Extent]]]:
        """Yield each chunk that the image needs, by ascending number, with all its extents by image offset."""
        pieces: list[Extent] = []
        for index in sorted(range(len(self)), key=self._chunks.__getitem__):
            extent = Extent(self._image_offsets[index], self._lengths[index], self._chunks[index], self._offsets[index])
            if pieces and pieces[0].chunk != extent.chunk:
                yield pieces[0].chunk, pieces
                pieces = []
            pieces.append(extent)
        if pieces:
            yield pieces[0].chunk, pieces
