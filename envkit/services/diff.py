"""Owns the use case `diff`: what one version has that another has not, by package and by file; nothing is mounted.

Layers that both share are merged once and compared by identity, so that of them nothing is looked at. Contents are
read only where two files of one size are cut into chunks differently.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from envkit.errors import InvalidInput, NotFound
from envkit.model.difference import Change, How, compare
from envkit.model.ids import EnvRef
from envkit.model.tree import Entry, Kind, Tree
from envkit.model.version import LayerRef, Version
from envkit.model.view import View, stacked
from envkit.services.comparing import Contents
from envkit.services.context import Context
from envkit.services.environments import resolve
from envkit.services.layers import layer_tree
from envkit.services.packages import PackageChange, changed_packages, is_note
from envkit.store import versions

Layers = tuple[LayerRef, ...]


@dataclass(frozen=True)
class Difference:
    """What leads from one version to another; `before` and `after` name them for people.

    `files` is None where only packages were asked for, and the other way round.
    """

    before: str
    after: str
    files: list[Change] | None
    packages: list[PackageChange] | None


def diff(context: Context, first: str, second: str | None, *, files: bool = True, packages: bool = True) -> Difference:
    """Return what differs between two versions, or with one, what it changed of the version before it.

    :raises NotFound: there is no such version.
    """
    version = resolve(context, first)
    if second is None:
        (before, old), (after, new) = _before(context, version), (str(version), version.layers)
    else:
        other = resolve(context, second)
        (before, old), (after, new) = (str(version), version.layers), (str(other), other.layers)
    a, b = _views(context, old, new)
    changes = compare(a, b)
    with Contents(context) as contents:
        wanted = changes if files else [change for change in changes if is_note(change)]
        settled = _settled(contents, a, b, wanted)
        named = changed_packages(contents, a, b, settled) if packages else None
    return Difference(before, after, settled if files else None, named)


def _before(context: Context, version: Version) -> tuple[str, Layers]:
    """Return the version before a version; for the first one, what it is built on."""
    live = [number for number in versions.read_history(context.store, version.env).live if number < version.number]
    if not live:
        return _parent(context, version)
    before = versions.load(context.store, version.env, live[-1])
    return str(before), before.layers


def _parent(context: Context, version: Version) -> tuple[str, Layers]:
    """Return what a version is built on: its parent, also one that was deleted since; else the layers below its own."""
    if version.parent is not None:
        try:
            ref = EnvRef.parse(version.parent, owner=version.env.owner)
            if ref.version is not None:
                return str(ref), versions.load(context.store, ref.env, ref.version).layers
        except (NotFound, InvalidInput):  # its record was collected, or belongs to another store
            pass
    if len(version.layers) == 1:
        return "nothing", ()
    return f"the layers below {version}", version.layers[:-1]


def _views(context: Context, old: Layers, new: Layers) -> tuple[View, View]:
    digests_old, digests_new = [layer.tree for layer in old], [layer.tree for layer in new]
    pairs = zip(digests_old, digests_new, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    total = len(digests_old) + len(digests_new) - shared
    with context.progress.step("reading file lists", total=total, unit="layers") as step:

        def read(digest: str) -> Tree:
            tree = layer_tree(context, digest)
            step.advance(1)
            return tree

        below = stacked(View(), map(read, digests_old[:shared]))
        return stacked(below, map(read, digests_old[shared:])), stacked(below, map(read, digests_new[shared:]))


def _settled(contents: Contents, a: View, b: View, changes: Iterable[Change]) -> list[Change]:
    """Return changes with those decided whose contents had to be read."""
    changes = list(changes)
    undecided = [change for change in changes if change.undecided]
    decided = {change.path: change.decided(same=same) for change, same in contents.compare(a, b, undecided)}
    settled = (decided[change.path] if change.undecided else change for change in changes)
    return [change for change in settled if change is not None]


def difference_json(difference: Difference) -> dict[str, object]:
    """Return a difference for `--json`."""
    document: dict[str, object] = {"from": difference.before, "to": difference.after}
    if difference.packages is not None:
        document["packages"] = [
            {
                "change": package.fate.value,
                "manager": package.manager,
                "name": package.name,
                "place": package.place,
                "from": list(package.before),
                "to": list(package.after),
            }
            for package in difference.packages
        ]
    if difference.files is not None:
        document["files"] = [_change_json(change) for change in difference.files]
    return document


def _change_json(change: Change) -> dict[str, object]:
    row: dict[str, object] = {
        "path": "/" + change.path.decode("utf-8", "backslashreplace"),
        "change": change.how.value,
    }
    if change.how is How.CHANGED:
        row["what"] = list(change.what)
    for side, entry in (("from", change.before), ("to", change.after)):
        if entry is not None:
            row[side] = _entry_json(entry)
    return row


def _entry_json(entry: Entry) -> dict[str, object]:
    row: dict[str, object] = {
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
    }
    if entry.kind is Kind.SYMLINK:
        row["target"] = entry.target.decode("utf-8", "backslashreplace")
    if entry.xattrs:
        row["xattrs"] = sorted(name.decode("utf-8", "backslashreplace") for name, _ in entry.xattrs)
    return row
