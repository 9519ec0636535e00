"""Owns what an extent of a block map means: the granules that it touches, the bytes that it has of its chunk."""

from collections.abc import Sequence

from envkit.model.blockmap import Extent

GRANULE = 16 * 1024
"""Granule N of an image is its bytes N*GRANULE .. (N+1)*GRANULE."""


def granules_of(extent: Extent) -> range:
    """Return the numbers of the granules that an extent touches."""
    return range(extent.image_offset // GRANULE, (extent.image_offset + extent.length - 1) // GRANULE + 1)


def assembled(size: int, extents: Sequence[Extent], pieces: "Sequence[bytes | memoryview]") -> bytearray:
    """Return the plain bytes of a chunk from what the image has of it, zeros for the rest."""
    plain = bytearray(size)
    for extent, piece in zip(extents, pieces, strict=True):
        plain[extent.offset : extent.offset + extent.length] = piece
    return plain
