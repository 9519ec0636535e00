"""Owns the merged view of a stack together with one chunk table, so that its files can be read and compared.

Every tree has a chunk table of its own. Here the tables lie one after the other, and segments name chunks in the whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from envkit.model.merge import merge
from envkit.model.tree import Chunk, Entry, Kind, Segment, Tree


@dataclass(frozen=True)
class View:
    """Entries by path, without whiteouts, and the chunks that their segments name."""

    entries: dict[bytes, Entry] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)

    def shown(self, entry: Entry) -> Entry:
        """Return what an entry shows: itself, or for a hard link the entry that it is another name of."""
        return self.entries[entry.target] if entry.kind is Kind.HARDLINK else entry


def stacked(below: View, trees: Iterable[Tree]) -> View:
    """Return what a view is with further layers on it; entries that these leave alone stay the same objects."""
    chunks = list(below.chunks)
    layers: list[Sequence[Entry]] = [list(below.entries.values())] if below.entries else []
    for tree in trees:
        layers.append(_moved(tree.entries, len(chunks)))
        chunks += tree.chunks
    return View(merge(layers), chunks)


def _moved(entries: list[Entry], by: int) -> list[Entry]:
    """Return entries whose segments name chunks `by` further on."""
    if not by:
        return entries
    return [
        msgspec.structs.replace(
            entry, segments=tuple([Segment(s.start, s.length, s.chunk + by, s.offset) for s in entry.segments])
        )
        if entry.segments
        else entry
        for entry in entries
    ]
