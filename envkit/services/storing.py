"""Owns how entries and file contents become a layer in the store: chunks, packs, tree, in that order.

Used by saves and by bases. Nothing refers to the layer until a version is published, so a kill leaves at most
objects that nobody needs.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from envkit.content import treefile
from envkit.content.chunker import Content, Read, chunk_files, renumber
from envkit.content.pack import PackWriter
from envkit.drivers.allocator import keep_freed_memory
from envkit.drivers.crash import crash_point
from envkit.drivers.files import make_directory, write_atomic
from envkit.errors import Damaged
from envkit.model.amounts import human_bytes
from envkit.model.collector import keep_until_exit
from envkit.model.interruption import remains
from envkit.model.progress import Step
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

Kept = Callable[[Entry], Mapping[int, Segment]]

# `Kind.FILE` is a slow look-up in Python 3.11.
_FILE = Kind.FILE


def _nothing_kept(_entry: Entry) -> Mapping[int, Segment]:
    return {}


def store_layer(
    context: Context,
    writer: Writer,
    entries: Sequence[Entry],
    read: Read,
    *,
    unchanged: Unchanged = NOTHING,
    kept: Kept = _nothing_kept,
) -> LayerRef:
    """Store a layer; on return it is durable, and everything that it refers to is known to be there.

    :param entries: in canonical order, files without segments.
    :param read: gives a file's data as (start, bytes), without its holes; asked a second time where notes on what the
        store has turn out to be wrong.
    :param unchanged: files that need not be read.
    :param kept: what the large files that `unchanged` names as `former` have in common with what they were.
    :raises StoreFull: the store has no space; nothing refers to what was written.
    """
    keep_freed_memory()
    with ChunkIndex(context.paths.index, read_format(writer.store).id) as index:
        learn_new_trees(context, writer.store, index)
        try:
            return _store(context, writer, index, entries, read, unchanged, kept)
        except PacksMissing as error:
            # Usual after a collection: this machine's notes still name what it deleted.
            logger.warning("storing again what %d packs of the store had that are gone", len(error.digests))
            index.forget(bytes.fromhex(digest) for digest in error.digests)
            return _store(context, writer, index, entries, read, NOTHING, _nothing_kept)


def _store(
    context: Context,
    writer: Writer,
    index: ChunkIndex,
    entries: Sequence[Entry],
    read: Read,
    unchanged: Unchanged,
    kept: Kept,
) -> LayerRef:
    store = writer.store
    total = sum(entry.size for entry in entries if entry.kind is _FILE and entry.path not in unchanged.files)
    sent = Sent()
    with (
        remains(sent.told),
        context.progress.step("packing", total=total, unit="bytes") as step,
        context.progress.step("storing", unit="bytes") as upload,
        PackWriter(_putter(store, sent, upload), known=_finder(writer, index), epoch=writer.epoch) as packs,
    ):
        memo = _Memo(unchanged, kept, writer, packs, step)
        segmented = list(chunk_files(entries, _counted(read, step.advance), packs.add, memo=memo))
        packed = packs.finish()
        renumber(segmented, packed.numbers)
        tree = Tree(TREE_FORMAT, segmented, packed.chunks, writer.epoch)
        encoded = treefile.encode(tree)  # while the last packs are written
    crash_point("store:packs")
    layer = _store_tree(context, writer, index, tree, encoded, packed.new, packed.reused)
    keep_until_exit(tree, packed, unchanged)
    return layer.replace(stored=layer.stored + packed.stored)


def store_tree(context: Context, writer: Writer, entries: Sequence[Entry], chunks: Sequence[Chunk]) -> LayerRef:
    """Store a layer whose chunks the store has: nothing but its tree is written. Else as `store_layer`.

    :param entries: in canonical order, their segments name `chunks`.
    :raises PacksMissing: the store does not have them any more.
    """
    packs: dict[str, int] = {}
    for chunk in chunks:
        digest = chunk.pack.hex()
        packs[digest] = max(packs.get(digest, 0), chunk.offset + chunk.stored)
    tree = Tree(TREE_FORMAT, list(entries), list(chunks), writer.epoch)
    with ChunkIndex(context.paths.index, read_format(writer.store).id) as index:
        return _store_tree(context, writer, index, tree, treefile.encode(tree), chunks, packs)


def _store_tree(
    context: Context,
    writer: Writer,
    index: ChunkIndex,
    tree: Tree,
    encoded: tuple[str, bytes],
    new: Sequence[Chunk],
    packs: Mapping[str, int],
) -> LayerRef:
    """Store a tree, then look for the packs that nobody wrote for it, see `Writer.verify`; the index learns `new`."""
    digest, data = encoded
    if not put_tree(writer.store, digest, data):
        # Somebody else wrote it: only reading shows that it is whole.
        treefile.decode(get_tree(writer.store, digest), digest)
    crash_point("store:tree")
    writer.verify(packs)
    index.learn(digest, new)
    make_directory(context.paths.trees)
    write_atomic(f"{context.paths.trees}/{digest}", data)
    crash_point("store:learned")
    return LayerRef(tree=digest, entries=len(tree.entries), size=tree.logical_size, stored=len(data))


def learn_new_trees(context: Context, store: Store, index: ChunkIndex) -> None:
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
    """A `content.chunker.Memo` of files that are in the store; `step` is told of what need not be read again."""

    def __init__(self, unchanged: Unchanged, kept: Kept, writer: Writer, packs: PackWriter, step: Step) -> None:
        self._files = unchanged.files
        self._former = unchanged.former
        self._kept = kept
        self._chunks = unchanged.chunks
        packed = {chunk.pack: chunk for chunk in unchanged.chunks}
        usable = {pack for pack, chunk in packed.items() if writer.may_reuse(chunk)}
        self._usable = [chunk.pack in usable for chunk in unchanged.chunks]
        self._all_usable = all(self._usable)
        self._packs = packs
        self._places: list[int | None] = [None] * len(unchanged.chunks)
        self._step = step

    def recall(self, entry: Entry) -> tuple[Segment, ...] | None:
        """Return where a file's bytes are, unless that is about to be collected."""
        segments = self._files.get(entry.path)
        if segments is None or self._all_usable:
            return segments
        return segments if all(self._usable[s.chunk] for s in segments) else None

    def size(self, chunk: int) -> int:
        """Return the size of a chunk in bytes."""
        return self._chunks[chunk].size

    def reuse(self, chunk: int) -> int:
        """Refer to a chunk again; returns its place in the order of the writer of packs."""
        place = self._places[chunk]
        if place is None:
            place = self._places[chunk] = self._packs.reuse(self._chunks[chunk])
        return place

    def kept(self, entry: Entry) -> Mapping[int, Segment]:
        """Return what a file has in common with what it was, but for what is about to be collected."""
        if entry.path not in self._former:
            return {}
        kept = {start: segment for start, segment in self._kept(entry).items() if self._usable[segment.chunk]}
        self._step.advance(sum(segment.length for segment in kept.values()))
        return kept


