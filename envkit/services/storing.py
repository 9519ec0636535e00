"""Owns how entries and file contents become a layer in the store: chunks, packs, tree, in that order.

Used by saves and by bases. Nothing refers to the layer until a version is published, so a kill leaves at most
objects that nobody needs.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from envkit.content import treefile
from envkit.content.chunker import chunk_files, renumber
from envkit.content.pack import PackWriter
from envkit.drivers.crash import crash_point
from envkit.drivers.files import make_directory, write_atomic
from envkit.errors import Damaged
from envkit.model.tree import TREE_FORMAT, Chunk, Entry, Kind, Segment, Tree
from envkit.model.version import LayerRef
from envkit.services.context import Context
from envkit.services.memory import NOTHING, Unchanged
from envkit.services.publishing import Writer
from envkit.store.base import Store
from envkit.store.errors import PacksMissing, StoreError
from envkit.store.index import ChunkIndex
from envkit.store.objects import get_tree, put_pack, put_tree, tree_digests
from envkit.store.open import read_format

logger = logging.getLogger(__name__)

Content = Iterable[tuple[int, bytes]]
OpenContent = Callable[[Entry], Content]


def store_layer(
    context: Context, writer: Writer, entries: Sequence[Entry], read: OpenContent, *, unchanged: Unchanged = NOTHING
) -> LayerRef:
    """Store a layer; on return it is durable, and everything that it refers to is known to be there.

    :param entries: in canonical order, files without segments.
    :param read: gives a file's data as (start, bytes), without its holes; asked a second time where notes on what the
        store has turn out to be wrong.
    :param unchanged: files that need not be read.
    :raises StoreFull: the store has no space; nothing refers to what was written.
    """
    with ChunkIndex(context.paths.index, read_format(writer.store).id) as index:
        _learn_new_trees(context, writer.store, index)
        try:
            return _store(context, writer, index, entries, read, unchanged)
        except PacksMissing as error:
            logger.warning("%s; storing again what they held", error.brief)
            index.forget(bytes.fromhex(digest) for digest in error.digests)
            return _store(context, writer, index, entries, read, NOTHING)


def _store(
    context: Context,
    writer: Writer,
    index: ChunkIndex,
    entries: Sequence[Entry],
    read: OpenContent,
    unchanged: Unchanged,
) -> LayerRef:
    store = writer.store
    total = sum(entry.size for entry in entries if entry.kind is Kind.FILE and entry.path not in unchanged.files)
    with (
        PackWriter(_putter(store), known=_finder(writer, index), epoch=writer.epoch) as packs,
        context.progress.step("storing", total=total, unit="bytes") as step,
    ):
        files = ((entry, _counted(read(entry), step.advance) if entry.size else ()) for entry in entries)
        segmented = list(chunk_files(files, packs.add, memo=_Memo(unchanged, writer, packs)))
        packed = packs.finish()
    crash_point("store:packs")
    tree = Tree(TREE_FORMAT, list(renumber(segmented, packed.numbers)), packed.chunks, writer.epoch)
    digest, data = treefile.encode(tree)
    if not put_tree(store, digest, data):
        treefile.decode(get_tree(store, digest), digest)  # somebody else wrote it: only reading shows that it is whole
    crash_point("store:tree")
    writer.verify(packed.reused)
    index.learn(digest, packed.chunks)
    make_directory(context.paths.trees)
    write_atomic(f"{context.paths.trees}/{digest}", data)
    crash_point("store:learned")
    stored = packed.stored + len(data)
    return LayerRef(tree=digest, entries=len(entries), size=tree.logical_size, stored=stored)


def _learn_new_trees(context: Context, store: Store, index: ChunkIndex) -> None:
    """Bring this machine's notes on which chunks the store has up to date.

    A tree that cannot be read is passed over: it is its own environment's damage, and only costs deduplication here.
    """
    for digest in index.unseen(tree_digests(store)):
        try:
            chunks = treefile.decode(get_tree(store, digest), digest).chunks
        except (Damaged, StoreError) as error:
            logger.warning("passing over a tree of the store: %s", error.brief)
            continue
        index.learn(digest, chunks)


class _Memo:
    """A `content.chunker.Memo` of files that are in the store."""

    def __init__(self, unchanged: Unchanged, writer: Writer, packs: PackWriter) -> None:
        self._files = unchanged.files
        self._chunks = unchanged.chunks
        self._usable = [writer.may_reuse(chunk) for chunk in unchanged.chunks]
        self._packs = packs

    def recall(self, entry: Entry) -> tuple[Segment, ...] | None:
        """Return where a file's bytes are, unless that is about to be collected."""
        segments = self._files.get(entry.path)
        return segments if segments is not None and all(self._usable[s.chunk] for s in segments) else None

    def size(self, chunk: int) -> int:
        """Return the size of a chunk in bytes."""
        return self._chunks[chunk].size

    def reuse(self, chunk: int) -> int:
        """Refer to a chunk again; returns its place in the order of the writer of packs."""
        return self._packs.reuse(self._chunks[chunk])


def _putter(store: Store) -> Callable[[str, Sequence[bytes]], None]:
    def put(digest: str, frames: Sequence[bytes]) -> None:
        put_pack(store, digest, frames)
        crash_point("store:pack")

    return put


def _finder(writer: Writer, index: ChunkIndex) -> Callable[[bytes], Chunk | None]:
    def find(digest: bytes) -> Chunk | None:
        chunk = index.find([digest]).get(digest)
        return chunk if chunk is not None and writer.may_reuse(chunk) else None

    return find


def _counted(content: Content, advance: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    for start, data in content:
        yield start, data
        advance(len(data))
