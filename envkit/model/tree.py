"""Owns the tree: the typed, canonical list of what one layer changes, and the chunks that hold its file contents.

A tree is the only description of a layer. Whiteouts and opaque directories are typed entries here, never xattrs, so
that nothing a user wrote can reach the kernel's overlay as an instruction. `check_tree` is what stands between bytes
from a store and everything else: a tree that passed it needs no second look.
"""

import enum
from collections.abc import Sequence

import msgspec

from envkit.errors import Damaged
from envkit.model.xattrs import xattrs_problem

TREE_FORMAT = 1

MAX_PATH = 4095
MAX_COMPONENT = 255
MAX_DEPTH = 1000
MAX_CHUNK = 4 * 1024 * 1024
MAX_FILE = 1 << 45
MAX_ID = (1 << 31) - 2
MAX_MTIME_SECONDS = (1 << 34) - 1
MAX_EPOCH = 99_999_999
_MAX_MTIME_NS = (MAX_MTIME_SECONDS + 1) * 1_000_000_000 - 1


class Kind(enum.IntEnum):
    """What an entry is. The numbers are part of the stored format."""

    DIRECTORY = 1
    FILE = 2
    SYMLINK = 3
    FIFO = 4
    HARDLINK = 5
    WHITEOUT = 6


# `Kind.FILE` is a slow look-up in Python 3.11, ten times the comparison that it is for.
_DIRECTORY, _FILE, _SYMLINK, _FIFO, _HARDLINK, _WHITEOUT = Kind


class Segment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Bytes `start .. start+length` of a file lie at `offset` in the plain bytes of chunk number `chunk`."""

    start: int
    length: int
    chunk: int
    offset: int


class Chunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A piece of content: SHA-256 of its plain bytes, and where its zstd frame lies: pack, offset, stored bytes."""

    digest: bytes
    size: int
    pack: bytes
    offset: int
    stored: int


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One path of a layer, relative to its root, as bytes without a leading slash; the root itself is `b""`.

    `mode` holds the 12 permission bits; `mtime_ns` nanoseconds since 1970; `size` the bytes of a file, holes
    included; `target` a symlink's text, or the path of a hard link's first name, which always comes earlier.
    `opaque` hides what lower layers have in this directory. Ranges that no segment covers are holes.
    """

    path: bytes
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""
    opaque: bool = False
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def parent(self) -> bytes:
        """The path of the directory that holds this entry."""
        return self.path.rpartition(b"/")[0]

    @property
    def name(self) -> bytes:
        """The last component of the path."""
        return self.path.rpartition(b"/")[2]


class Tree(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A layer: entries in canonical order (see `path_key`), and the chunks that their segments name.

    `epoch` counts the collections of the store before it was written: a tree that is written again after one has
    another digest than the one that may be under deletion.
    """

    format: int
    entries: list[Entry]
    chunks: list[Chunk]
    epoch: int = 0

    @property
    def logical_size(self) -> int:
        """Bytes of all files together, as `ls` would show them."""
        return sum(entry.size for entry in self.entries if entry.kind is Kind.FILE)


def path_key(path: bytes) -> bytes:
    """Return what paths are sorted by: a directory comes right before all that it holds.

    Names hold neither NUL nor "/", so NUL in place of "/" sorts like a tuple of components, and faster.
    """
    return path.replace(b"/", b"\0")


def check_tree(tree: Tree) -> None:
    """Check every rule of the format.

    :raises Damaged: with the first path and rule that is broken.
    """
    check_frame(tree)
    _check_entries(tree.entries, tree.chunks)


def check_frame(tree: Tree) -> None:
    """Check all of a tree but the entries below its root directory, for who looks at those itself.

    :raises Damaged: a rule is broken.
    """
    if tree.format != TREE_FORMAT:
        raise Damaged(
            f"tree of format {tree.format}: this envkit reads format {TREE_FORMAT}", resolution="update envkit"
        )
    if not 0 <= tree.epoch <= MAX_EPOCH:
        raise Damaged("tree: its epoch is out of range")
    for number, chunk in enumerate(tree.chunks):
        if len(chunk.digest) != 32 or len(chunk.pack) != 32:
            raise Damaged(f"tree: chunk {number} has a digest of the wrong length")
        if not 0 < chunk.size <= MAX_CHUNK or not 0 < chunk.stored <= 2 * MAX_CHUNK or not 0 <= chunk.offset < 1 << 40:
            raise Damaged(f"tree: chunk {number} has an impossible size or offset")
    if not tree.entries or tree.entries[0].path != b"" or tree.entries[0].kind is not _DIRECTORY:
        raise Damaged("tree: the first entry is not the root directory")
    if tree.entries[0].opaque:
        # Overlayfs does not look whether the root of a layer is opaque.
        raise Damaged("tree: the root directory is opaque, which only directories below it can be")


