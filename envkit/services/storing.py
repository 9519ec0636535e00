"""Owns how entries and file contents become a layer in the store: chunks, packs, tree, in that order.

Used by saves and by bases. Nothing refers to the layer until a version is published, so a kill leaves at most
objects that nobody needs.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from envkit.content import treefile
from envkit.content.chunker import chunk_files, renumber
from envkit.content.pack import PackWriter
from envkit.drivers.files import make_directory, write_atomic
from envkit.errors import Damaged
from envkit.model.tree import TREE_FORMAT, Chunk, Entry, Kind, Tree
from envkit.model.version import LayerRef
from envkit.services.context import Context
from envkit.store.errors import PacksMissing, StoreError
from envkit.store.index import ChunkIndex
from envkit.store.objects import get_tree, put_pack, put_tree, tree_digests, verify_packs
from envkit.store.open import read_format

logger = logging.getLogger(__name__)

Content = Iterable[tuple[int, bytes]]
OpenContent = Callable[[Entry], Content]


def store_layer(context: Context, entries: Sequence[Entry], read: OpenContent) -> LayerRef:
    """Store a layer; on return it is durable, and everything that it refers to is known to be there.

    :param entries: in canonical order, files without segments.
    :param read: gives a file's data as (start, bytes), without its holes; asked a second time where notes on what the
        store has turn out to be wrong.
    :raises StoreFull: the store has no space; nothing refers to what was written.
    """
    with ChunkIndex(context.paths.index, read_format(context.store).id) as index:
        _learn_new_trees(context, index)
        try:
            return _store(context, index, entries, read)
        except PacksMissing as error:
            logger.warning("%s; storing again what they held", error.brief)
            index.forget(bytes.fromhex(digest) for digest in error.digests)
            return _store(context, index, entries, read)


def _store(context: Context, index: ChunkIndex, entries: Sequence[Entry], read: OpenContent) -> LayerRef:
    store = context.store
    total = sum(entry.size for entry in entries if entry.kind is Kind.FILE)
    with (
        PackWriter(lambda digest, frames: put_pack(store, digest, frames), known=_finder(index)) as writer,
        context.progress.step("storing", total=total, unit="bytes") as step,
    ):
        files = ((entry, _counted(read(entry), step.advance) if entry.size else ()) for entry in entries)
        segmented = list(chunk_files(files, writer.add))
        packed = writer.finish()
    tree = Tree(TREE_FORMAT, list(renumber(segmented, packed.numbers)), packed.chunks)
    digest, data = treefile.encode(tree)
    if not put_tree(store, digest, data):
        treefile.decode(get_tree(store, digest), digest)  # somebody else wrote it: only reading shows that it is whole
    verify_packs(store, packed.reused)
    index.learn(digest, packed.chunks)
    make_directory(context.paths.trees)
    write_atomic(f"{context.paths.trees}/{digest}", data)
    stored = packed.stored + len(data)
    return LayerRef(tree=digest, entries=len(entries), size=tree.logical_size, stored=stored)


def _learn_new_trees(context: Context, index: ChunkIndex) -> None:
    """Bring this machine's notes on which chunks the store has up to date.

    A tree that cannot be read is passed over: it is its own environment's damage, and only costs deduplication here.
    """
    for digest in index.unseen(tree_digests(context.store)):
        try:
            chunks = treefile.decode(get_tree(context.store, digest), digest).chunks
        except (Damaged, StoreError) as error:
            logger.warning("passing over a tree of the store: %s", error.brief)
            continue
        index.learn(digest, chunks)


def _finder(index: ChunkIndex) -> Callable[[bytes], Chunk | None]:
    return lambda digest: index.find([digest]).get(digest)


def _counted(content: Content, advance: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    for start, data in content:
        yield start, data
        advance(len(data))
