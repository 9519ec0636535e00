"""Owns finding the Python of an environment in its trees, without running anything: where it is, and which version.

pickle and bytecode fit one minor version of Python only, so a call has to know before it is queued.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator

from envkit.drivers.process import SYSTEM_PATH
from envkit.errors import InvalidInput, NotFound
from envkit.model.tree import Entry, Kind, Tree, path_key
from envkit.model.version import Version
from envkit.services.contents import read_file
from envkit.services.context import Context
from envkit.services.layers import layer_tree

_MAX_LINKS = 40  # as many as the kernel follows
_MAX_CFG = 64 << 10
_VERSIONED = re.compile(rb"python([23])\.([0-9]{1,2})")
_CFG_VERSION = re.compile(r"^version(?:_info)?\s*=\s*([23])\.([0-9]{1,2})\b", re.MULTILINE)
_OTHERS = ("usr/bin", "usr/local/bin", "opt/conda/bin", "opt/miniconda3/bin", "opt/venv/bin", "venv/bin")

Python = tuple[str, tuple[int, int]]
"""Path in the environment, major and minor version."""


def python_of(context: Context, version: Version, wanted: str | None = None) -> Python:
    """Return the Python that a version of an environment runs as `python3`, or the one that is wanted.

    :raises NotFound: it has none, or not at that path.
    :raises InvalidInput: which version it is cannot be told.
    """
    stack = Stack(context, version)
    if wanted is not None:
        if not wanted.startswith("/"):
            raise InvalidInput(f"{wanted!r:.200} is no absolute path of a Python in {version}")
        found = stack.program(wanted)
        if found is None:
            raise NotFound(f"{version} has no program {wanted}")
        return wanted, _minor(stack, wanted, found)
    for place in SYSTEM_PATH.split(":"):
        path = f"{place}/python3"
        found = stack.program(path)
        if found is not None:
            return path, _minor(stack, path, found)
    others = [path for path, _ in pythons(stack)]
    raise NotFound(
        f"{version} has no python3 in {SYSTEM_PATH}",
        resolution=f"ask for another one: {', '.join(others)}" if others else "install it there, and save",
    )


def pythons(stack: "Stack") -> Iterator[Python]:
    """Yield the Pythons in the usual places, with their version in their names."""
    for place in _OTHERS:
        for name in stack.names(place):
            match = _VERSIONED.fullmatch(name)
            path = f"/{place}/{name.decode('ascii')}" if match else ""
            if match and stack.program(path) is not None:
                yield path, (int(match[1]), int(match[2]))


def _minor(stack: "Stack", path: str, real: bytes) -> tuple[int, int]:
    """Return the version of the interpreter that `path` leads to, whose own path is `real`."""
    match = _VERSIONED.fullmatch(real.rpartition(b"/")[2])
    if match:
        return int(match[1]), int(match[2])
    # A virtual environment of copies has a file that says it; others have their library beside them.
    home = real.rpartition(b"/")[0].rpartition(b"/")[0]
    cfg = _CFG_VERSION.search(stack.text(home + b"/pyvenv.cfg"))
    if cfg:
        return int(cfg[1]), int(cfg[2])
    library = (home + b"/lib").lstrip(b"/").decode("utf-8", "surrogateescape")
    versions = {match.groups() for name in stack.names(library) if (match := _VERSIONED.fullmatch(name))}
    if len(versions) == 1:
        major, minor = versions.pop()
        return int(major), int(minor)
    raise InvalidInput(
        f"cannot tell which version of Python {path} is in {stack.version}",
        resolution="name one whose path says it, as in /usr/local/bin/python3.11",
    )


class Stack:
    """Looks paths up in the layers of a version as overlayfs would, without merging all of them."""

    def __init__(self, context: Context, version: Version) -> None:
        self.version = version
        self._context = context
        self._trees = [layer_tree(context, layer.tree) for layer in reversed(version.layers)]  # the highest first

    def program(self, path: str) -> bytes | None:
        """Return the path of the file that a path leads to, links followed, if it is one that can be executed."""
        found = self._follow(path.encode("utf-8", "surrogateescape"))
        if found is None:
            return None
        real, entry, _ = found
        return real if entry.kind in (Kind.FILE, Kind.HARDLINK) and self._mode(entry) & 0o111 else None

    def text(self, path: bytes) -> str:
        """Return the text of a small file, empty where there is none."""
        found = self._follow(path)
        if found is None or found[1].kind is not Kind.FILE or found[1].size > _MAX_CFG:
            return ""
        return read_file(self._context, found[2], found[1]).decode("utf-8", "replace")

    def names(self, directory: str) -> list[bytes]:
        """Return the names in a directory that can be those of Pythons, in order."""
        found = self._follow(directory.encode("utf-8", "surrogateescape"))
        if found is None or found[1].kind is not Kind.DIRECTORY:
            return []
        real = found[0]
        names = set()
        for tree in self._trees:
            prefix = path_key(real + b"/python")
            start = bisect_left(tree.entries, prefix, key=_key)
            for number in range(start, len(tree.entries)):
                path = tree.entries[number].path
                if not path_key(path).startswith(prefix):
                    break
                name = path[len(real) + 1 :]
                if b"/" not in name:
                    names.add(name)
        return sorted(name for name in names if self._find(real + b"/" + name) is not None)

    def _mode(self, entry: Entry) -> int:
        if entry.kind is not Kind.HARDLINK:
            return entry.mode
        first = self._find(entry.target)
        return 0 if first is None else first[0].mode

    def _follow(self, path: bytes) -> tuple[bytes, Entry, Tree] | None:
        """Return where a path leads, every symlink on the way followed inside the stack; None for nowhere."""
        left, place, links = path.split(b"/")[::-1], b"", 0
        found: tuple[Entry, Tree] | None = None
        while left:
            part = left.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                place = place.rpartition(b"/")[0]
                found = self._find(place)
                continue
            here = place + b"/" + part if place else part
            found = self._find(here)
            if found is None:
                return None
            if found[0].kind is Kind.SYMLINK:
                links += 1
                if links > _MAX_LINKS:
                    return None
                place = b"" if found[0].target.startswith(b"/") else place
                left += found[0].target.split(b"/")[::-1]
                continue
            place = here
        return None if found is None else (place, *found)

    def _find(self, path: bytes) -> tuple[Entry, Tree] | None:
        """Return the entry of a path without symlinks on its way, and the tree that it is of."""
        trees = self._trees
        parts = path.split(b"/")
        for count in range(1, len(parts) + 1):
            found: tuple[Entry, Tree] | None = None
            merged = []
            for tree in trees:
                entry = _lookup(tree, b"/".join(parts[:count]))
                if entry is None:
                    continue
                if entry.kind is Kind.WHITEOUT or (found is not None and entry.kind is not Kind.DIRECTORY):
                    break
                found = found or (entry, tree)
                if entry.kind is not Kind.DIRECTORY:
                    break
                merged.append(tree)
                if entry.opaque:
                    break
            if found is None or count == len(parts):
                return found
            trees = merged
        return None


def _lookup(tree: Tree, path: bytes) -> Entry | None:
    number = bisect_left(tree.entries, path_key(path), key=_key)
    entry = tree.entries[number] if number < len(tree.entries) else None
    return entry if entry is not None and entry.path == path else None


def _key(entry: Entry) -> bytes:
    return path_key(entry.path)