def _check_entries(entries: Sequence[Entry], chunks: Sequence[Chunk]) -> None:
    """Check the entries, of which the first is the root's.

    Nearly all of a layer are ordinary, and found to be so right here: a call for each would take most of the time.
    What is not certainly right is left to `_entry_problem`, which knows all the rules.
    """
    sizes = [chunk.size for chunk in chunks]
    count = len(sizes)
    linked = {entry.target for entry in entries if entry.kind is _HARDLINK}
    linkable: set[bytes] = set()
    directories: set[bytes] = set()
    before, place, last = b"", b"", b""
    for entry in entries:
        path, kind = entry.path, entry.kind
        parent, _, name = path.rpartition(b"/")
        if parent == place and parent:
            in_order, has_parent = name > last, True
        else:
            in_order = not directories or path_key(path) > path_key(before)
            has_parent = parent in directories
        if not in_order:
            raise _broken(entry, "is out of order or twice there")
        is_right = (
            has_parent
            # Also what is neither empty nor "." nor "..".
            and name > b".."
            and len(name) <= MAX_COMPONENT
            and 0 not in name
            # So it cannot be too deep either.
            and len(path) <= MAX_DEPTH
            and (parent or name == path)
            and 0 <= entry.mode <= 0o7777
            and 0 <= entry.uid | entry.gid <= MAX_ID
            and 0 <= entry.mtime_ns <= _MAX_MTIME_NS
            and not entry.opaque
            and not entry.xattrs
        )
        if is_right and kind is _FILE:
            end = 0
            for segment in entry.segments:
                start, length, number, offset = segment.start, segment.length, segment.chunk, segment.offset
                if start < end or length <= 0 or not 0 <= number < count or not 0 <= offset <= sizes[number] - length:
                    end = MAX_FILE + 1
                    break
                end = start + length
            is_right = end <= entry.size <= MAX_FILE and not entry.target
        elif is_right and kind is _DIRECTORY:
            is_right = not (entry.target or entry.size or entry.segments)
        elif is_right and kind is _SYMLINK:
            target = entry.target
            is_right = 0 < len(target) <= MAX_PATH and 0 not in target and not (entry.size or entry.segments)
        else:
            is_right = False
        if not is_right:
            problem = _entry_problem(entry, chunks)
            if problem:
                raise _broken(entry, problem)
            if path and not has_parent:
                raise _broken(entry, "is in a directory that the tree does not have")
        if kind is _DIRECTORY:
            directories.add(path)
        elif kind is _HARDLINK:
            if entry.target not in linkable:
                raise _broken(entry, "links to something that does not come before it")
        elif linked and kind is not _WHITEOUT and path in linked:
            linkable.add(path)
        before, place, last = path, parent, name


def _broken(entry: Entry, problem: str) -> Damaged:
    return Damaged(f"tree: entry {display_path(entry.path)} {problem}")


def display_path(path: bytes) -> str:
    """Return a path for people: with a leading slash, control and undecodable bytes escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "/" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _entry_problem(entry: Entry, chunks: Sequence[Chunk]) -> str | None:
    """Return what is wrong with an entry on its own, or None."""
    if len(entry.path) > MAX_PATH or 0 in entry.path:
        return "has an impossible path"
    if entry.path:
        if entry.path.count(b"/") >= MAX_DEPTH:
            return f"is deeper than {MAX_DEPTH}"
        if _is_impossible(entry.path):
            return "has an impossible path"
    if not 0 <= entry.mode <= 0o7777 or not 0 <= entry.uid <= MAX_ID or not 0 <= entry.gid <= MAX_ID:
        return "has an impossible mode or owner"
    if not 0 <= entry.mtime_ns // 1_000_000_000 <= MAX_MTIME_SECONDS:
        return "has a time outside 1970 to 2514"
    if entry.opaque and entry.kind is not _DIRECTORY:
        return "is opaque but no directory"
    if (entry.size or entry.segments) and entry.kind is not _FILE:
        return "has content but is no file"
    if bool(entry.target) != (entry.kind in (_SYMLINK, _HARDLINK)):
        return "has a link target that does not fit its kind"
    if len(entry.target) > MAX_PATH or 0 in entry.target:
        return "has an impossible link target"
    if entry.kind is _WHITEOUT and entry != Entry(entry.path, _WHITEOUT):
        return "is a whiteout with attributes"
    if entry.kind is _HARDLINK and entry != Entry(entry.path, _HARDLINK, target=entry.target):
        return "is a hard link with attributes of its own"
    if entry.xattrs:
        kind = entry.kind
        problem = xattrs_problem(
            entry.xattrs, directory=kind is _DIRECTORY, file=kind is _FILE, symlink=kind is _SYMLINK
        )
        if problem:
            return problem
    return _content_problem(entry, chunks)


def _is_impossible(path: bytes) -> bool:
    """Tell whether a component is empty, `.`, `..` or too long, in less time than looking at each takes."""
    between = b"/" + path + b"/"
    if b"//" in between or b"/./" in between or b"/../" in between:
        return True
    return len(path) > MAX_COMPONENT and any(len(part) > MAX_COMPONENT for part in path.split(b"/"))


def _content_problem(entry: Entry, chunks: Sequence[Chunk]) -> str | None:
    if not 0 <= entry.size <= MAX_FILE:
        return "has an impossible size"
    end = 0
    count = len(chunks)
    for segment in entry.segments:
        if segment.length <= 0 or segment.start < end or segment.start + segment.length > entry.size:
            return "has content outside its size"
        if not 0 <= segment.chunk < count or segment.offset < 0:
            return "names a chunk that the tree does not have"
        if segment.offset + segment.length > chunks[segment.chunk].size:
            return "reads beyond the end of a chunk"
        end = segment.start + segment.length
    return None
