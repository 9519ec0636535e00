"""Owns what differs between two merged views: which paths, and in what.

Contents are equal where the same bytes of the same chunks make up a file, and differ where whole chunks in the same
place do. Two files of one size that are cut otherwise show only when they are read: such a change is `undecided`
here, and services read it. Times of directories do not count: whatever is written into one moves them.
"""

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from envkit.model.tree import Chunk, Entry, Kind, path_key
from envkit.model.view import View

CONTENT = "content"


class How(enum.Enum):
    """What became of a path."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True)
class Change:
    """One path that differs.

    :ivar before: what the path showed, a hard link resolved; None if it was not there. `after` likewise.
    :ivar what: of a path that was there before and after: kind, content, target, mode, owner, xattrs, time, links.
    :ivar growth: bytes of files that it adds, a file with several names counted once.
    :ivar undecided: whether the content is another one can only be told by reading it.
    """

    path: bytes
    before: Entry | None
    after: Entry | None
    what: tuple[str, ...] = ()
    growth: int = 0
    undecided: bool = False

    @property
    def how(self) -> How:
        """Whether the path was added, removed or changed."""
        if self.before is None:
            return How.ADDED
        return How.REMOVED if self.after is None else How.CHANGED

    def decided(self, *, same: bool) -> "Change | None":
        """Return the change now that its contents were compared; None if nothing else differs."""
        what = self.what if same else (CONTENT, *self.what)
        return replace(self, what=what, undecided=False) if what else None


def compare(before: View, after: View) -> list[Change]:
    """Return what differs, in canonical order of paths."""
    changes = []
    for path, new in after.entries.items():
        old = before.entries.get(path)
        if old is new:
            continue
        if old is None:
            changes.append(Change(path, None, after.shown(new), growth=new.size))
            continue
        change = _changed(path, before, old, after, new)
        if change is not None:
            changes.append(change)
    for path, old in before.entries.items():
        if path not in after.entries:
            changes.append(Change(path, before.shown(old), None, growth=-old.size))
    changes.sort(key=lambda change: path_key(change.path))
    return changes


def _changed(path: bytes, before: View, old: Entry, after: View, new: Entry) -> Change | None:
    a, b = before.shown(old), after.shown(new)
    growth = new.size - old.size
    if a.kind is not b.kind:
        return Change(path, a, b, ("kind",), growth)
    what = _attributes(a, b)
    if (old.target if old is not a else path) != (new.target if new is not b else path):
        what.append("links")
    same = same_content(a, before.chunks, b, after.chunks)
    if same is False:
        what.insert(0, CONTENT)
    return Change(path, a, b, tuple(what), growth, same is None) if what or same is None else None


def _attributes(a: Entry, b: Entry) -> list[str]:
    what = []
    if a.target != b.target:
        what.append("target")
    if a.mode != b.mode:
        what.append("mode")
    if a.uid != b.uid or a.gid != b.gid:
        what.append("owner")
    if a.xattrs != b.xattrs:
        what.append("xattrs")
    if a.mtime_ns != b.mtime_ns and a.kind is not Kind.DIRECTORY:
        what.append("time")
    return what


def same_content(a: Entry, a_chunks: list[Chunk], b: Entry, b_chunks: list[Chunk]) -> bool | None:
    """Tell whether two files have the same content, as far as that can be told without reading; else None."""
    if a.size != b.size:
        return False
    if len(a.segments) == len(b.segments) and all(
        s.start == t.start
        and s.length == t.length
        and s.offset == t.offset
        and a_chunks[s.chunk].digest == b_chunks[t.chunk].digest
        for s, t in zip(a.segments, b.segments, strict=True)
    ):
        return True
    whole = {(start, length): digest for start, length, digest in _whole_chunks(a, a_chunks)}
    if any(whole.get((start, length), digest) != digest for start, length, digest in _whole_chunks(b, b_chunks)):
        return False
    return None


def _whole_chunks(entry: Entry, chunks: list[Chunk]) -> Iterable[tuple[int, int, bytes]]:
    """Yield where in a file all of a chunk lies: bytes with these digests are the same exactly if the digests are."""
    for s in entry.segments:
        chunk = chunks[s.chunk]
        if s.length == chunk.size:
            yield s.start, s.length, chunk.digest


@dataclass(frozen=True)
class Summary:
    """How many changes there are in a directory and all below it; `direct` if only what lies in it itself counts."""

    path: bytes
    direct: bool
    counts: dict[How, int]
    growth: int

    @property
    def changes(self) -> int:
        """All changes together."""
        return sum(self.counts.values())


def by_directory(changes: Iterable[Change], *, rows: int) -> list[Summary]:
    """Return at most `rows` summaries that together count every change once, finer where more has changed."""
    tops = _Directories(changes)
    chosen: dict[tuple[bytes, bool], int] = {(b"", False): tops.total(b"")}
    worth = max(10, tops.total(b"") // rows)  # fewer changes are not shown in finer parts
    closed: set[bytes] = set()
    while True:
        open_ones = [(count, path) for (path, direct), count in chosen.items() if not direct and path not in closed]
        count, path = max(open_ones, default=(0, b""))
        if count < worth:
            break
        parts = tops.parts(path)
        if len(chosen) - 1 + len(parts) > rows or parts == [(path, True)]:
            closed.add(path)
            continue
        del chosen[path, False]
        for part in parts:
            chosen[part] = tops.total(*part)
    return [tops.summary(path, direct=direct) for path, direct in sorted(chosen, key=lambda key: path_key(key[0]))]


class _Directories:
    """Changes counted by the directory that they lie in."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._direct: dict[bytes, Counter[How]] = {}
        self._growth: Counter[bytes] = Counter()
        self._below: dict[bytes, Counter[How]] = {b"": Counter()}
        self._growth_below: Counter[bytes] = Counter()
        self._children: dict[bytes, set[bytes]] = {}
        for change in changes:
            parent = change.path.rpartition(b"/")[0]
            self._direct.setdefault(parent, Counter())[change.how] += 1
            self._growth[parent] += change.growth
        for directory, counts in self._direct.items():
            self._add_up(directory, counts)

    def _add_up(self, directory: bytes, counts: Counter[How]) -> None:
        growth = self._growth[directory]
        while True:
            self._below.setdefault(directory, Counter()).update(counts)
            self._growth_below[directory] += growth
            if not directory:
                return
            parent = directory.rpartition(b"/")[0]
            self._children.setdefault(parent, set()).add(directory)
            directory = parent

    def total(self, path: bytes, direct: bool = False) -> int:  # noqa: FBT001, FBT002  # unpacked from a key
        return (self._direct.get(path, Counter()) if direct else self._below[path]).total()

    def parts(self, path: bytes) -> list[tuple[bytes, bool]]:
        own = [(path, True)] if path in self._direct else []
        return own + [(child, False) for child in sorted(self._children.get(path, ()))]

    def summary(self, path: bytes, *, direct: bool) -> Summary:
        counts = self._direct[path] if direct else self._below[path]
        growth = self._growth[path] if direct else self._growth_below[path]
        # A directory in which nothing lies deeper is shown as such, not as a part of itself.
        return Summary(path, direct and path in self._children, dict(counts), growth)
