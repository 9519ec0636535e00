"""Owns squashing: several layers become one that gives the same view on the same lower layers.

Overlayfs looks at layers from the top down and stops at the first that hides the rest, so each entry of the result is
the topmost one of its path, and what it hides is everything that any of the layers hid. No data moves: segments name
the same chunks, in one table.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from envkit.model.merge import is_below, repair_links
from envkit.model.tree import Chunk, Entry, Kind, Segment, Tree, path_key

_Entries = dict[bytes, Entry]


def squash(below: Mapping[bytes, Entry], layers: Iterable[Tree]) -> tuple[list[Entry], list[Chunk]]:
    """Return one layer's entries, in canonical order, and its chunks.

    :param below: the merged view of what the layers lie on, see `merge`.
    :param layers: the lowest first.
    """
    chunks: list[Chunk] = []
    places: dict[tuple[bytes, int], int] = {}
    squashed: _Entries = {}
    for tree in layers:
        squashed = _upon(squashed, _renumbered(tree.entries, _learn(tree.chunks, places, chunks)))
    entries = _without_needless(squashed, below)
    used = list(dict.fromkeys(segment.chunk for entry in entries for segment in entry.segments))
    numbers = {number: place for place, number in enumerate(used)}
    return list(_renumbered(entries, numbers)), [chunks[number] for number in used]


def _learn(table: Sequence[Chunk], places: dict[tuple[bytes, int], int], chunks: list[Chunk]) -> dict[int, int]:
    """Add a tree's chunks to the common table, each content once; return where they are in it."""
    numbers = {}
    for number, chunk in enumerate(table):
        key = (chunk.digest, chunk.size)
        if key not in places:
            places[key] = len(chunks)
            chunks.append(chunk)
        numbers[number] = places[key]
    return numbers


def _renumbered(entries: Iterable[Entry], numbers: Mapping[int, int]) -> Iterable[Entry]:
    for entry in entries:
        if entry.segments:
            moved = tuple([Segment(s.start, s.length, numbers[s.chunk], s.offset) for s in entry.segments])
            yield msgspec.structs.replace(entry, segments=moved)
        else:
            yield entry


def _upon(lower: _Entries, layer: Iterable[Entry]) -> _Entries:
    """Return what two layers are as one, whatever lies below them."""
    named: _Entries = {}
    hidden: set[bytes] = set()  # whatever lies below these paths in the lower layer
    for entry in layer:
        before = lower.get(entry.path)
        named[entry.path] = entry
        if entry.kind is not Kind.DIRECTORY or entry.opaque:
            hidden.add(entry.path)
        elif before is not None and (before.opaque or before.kind is not Kind.DIRECTORY):
            # A file or a whiteout under a directory ends overlayfs's search as an opaque directory does.
            named[entry.path] = msgspec.structs.replace(entry, opaque=True)
    kept = {path: entry for path, entry in lower.items() if path not in named and not is_below(path, hidden)}
    repair_links(lower, kept)
    return kept | named


def _without_needless(squashed: _Entries, below: Mapping[bytes, Entry]) -> list[Entry]:
    """Return the entries in canonical order, without whiteouts and marks that hide nothing.

    Overlayfs shows a whiteout in a directory that only one layer has.
    """
    entries: list[Entry] = []
    alone: set[bytes] = set()  # directories that show nothing of what lies below
    for path in sorted(squashed, key=path_key):
        entry = squashed[path]
        before = None if path and entry.parent in alone else below.get(path)
        if entry.kind is Kind.WHITEOUT and before is None:
            continue
        if entry.kind is Kind.DIRECTORY:
            merged = before is not None and before.kind is Kind.DIRECTORY
            if entry.opaque or not merged:
                alone.add(path)
            if entry.opaque and not merged:
                entry = msgspec.structs.replace(entry, opaque=False)
        entries.append(entry)
    return entries
