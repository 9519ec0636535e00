"""Owns chunks for which the cache of a layer had no room: some are kept in memory, for those who wait for them."""

import threading
from collections.abc import Container

from envkit.cache.layer import CachedLayer

MAX_BYTES = 64 << 20


class Overflow:
    """Verified chunks of one layer, by number. Safe in any number of threads."""

    def __init__(self) -> None:
        self._chunks: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def __contains__(self, number: int) -> bool:
        return number in self._chunks

    def keep(self, number: int, plain: bytes, needed: Container[int]) -> None:
        """Keep a chunk; others go for it, the oldest first, except for those that are `needed`.

        A read that needs more than there is room for would never end otherwise.
        """
        with self._lock:
            self._chunks[number] = plain
            excess = sum(map(len, self._chunks.values())) - MAX_BYTES
            for old in [old for old in self._chunks if old != number and old not in needed]:
                if excess <= 0:
                    break
                excess -= len(self._chunks.pop(old))

    def items(self) -> list[tuple[int, bytes]]:
        """Return what is kept now."""
        with self._lock:
            return list(self._chunks.items())

    def discard(self, number: int) -> None:
        """Forget a chunk: the cache has it."""
        with self._lock:
            self._chunks.pop(number, None)

    def read(self, cached: CachedLayer, offset: int, length: int) -> bytes:
        """Return a range of the layer's image, from the cache and from here.

        :raises ChunksMissing: something in it is in neither.
        :raises CacheLost: the cache cannot be read.
        """
        if not self._chunks:
            return cached.read(offset, length)
        kept = dict(self.items())
        data = bytearray(cached.read(offset, length, besides=kept))
        for extent in cached.map.blocks.lookup(offset, length):
            plain = kept.get(extent.chunk)
            if plain is not None:
                start = extent.image_offset - offset
                data[start : start + extent.length] = plain[extent.offset : extent.offset + extent.length]
        return bytes(data)
