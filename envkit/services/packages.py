"""Owns the use case of finding packages in merged views: which ones a difference changes, and which files each owns."""

import enum
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from envkit.model.difference import Change
from envkit.model.packages import (
    MAX_NOTE,
    Note,
    Package,
    conda_files,
    dpkg_files,
    note_at,
    packages_in,
    pip_files,
    python_name,
)
from envkit.model.tree import MAX_PATH, Entry, Kind, path_key
from envkit.model.versionorder import compare_versions
from envkit.model.view import View
from envkit.services.comparing import Contents

_MAX_LINKS = 40  # as many as the kernel follows


class Fate(enum.Enum):
    """What became of a package."""

    ADDED = "added"
    REMOVED = "removed"
    UPGRADED = "upgraded"
    DOWNGRADED = "downgraded"
    CHANGED = "changed"
    """Other versions, of which none is later than the other."""


@dataclass(frozen=True)
class PackageChange:
    """A package that differs; `place` is empty for the whole system. Usually there is one version at most a side."""

    manager: str
    place: str
    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def fate(self) -> Fate:
        """What became of it."""
        if not self.before:
            return Fate.ADDED
        if not self.after:
            return Fate.REMOVED
        order = compare_versions(self.manager, self.before[-1], self.after[-1])
        return {-1: Fate.UPGRADED, 1: Fate.DOWNGRADED}.get(order, Fate.CHANGED)


def is_note(change: Change) -> bool:
    """Tell whether a change can say something about packages."""
    return note_at(change.path) is not None


def changed_packages(contents: Contents, before: View, after: View, changes: Iterable[Change]) -> list[PackageChange]:
    """Return the packages that differ, from the files that do."""
    old: dict[tuple[str, str, str], set[str]] = {}
    new: dict[tuple[str, str, str], set[str]] = {}
    for change in changes:
        note = note_at(change.path)
        if note is None:
            continue
        for found, view, entry in ((old, before, change.before), (new, after, change.after)):
            for package in _packages(contents, view, note, entry):
                found.setdefault((package.manager, package.place, package.name), set()).add(package.version)
    result = []
    for key in sorted(old.keys() | new.keys()):
        versions_old, versions_new = old.get(key, set()), new.get(key, set())
        if versions_old != versions_new:
            gone, come = sorted(versions_old - versions_new), sorted(versions_new - versions_old)
            result.append(PackageChange(*key, tuple(gone), tuple(come)))
    return result


def _packages(contents: Contents, view: View, note: Note, entry: Entry | None) -> list[Package]:
    if entry is None:
        return []
    if note.whole is not None:
        return [note.whole]
    data = contents.read(view, entry, limit=MAX_NOTE) if entry.kind is Kind.FILE else None
    return [] if data is None else packages_in(note, data)


def package_files(contents: Contents, view: View) -> Iterator[tuple[Package, list[bytes]]]:
    """Yield the packages of a view, each with the files that it owns and that are there."""
    inside = _Inside(view)
    for path in sorted(view.entries, key=path_key):
        owner = _file_list(path)
        if owner is None:
            continue
        entry = view.shown(view.entries[path])
        data = contents.read(view, entry, limit=MAX_NOTE) if entry.kind is Kind.FILE else None
        if data is not None:
            package, base, read = owner
            found = (inside.find(base, named) for named in read(data))
            yield package, [file for file in found if file is not None]


def _file_list(path: bytes) -> tuple[Package, bytes, Callable[[bytes], Iterator[bytes]]] | None:
    """Return whose list of files a path is, what its paths are relative to, and how to read it."""
    parent, _, name = path.rpartition(b"/")
    if parent == b"var/lib/dpkg/info" and name.endswith(b".list"):
        return Package("dpkg", "", name[:-5].decode("utf-8", "backslashreplace"), ""), b"", dpkg_files
    if name == b"RECORD" and parent.endswith(b".dist-info"):
        note = note_at(parent)
        place, _, directory = parent.rpartition(b"/")
        if note is not None and note.whole is not None:
            return note.whole, place, pip_files
        if note is None and place.endswith((b"site-packages", b"dist-packages")):
            named = python_name(directory[:-10].decode("utf-8", "backslashreplace"))
            return Package("pip", "/" + place.decode("utf-8", "backslashreplace"), named, ""), place, pip_files
    note = note_at(path)
    if note is not None and note.manager == "conda" and note.whole is not None:
        return note.whole, note.place, conda_files
    return None


class _Inside:
    """Finds files by the names that packages give them, which may lead through symlinks: /lib is /usr/lib."""

    def __init__(self, view: View) -> None:
        self._entries = view.entries
        self._directories: dict[bytes, bytes | None] = {}

    def find(self, base: bytes, named: bytes) -> bytes | None:
        """Return the path that a name relative to a directory leads to; None if nothing is there."""
        folder, _, name = (named if named.startswith(b"/") else base + b"/" + named).rpartition(b"/")
        if len(named) > MAX_PATH or name in (b"", b".", b".."):
            return None
        if folder not in self._directories:
            self._directories[folder] = self._resolved(folder)
        place = self._directories[folder]
        if place is None:
            return None
        path = place + b"/" + name if place else name
        return path if path in self._entries else None

    def _resolved(self, folder: bytes) -> bytes | None:
        """Return the path of a directory, symlinks followed; None if there is none."""
        place = b""
        links = 0
        left = deque(folder.split(b"/"))
        while left:
            part = left.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                place = place.rpartition(b"/")[0]
                continue
            path = place + b"/" + part if place else part
            entry = self._entries.get(path)
            if entry is not None and entry.kind is Kind.SYMLINK and links < _MAX_LINKS:
                links += 1
                place = b"" if entry.target.startswith(b"/") else place
                left.extendleft(reversed(entry.target.split(b"/")))
            elif entry is not None and entry.kind is Kind.DIRECTORY:
                place = path
            else:
                return None
        return place
