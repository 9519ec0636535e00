"""Layers for the tests of the cache: images of which every byte is known, and the chunks that they come from."""

import hashlib
import random
from typing import NamedTuple

from envkit.cache.layer import GRANULE, CachedLayer, LayerMap, create_partial
from envkit.image import erofs_format as fmt
from envkit.model.blockmap import BlockMap
from envkit.model.tree import Chunk

BLOCK = 4096


class Sample(NamedTuple):
    """A layer, whole: its map, its chunks' plain bytes, and the image that it must become."""

    map: LayerMap
    plains: list[bytes]
    image: bytes

    @property
    def metadata(self) -> bytes:
        return self.image[: self.map.metadata]

    def granule(self, number: int) -> bytes:
        return self.image[number * GRANULE : (number + 1) * GRANULE]

    def open(self, directory) -> CachedLayer:
        create_partial(str(directory), self.map, self.metadata)
        return CachedLayer.open(str(directory))

    def put(self, layer: CachedLayer, *numbers: int) -> None:
        for number in numbers:
            layer.put_chunk(number, self.plains[number])


def make_sample(sizes, extents, *, metadata=2 * BLOCK, tail=0, seed=1) -> Sample:
    """Make a layer of chunks with `sizes`; `extents` are (gap before, length, chunk, offset)."""
    random_bytes = random.Random(seed).randbytes
    plains = [random_bytes(size) for size in sizes]
    blocks = BlockMap()
    for gap, length, chunk, offset in extents:
        blocks.append(max(metadata, blocks.end) + gap, length, chunk, offset)
    size = -(-(max(metadata, blocks.end) + tail) // BLOCK) * BLOCK
    image = bytearray(size)
    image[:metadata] = random_bytes(metadata)
    image[fmt.SUPERBLOCK_OFFSET : fmt.SUPERBLOCK_END] = fmt.superblock(root=1, inodes=1, blocks=size // BLOCK)
    uuid = random_bytes(16)
    image[fmt.UUID_OFFSET : fmt.UUID_OFFSET + 16] = uuid
    for extent in blocks:
        piece = plains[extent.chunk][extent.offset : extent.offset + extent.length]
        image[extent.image_offset : extent.image_offset + extent.length] = piece
    chunks = [
        Chunk(hashlib.sha256(plain).digest(), len(plain), bytes([number // 3 % 256]) * 32, number % 3 << 22, len(plain))
        for number, plain in enumerate(plains)
    ]
    layer_map = LayerMap(size=size, metadata=metadata, uuid=uuid, blocks=blocks, chunks=chunks)
    return Sample(layer_map, plains, bytes(image))


def plain_sample(count=4, size=GRANULE, **options) -> Sample:
    """Make a layer whose chunks lie one behind the other, metadata one granule."""
    return make_sample([size] * count, [(0, size, number, 0) for number in range(count)], metadata=GRANULE, **options)
