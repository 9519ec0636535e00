"""Owns how entries and file contents become a layer in the store: chunks, packs, tree, in that order.

Used by saves and by bases. Nothing refers to the layer until a version is published, so a kill leaves at most
objects that nobody needs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from envkit.content import treefile
from envkit.content.chunker import chunk_files, renumber
from envkit.content.pack import PackWriter
from envkit.drivers.files import make_directory, write_atomic
from envkit.model.tree import TREE_FORMAT, Chunk, Entry, Kind, Tree
from envkit.model.version import LayerRef
from envkit.services.context import Context
from envkit.store.index import ChunkIndex
from envkit.store.objects import get_tree, put_pack, put_tree, tree_digests, verify_packs
from envkit.store.open import read_format

Content = Iterable[tuple[int, bytes]]
OpenContent = Callable[[Entry], Content]


def store_layer(context: Context, entries: Sequence[Entry], read: OpenContent) -> LayerRef:
    """Store a layer; on return it is durable, and everything that it refers to is known to be there.

    :param entries: in canonical order, files without segments.
    :param read: gives a file's data as (start, bytes), without its holes.
    :raises StoreFull: the store has no space; nothing refers to what was written.
    """
    store = context.store
    total = sum(entry.size for entry in entries if entry.kind is Kind.FILE)
    with ChunkIndex(context.paths.index, read_format(store).id) as index:
        _learn_new_trees(context, index)
        with (
            PackWriter(lambda digest, frames: put_pack(store, digest, frames), known=_finder(index)) as writer,
            context.progress.step("storing", total=total, unit="bytes") as step,
        ):
            files = ((entry, _counted(read(entry), step.advance) if entry.size else ()) for entry in entries)
            segmented = list(chunk_files(files, writer.add))
            packed = writer.finish()
        tree = Tree(TREE_FORMAT, list(renumber(segmented, packed.numbers)), packed.chunks)
        digest, data = treefile.encode(tree)
        put_tree(store, digest, data)
        verify_packs(store, packed.reused)
        index.learn(digest, packed.chunks)
    make_directory(context.paths.trees)
    write_atomic(f"{context.paths.trees}/{digest}", data)
    stored = packed.stored + len(data)
    return LayerRef(tree=digest, entries=len(entries), size=tree.logical_size, stored=stored)


def _learn_new_trees(context: Context, index: ChunkIndex) -> None:
    """Bring this machine's notes on which chunks the store has up to date."""
    for digest in index.unseen(tree_digests(context.store)):
        index.learn(digest, treefile.decode(get_tree(context.store, digest), digest).chunks)


def _finder(index: ChunkIndex) -> Callable[[bytes], Chunk | None]:
    return lambda digest: index.find([digest]).get(digest)


def _counted(content: Content, advance: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    for start, data in content:
        yield start, data
        advance(len(data))
