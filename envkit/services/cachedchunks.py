"""Owns what this node's caches have of chunks, as a source of repairs: complete images of layers, and partial ones.

Nothing here is believed: a chunk leaves only with the digest that it is asked for. Of a layer that is here in part,
the chunks count that its file `ready` names; what a start pack brought is no chunk.
"""

import hashlib
import os
from collections.abc import Callable, Container

from envkit.cache.errors import CacheLost
from envkit.cache.layer import CachedLayer
from envkit.content import treefile
from envkit.image import erofs
from envkit.model.blockmap import Extent
from envkit.model.paths import Paths
from envkit.model.tree import Chunk


class CachedChunks:
    """The chunks in the caches of a node that are looked for.

    :ivar wanted: their digests.
    """

    def __init__(self, paths: Paths, tree: Callable[[str], bytes | None]) -> None:
        """Look below some paths; `tree` returns a tree in its stored form by its digest."""
        self.wanted: Container[bytes] = ()
        self._paths = paths
        self._tree = tree
        self._extents: dict[str, dict[bytes, list[Extent]]] = {}
        # The last layer alone: the chunks of a pack lie together, and there may be more layers than descriptors.
        self._layer = ""
        self._partial: CachedLayer | None = None
        self._numbers: dict[bytes, int] = {}

    def find(self, layer: str, chunk: Chunk) -> bytes | None:
        """Return the content of a chunk from what this node has of a layer; None where it has not all of it."""
        plain = self._from_image(layer, chunk) or self._from_partial(layer, chunk)
        return bytes(plain) if plain is not None and hashlib.sha256(plain).digest() == chunk.digest else None

    def close(self) -> None:
        """Close what is open."""
        if self._partial is not None:
            self._partial.close()
        self._layer, self._partial = "", None

    def _from_image(self, layer: str, chunk: Chunk) -> bytearray | None:
        plain = bytearray(chunk.size)
        try:
            with open(f"{self._paths.layer(layer)}/image", "rb", buffering=0) as file:
                for extent in self._extents_of(layer).get(chunk.digest, ()):
                    piece = os.pread(file.fileno(), extent.length, extent.image_offset)
                    plain[extent.offset : extent.offset + len(piece)] = piece
        except OSError:
            return None
        return plain

    def _extents_of(self, layer: str) -> dict[bytes, list[Extent]]:
        """Return where in the image of a layer the wanted chunks lie; an old image has no map beside it."""
        if layer not in self._extents:
            found: dict[bytes, list[Extent]] = {}
            data = self._tree(layer)
            if data is not None:
                tree = treefile.decode(data, layer)
                for extent in erofs.build(tree).blocks:
                    digest = tree.chunks[extent.chunk].digest
                    if digest in self.wanted:
                        found.setdefault(digest, []).append(extent)
            self._extents[layer] = found
        return self._extents[layer]

    def _from_partial(self, layer: str, chunk: Chunk) -> bytearray | None:
        if layer != self._layer:
            self._open(layer)
        number = self._numbers.get(chunk.digest)
        if self._partial is None or number is None:
            return None
        try:
            return self._partial.chunk_bytes(number)
        except CacheLost:  # cut, or being removed
            return None

    def _open(self, layer: str) -> None:
        self.close()
        self._layer, self._numbers = layer, {}
        try:
            self._partial = CachedLayer.inspect(self._paths.layer(layer))
        except CacheLost:
            return
        chunks = enumerate(self._partial.map.chunks)
        self._numbers = {chunk.digest: number for number, chunk in chunks if chunk.digest in self.wanted}
