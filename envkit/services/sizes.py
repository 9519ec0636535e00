"""Owns what a version costs: bytes of its files, bytes in the store, what of these only it needs, and where they go."""

from collections import Counter
from dataclasses import dataclass

from envkit.errors import Damaged, NotFound
from envkit.model.packages import Package
from envkit.model.tree import Kind, Tree, display_path
from envkit.model.version import LayerRef, Version
from envkit.model.view import View, stacked
from envkit.services import environments
from envkit.services.comparing import Contents
from envkit.services.context import Context
from envkit.services.layers import layer_tree
from envkit.services.packages import package_files
from envkit.services.startpacks import ColdStart, cold_start, cold_start_json
from envkit.store import versions
from envkit.store.errors import StoreError

_DIRECTORIES = 15
_PACKAGES = 20


@dataclass(frozen=True)
class Stored:
    """Compressed bytes: of all chunks, and of those that no other environment uses."""

    all: int
    unique: int

    @property
    def shared(self) -> int:
        """Bytes of chunks that other environments use, too."""
        return self.all - self.unique


@dataclass(frozen=True)
class LayerSize:
    """A layer, and what its chunks take in the store."""

    layer: LayerRef
    stored: Stored


@dataclass(frozen=True)
class Part:
    """A part of a version: a directory or a package, bytes of its files, and how many files."""

    name: str
    size: int
    files: int


@dataclass(frozen=True)
class Sizes:
    """What a version costs.

    :ivar logical: bytes of the files that it shows; hard links count once.
    :ivar directories: the largest ones, and the rest together; None if not asked for. `packages` likewise.
    :ivar unread: why some other environments could not be looked at, so that `unique` may be too much.
    """

    logical: int
    files: int
    stored: Stored
    layers: tuple[LayerSize, ...]
    unread: tuple[str, ...]
    directories: tuple[Part, ...] | None = None
    packages: tuple[Part, ...] | None = None


@dataclass(frozen=True)
class Info:
    """A version with what is said of it; `sizes` and `cold` are None where `unknown` says why they cannot be told."""

    version: Version
    description: str
    tags: tuple[str, ...]
    sizes: Sizes | None
    unknown: str | None = None
    cold: ColdStart | None = None


def info(context: Context, text: str, *, directories: bool = False, packages: bool = False) -> Info:
    """Return a version with what it costs. Where its data is damaged, the record alone is still worth showing."""
    version = environments.resolve(context, text)
    history = versions.read_history(context.store, version.env)
    tags = tuple(history.tags_of(version.number))
    try:
        found = sizes(context, version, directories=directories, packages=packages)
        cold = cold_start(context, version)
    except (Damaged, StoreError) as error:
        return Info(version, history.description, tags, None, error.brief)
    return Info(version, history.description, tags, found, cold=cold)


def sizes(context: Context, version: Version, *, directories: bool = False, packages: bool = False) -> Sizes:
    """Return what a version costs; for that, the lists of files of all environments in the store are read."""
    trees: list[Tree] = []
    with context.progress.step("reading file lists", total=len(version.layers), unit="layers") as step:
        for layer in version.layers:
            trees.append(layer_tree(context, layer.tree))
            step.advance(1)
    view = stacked(View(), trees)
    tables = [{chunk.digest: chunk.stored for chunk in tree.chunks} for tree in trees]
    del trees
    shared, unread = _shared(context, version, tables)
    files = [entry.size for entry in view.entries.values() if entry.kind is Kind.FILE]
    return Sizes(
        logical=sum(files),
        files=len(files),
        stored=_stored({digest: stored for table in tables for digest, stored in table.items()}, shared),
        layers=tuple(
            LayerSize(layer, _stored(table, shared)) for layer, table in zip(version.layers, tables, strict=True)
        ),
        unread=tuple(unread),
        directories=tuple(_by_directory(view)) if directories else None,
        packages=tuple(_by_package(context, view)) if packages else None,
    )


def _stored(table: dict[bytes, int], shared: set[bytes]) -> Stored:
    unique = sum(stored for digest, stored in table.items() if digest not in shared)
    return Stored(all=sum(table.values()), unique=unique)


def _shared(context: Context, version: Version, tables: list[dict[bytes, int]]) -> tuple[set[bytes], list[str]]:
    """Return which of a version's chunks another environment uses, and what could not be read."""
    others, unread = _trees_of_others(context, version)
    own = {digest for table in tables for digest in table}
    shared: set[bytes] = set()
    for layer, table in zip(version.layers, tables, strict=True):
        if layer.tree in others:
            shared.update(table)
            others.discard(layer.tree)
    with context.progress.step("reading other environments", total=len(others), unit="layers") as step:
        for digest in sorted(others):
            try:
                shared.update(chunk.digest for chunk in layer_tree(context, digest).chunks if chunk.digest in own)
            except (Damaged, StoreError) as error:
                unread.append(error.brief)
            step.advance(1)
    return shared, unread


