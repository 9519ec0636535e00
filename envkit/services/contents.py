"""Owns reading single files of stored layers, without mounting anything."""

from envkit.content.reader import ChunkReader
from envkit.model.tree import Entry, Tree
from envkit.services.context import Context
from envkit.store.objects import pack_ranges


def read_file(context: Context, tree: Tree, entry: Entry) -> bytes:
    """Return the whole content of a small file of a layer, every chunk verified."""
    reader = ChunkReader(pack_ranges(context.store))
    data = bytearray(entry.size)
    for segment in entry.segments:
        plain = reader.read(tree.chunks[segment.chunk])
        data[segment.start : segment.start + segment.length] = plain[segment.offset : segment.offset + segment.length]
    return bytes(data)
