"""Owns where the bytes of a damaged object can still be had: another store, this node's caches (`cachedchunks`), other
packs, and the good parts of the object itself. Nothing leaves here that does not have the digest it is asked for.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from envkit.content import frame, treefile
from envkit.content.errors import DamagedChunk
from envkit.content.pack import HEADER_SIZE, header
from envkit.content.reader import unpack_chunk
from envkit.drivers.errors import KernelRefused
from envkit.drivers.files import read_bounded
from envkit.errors import Damaged, EnvkitError
from envkit.model.tree import Chunk, Tree
from envkit.model.version import MAX_VERSION_BYTES, version_from_json
from envkit.services.cachedchunks import CachedChunks
from envkit.services.context import Context
from envkit.store import epochs, layout
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound
from envkit.store.objects import MAX_STORED_TREE, get_tree, tree_digests
from envkit.store.open import read_format
from envkit.store.parallel import each

_MAX_PACK = 64 << 20
MAX_OBJECT = MAX_STORED_TREE


@dataclass
class _Shape:
    """How a pack is put together, from all trees that name it: its chunks by offset, and epochs that it may have."""

    rows: dict[int, Chunk] = field(default_factory=dict)
    epochs: set[int] = field(default_factory=set)


class Sources:
    """Good bytes for damaged objects of the configured store; `other` is a store that may have them, too.

    A context manager.
    """

    def __init__(self, context: Context, other: Store | None) -> None:
        self._context = context
        self._store = context.store
        self._other = other
        self._shapes: dict[str, _Shape] = {}
        self._elsewhere: dict[bytes, dict[tuple[str, Chunk], Store]] = {}
        self._layers: dict[bytes, dict[str, None]] = {}
        self._cached = CachedChunks(context.paths, self.tree)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cached.close()

    def version(self, key: str) -> bytes | None:
        """Return a version record, from a copy of this very store or from this node's copies of its records."""
        identity = read_format(self._store).id
        copies = []
        if self._other is not None and read_format(self._other).id == identity:
            copies.append(_attempt(self._other, key, MAX_VERSION_BYTES))
        kept = _read_local(f"{self._context.paths.records}/{identity}/{key}", MAX_VERSION_BYTES)
        copies.append(None if kept is None else kept.partition(b"\n")[2])
        return next((data for data in copies if data is not None and _is_version(data, key)), None)

    def tree(self, digest: str) -> bytes | None:
        """Return a tree in its stored form."""
        for data in (
            None if self._other is None else _attempt(self._other, layout.tree_key(digest), MAX_STORED_TREE),
            _read_local(f"{self._context.paths.trees}/{digest}", MAX_STORED_TREE),
        ):
            if data is not None and _decoded(data, digest) is not None:
                return data
        return None

    def look_for(self, packs: Iterable[str]) -> None:
        """Read the trees of both stores for what they say of these packs and of their chunks."""
        self._shapes = {pack: _Shape() for pack in packs}
        for _, tree in self._trees(self._store):
            for chunk in tree.chunks:
                shape = self._shapes.get(chunk.pack.hex())
                if shape is not None:
                    shape.rows[chunk.offset] = chunk
                    shape.epochs.add(tree.epoch)
        self._elsewhere = {row.digest: {} for shape in self._shapes.values() for row in shape.rows.values()}
        self._cached.wanted = self._elsewhere
        self._layers = {digest: {} for digest in self._elsewhere}
        for store in (self._store, *(() if self._other is None else (self._other,))):
            for name, tree in self._trees(store):
                self._note(store, name, tree)

    def _note(self, store: Store, name: str, tree: Tree) -> None:
        for chunk in tree.chunks:
            if chunk.digest in self._elsewhere:
                self._elsewhere[chunk.digest][store.url, chunk] = store
                self._layers[chunk.digest][name] = None

    def pack(self, digest: str) -> bytes | None:
        """Return the bytes of a pack: those of a copy, or put together again from the best source of each chunk."""
        copy = None if self._other is None else _attempt(self._other, layout.pack_key(digest), _MAX_PACK)
        if copy is not None and hashlib.sha256(copy).hexdigest() == digest:
            return copy
        damaged = _attempt(self._store, layout.pack_key(digest), _MAX_PACK) or b""
        return self._assembled(digest, damaged)

    def _assembled(self, digest: str, damaged: bytes) -> bytes | None:
        shape = self._shapes[digest]
        body = self._body(shape, damaged)
        if body is None:
            return None
        newest = epochs.current(self._store).number
        headers = [header(epoch) for epoch in dict.fromkeys((*shape.epochs, *range(newest, -1, -1)))]
        for head in dict.fromkeys((damaged[:HEADER_SIZE], *headers)):
            if hashlib.sha256(head + body).hexdigest() == digest:
                return head + body
        return None

    def _body(self, shape: _Shape, damaged: bytes) -> bytes | None:
        """Return what follows the header; gaps, chunks that no tree names any more, are taken as they are."""
        pieces = []
        end = HEADER_SIZE
        for offset, row in sorted(shape.rows.items()):
            if offset < end:
                return None
            pieces.append(damaged[end:offset])
            stored = self._frame(row, damaged)
            if stored is None or len(pieces[-1]) != offset - end:
                return None
            pieces.append(stored)
            end = offset + row.stored
        return b"".join((*pieces, damaged[end:]))

    def _frame(self, row: Chunk, damaged: bytes) -> bytes | None:
        """Return the frame of a chunk: the one that is there if it is whole, or a new one that is as long."""
        there = damaged[row.offset : row.offset + row.stored]
        try:
            unpack_chunk(row, there)
        except DamagedChunk:
            pass
        else:
            return there
        for plain in self._plain(row):
            for stored in frame.chunk_frames(plain):
                if len(stored) == row.stored:
                    return stored
        return None

    def _plain(self, row: Chunk) -> Iterator[bytes]:
        """Yield the content of a chunk from wherever it can be had, checked."""
        for (_, chunk), store in self._elsewhere[row.digest].items():
            try:
                yield unpack_chunk(
                    chunk, store.get_range(layout.pack_key(chunk.pack.hex()), chunk.offset, chunk.stored)
                )
            except EnvkitError:
                continue
        for layer in self._layers[row.digest]:
            plain = self._cached.find(layer, row)
            if plain is not None:
                yield plain

    def _trees(self, store: Store) -> Iterator[tuple[str, Tree]]:
        """Yield all trees of a store that can be read; this node's copies where it has them."""
        digests = list(tree_digests(store))

        def read(digest: str) -> Tree | None:
            kept = _read_local(f"{self._context.paths.trees}/{digest}", MAX_STORED_TREE)
            tree = None if kept is None else _decoded(kept, digest)
            if tree is not None:
                return tree
            try:
                return treefile.decode(get_tree(store, digest), digest)
            except (Damaged, ObjectNotFound):
                return None

        with self._context.progress.step("reading trees", total=len(digests), unit="trees") as step:
            for digest, tree in zip(digests, each(read, digests), strict=True):
                step.advance(1)
                if tree is not None:
                    yield digest, tree


def is_object(key: str, data: bytes) -> bool:
    """Tell whether bytes are those that a key promises, or a record that belongs under it."""
    pack, tree = layout.pack_of(key), layout.tree_of(key)
    if pack is not None:
        return hashlib.sha256(data).hexdigest() == pack
    return _decoded(data, tree) is not None if tree is not None else _is_version(data, key)


def _attempt(store: Store, key: str, limit: int) -> bytes | None:
    try:
        return store.get(key, limit=limit)
    except (ObjectNotFound, Damaged):
        return None


def _read_local(path: str, limit: int) -> bytes | None:
    try:
        return read_bounded(path, limit)
    except KernelRefused:
        return None


def _decoded(data: bytes, digest: str) -> Tree | None:
    try:
        return treefile.decode(data, digest)
    except Damaged:
        return None


def _is_version(data: bytes, key: str) -> bool:
    try:
        version = version_from_json(data, where=key)
    except Damaged:
        return False
    return layout.version_of(key) == (version.env, version.number)