def _trees_of_others(context: Context, version: Version) -> tuple[set[str], list[str]]:
    """Return the layers of all versions of other environments that are not deleted, and what could not be read."""
    trees: set[str] = set()
    unread: list[str] = []
    names = [env for env in versions.list_environments(context.store) if env != version.env]
    with context.progress.step("reading versions", total=len(names), unit="environments") as step:
        for env in names:
            try:
                history = versions.read_history(context.store, env)
                trees.update(layer.tree for number in history.live for layer in history.versions[number].layers)
            except (Damaged, StoreError, NotFound) as error:
                unread.append(error.brief)
            step.advance(1)
    return trees, unread


def _by_directory(view: View) -> list[Part]:
    """Return the top directories by size; one that has more than half of everything is shown by its own parts."""
    tops: dict[bytes, dict[bytes, _Sum]] = {}
    for path, entry in view.entries.items():
        if entry.kind is Kind.FILE:
            first, _, rest = path.partition(b"/")
            top, below = (first, rest.partition(b"/")[0] if b"/" in rest else b"") if rest else (b"", b"")
            tops.setdefault(top, {}).setdefault(below, _Sum()).add(entry.size)
    total = sum(part.size for parts in tops.values() for part in parts.values())
    found = []
    for top, parts in tops.items():
        size, name = sum(part.size for part in parts.values()), display_path(top)
        if top and size > total / 2:
            for below, part in parts.items():
                found.append(Part(f"{name}{display_path(below)}" if below else f"{name}/*", part.size, part.files))
        else:
            found.append(Part(name if top else "/*", size, sum(part.files for part in parts.values())))
    return _largest(found, _DIRECTORIES, "(other directories)")


@dataclass
class _Sum:
    """Bytes and number of files."""

    size: int = 0
    files: int = 0

    def add(self, size: int) -> None:
        self.size += size
        self.files += 1


def _by_package(context: Context, view: View) -> list[Part]:
    """Return the largest packages; a file that two of them name counts for the first."""
    left = {path: entry.size for path, entry in view.entries.items() if entry.kind is Kind.FILE}
    found: dict[Package, _Sum] = {}
    with Contents(context) as contents, context.progress.step("reading packages", unit="packages") as step:
        for package, files in package_files(contents, view):
            own = _Sum()
            for path in files:
                if path in left:
                    own.add(left.pop(path))
            if own.files:
                found[package] = own
            step.advance(1)
    names = Counter((package.manager, package.name) for package in found)
    parts = [
        Part(_package_name(package, alone=names[package.manager, package.name] == 1), own.size, own.files)
        for package, own in found.items()
    ]
    rest = Part("(no package)", sum(left.values()), len(left))
    return [*_largest(parts, _PACKAGES, "(other packages)"), *([rest] if left else [])]


def _package_name(package: Package, *, alone: bool) -> str:
    version = f" {package.version}" if package.version else ""
    place = f" in {package.place}" if package.place and not alone else ""
    return f"{package.name}{version} ({package.manager}{place})"


def _largest(parts: list[Part], count: int, others: str) -> list[Part]:
    """Return the largest parts, and the rest as one."""
    parts = sorted(parts, key=lambda part: (-part.size, part.name))
    rest = parts[count:]
    if not rest:
        return parts
    return [*parts[:count], Part(others, sum(part.size for part in rest), sum(part.files for part in rest))]


def info_json(found: Info) -> dict[str, object]:
    """Return a version with its sizes for `--json`."""
    document = environments.version_json(found.version)
    document |= {"description": found.description, "tags": list(found.tags)}
    document["cold_start"] = None if found.cold is None else cold_start_json(found.cold)
    return document | {"sizes": None if found.sizes is None else _sizes_json(found.sizes), "unknown": found.unknown}


def _sizes_json(found: Sizes) -> dict[str, object]:
    """Return sizes for `--json`."""
    return {
        "logical": found.logical,
        "files": found.files,
        **_stored_json(found.stored),
        "layers": [{"tree": row.layer.tree, **_stored_json(row.stored)} for row in found.layers],
        "directories": _parts_json(found.directories),
        "packages": _parts_json(found.packages),
        "unread": list(found.unread),
    }


def _stored_json(stored: Stored) -> dict[str, object]:
    return {"stored": stored.all, "unique": stored.unique, "shared": stored.shared}


def _parts_json(parts: tuple[Part, ...] | None) -> list[dict[str, object]] | None:
    return None if parts is None else [{"name": p.name, "size": p.size, "files": p.files} for p in parts]
