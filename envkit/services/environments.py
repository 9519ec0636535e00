"""Owns the use cases of saved environments: list, look at, delete."""

import time
from dataclasses import dataclass

from envkit.model.ids import EnvName, EnvRef
from envkit.model.merge import merge, sorted_entries
from envkit.model.tree import Entry, Kind
from envkit.model.version import LayerRef, Version, VersionKind
from envkit.services.context import Context
from envkit.services.layers import layer_tree
from envkit.store import versions
from envkit.store.versions import Past


@dataclass(frozen=True)
class Doomed:
    """Versions that a delete would take."""

    env: EnvName
    numbers: tuple[int, ...]


def latest(context: Context, *, bases: bool = False) -> list[Version]:
    """Return the newest version of every environment, or of every base."""
    names = [env for env in versions.list_environments(context.store) if env.is_base == bases]
    found = [versions.latest(context.store, env) for env in names]
    return [version for version in found if version is not None]


def resolve(context: Context, text: str) -> Version:
    """Return the version that a user's text names."""
    return versions.resolve(context.store, context.ref(text))


def history(context: Context, text: str) -> list[Past]:
    """Return the versions of an environment, the newest first, tombstones left out."""
    past = versions.history(context.store, context.ref(text).env)
    return [item for item in reversed(past) if item.version.kind is not VersionKind.TOMBSTONE]


def files(context: Context, text: str, *, changed: bool) -> list[Entry]:
    """Return what a version's files are, or only what its own layer changes."""
    version = resolve(context, text)
    if changed:
        return layer_tree(context, version.layers[-1].tree).entries
    return sorted_entries(merge(layer_tree(context, layer.tree).entries for layer in version.layers))


def to_delete(context: Context, text: str) -> Doomed:
    """Return what deleting `text` takes: the named version, or all that are not deleted yet."""
    return doomed(context, context.ref(text))


def doomed(context: Context, ref: EnvRef) -> Doomed:
    """Return what deleting a reference takes.

    :raises NotFound: there is no such environment or version.
    """
    version = versions.resolve(context.store, ref)
    if ref.version is not None:
        return Doomed(env=version.env, numbers=(version.number,))
    past = versions.history(context.store, ref.env)
    live = [p.version.number for p in past if not p.deleted and p.version.kind is not VersionKind.TOMBSTONE]
    return Doomed(env=ref.env, numbers=tuple(live))


def delete(context: Context, doomed: Doomed) -> None:
    """Delete versions; their numbers stay taken and their data stays until it is collected."""
    versions.delete(context.store, doomed.env, doomed.numbers, author=context.owner, created=now())


def now() -> str:
    """Return the time as versions record it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def version_json(version: Version) -> dict[str, object]:
    """Return a version for `--json`."""
    report = version.report
    return {
        "environment": str(version.env),
        "version": version.number,
        "kind": version.kind.value,
        "base": version.base,
        "parent": version.parent,
        "layers": [_layer_json(layer) for layer in version.layers],
        "size": version.size,
        "message": version.message,
        "author": version.author,
        "created": version.created,
        "arch": version.arch,
        "report": None
        if report is None
        else {
            "ruleset": report.ruleset,
            "findings": [{"rule": f.rule, "action": f.action, "path": f.path} for f in report.findings],
        },
    }


def _layer_json(layer: LayerRef) -> dict[str, object]:
    return {"tree": layer.tree, "entries": layer.entries, "size": layer.size, "stored": layer.stored}


def entry_json(entry: Entry) -> dict[str, object]:
    """Return an entry for `--json`; bytes that are no UTF-8 appear as `\\xNN`."""
    row: dict[str, object] = {
        "path": "/" + entry.path.decode("utf-8", "backslashreplace"),
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
    }
    if entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
        row["target"] = entry.target.decode("utf-8", "backslashreplace")
    return row
