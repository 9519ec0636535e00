"""Owns what every view refuses, so that no two of them disagree about a tree.

All rules of the format, `check_tree` has them too; a view that looks at everything itself needs no tree that has passed
it. A test compares the two.
"""

from collections.abc import Iterator, Sequence

from envkit.image.errors import BrokenTree
from envkit.model.tree import (
    MAX_CHUNK,
    MAX_COMPONENT,
    MAX_DEPTH,
    MAX_FILE,
    MAX_ID,
    MAX_MTIME_SECONDS,
    MAX_PATH,
    Chunk,
    Entry,
    Kind,
    Segment,
    Tree,
)
from envkit.model.xattrs import xattrs_problem

# `Kind.FILE` is a slow look-up in Python 3.11, ten times the comparison that it is for.
_DIRECTORY, _FILE, _SYMLINK, _FIFO, _HARDLINK, _WHITEOUT = Kind
_KINDS = frozenset(Kind)
MAX_MTIME_NS = (MAX_MTIME_SECONDS + 1) * 1_000_000_000 - 1


def root_of(tree: Tree) -> Entry:
    """Return the entry of the root directory, checked.

    Overlayfs does not look whether the root of a layer is opaque, so it must not be.

    :raises BrokenTree: there is none, or it is opaque.
    """
    root = tree.entries[0] if tree.entries else None
    if root is None or root.path or root.kind is not _DIRECTORY:
        raise BrokenTree(b"", "is not the first one or no directory")
    if root.opaque:
        raise BrokenTree(b"", "is opaque, which only directories below it can be")
    check_entry(root)
    return root


def check_path(path: bytes) -> None:
    """Check the length and the depth of a path whose components are right.

    :raises BrokenTree: it has too much of one.
    """
    if len(path) > MAX_PATH or path.count(b"/") >= MAX_DEPTH:
        raise BrokenTree(path, "is too long or too deep")


def check_name(path: bytes, name: bytes) -> None:
    """Check the last component of a path.

    :raises BrokenTree: no file system can have that name.
    """
    if not 0 < len(name) <= MAX_COMPONENT or name in (b".", b"..") or 0 in name:
        raise BrokenTree(path, "has an impossible path")


def check_entry(entry: Entry) -> None:
    """Check all of an entry but its path and content.

    :raises BrokenTree: a view of it would be invalid.
    """
    kind = entry.kind
    if kind not in _KINDS:
        raise BrokenTree(entry.path, "is of an unknown kind")
    if not (0 <= entry.mode <= 0o7777 and 0 <= entry.uid <= MAX_ID and 0 <= entry.gid <= MAX_ID):
        raise BrokenTree(entry.path, "has an impossible mode or owner")
    if not 0 <= entry.mtime_ns <= MAX_MTIME_NS:
        raise BrokenTree(entry.path, "has a time outside 1970 to 2514")
    if kind is not _FILE and (entry.size or entry.segments):
        raise BrokenTree(entry.path, "has content but is no file")
    if not 0 <= entry.size <= MAX_FILE:
        raise BrokenTree(entry.path, "has an impossible size")
    if bool(entry.target) != (kind is _SYMLINK or kind is _HARDLINK):
        raise BrokenTree(entry.path, "has a link target that does not fit its kind")
    if len(entry.target) > MAX_PATH or 0 in entry.target:
        raise BrokenTree(entry.path, "has an impossible link target")
    if entry.opaque and kind is not _DIRECTORY:
        raise BrokenTree(entry.path, "is opaque but no directory")
    if entry.xattrs and kind in (_HARDLINK, _WHITEOUT):
        raise BrokenTree(entry.path, "has extended attributes but no inode")
    if (kind is _WHITEOUT or kind is _HARDLINK) and (entry.mode or entry.uid or entry.gid or entry.mtime_ns):
        raise BrokenTree(entry.path, "has attributes but no inode")
    problem = entry.xattrs and xattrs_problem(
        entry.xattrs, directory=kind is _DIRECTORY, file=kind is _FILE, symlink=kind is _SYMLINK
    )
    if problem:
        raise BrokenTree(entry.path, problem)


def check_segments(entry: Entry, chunks: Sequence[Chunk]) -> None:
    """Check the segments of a file.

    :raises BrokenTree: one of them lies outside its file or its chunk, or overlaps the one before.
    """
    for _ in checked_segments(entry, chunks):
        pass


def checked_segments(entry: Entry, chunks: Sequence[Chunk]) -> Iterator[Segment]:
    """Yield the segments of a file.

    :raises BrokenTree: one of them lies outside its file or its chunk, or overlaps the one before.
    """
    end = 0
    for segment in entry.segments:
        if segment.length <= 0 or segment.start < end or segment.start + segment.length > entry.size:
            raise BrokenTree(entry.path, "has content outside its size")
        if not 0 <= segment.chunk < len(chunks):
            raise BrokenTree(entry.path, "names a chunk that the tree does not have")
        if not 0 <= segment.offset <= min(chunks[segment.chunk].size, MAX_CHUNK) - segment.length:
            raise BrokenTree(entry.path, "reads beyond the end of a chunk")
        end = segment.start + segment.length
        yield segment