class Sent:
    """Counts the bytes of packs that are in the store, for whoever interrupts the work."""

    def __init__(self) -> None:
        self._sizes: list[int] = []

    def add(self, frames: Sequence[bytes]) -> int:
        """Count a pack and return its size; called from several threads."""
        self._sizes.append(sum(map(len, frames)))
        return self._sizes[-1]

    def told(self) -> str:
        """Return what a second try need not send."""
        if not self._sizes:
            return ""
        return f"{human_bytes(sum(self._sizes))} are stored already and will not be sent again"


def _putter(store: Store, sent: Sent, upload: Step) -> Callable[[str, Sequence[bytes]], None]:
    def put(digest: str, frames: Sequence[bytes]) -> None:
        put_pack(store, digest, frames)
        upload.advance(sent.add(frames))
        crash_point("store:pack")

    return put


def _finder(writer: Writer, index: ChunkIndex) -> Callable[[Iterable[bytes]], dict[bytes, Chunk]]:
    def find(digests: Iterable[bytes]) -> dict[bytes, Chunk]:
        found = index.find(digests)
        return {digest: chunk for digest, chunk in found.items() if writer.may_reuse(chunk)}

    return find


def _counted(read: Read, advance: Callable[[int], None]) -> Read:
    def counted(entry: Entry, start: int = 0) -> Content:
        for place, data in read(entry, start) if start else read(entry):
            yield place, data
            advance(len(data))

    return counted
