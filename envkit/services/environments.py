"""Owns the use cases that look at saved environments: list, history, files; and what deleting one would take."""

import time
from dataclasses import dataclass

from envkit.model.history import History
from envkit.model.ids import EnvName, EnvRef
from envkit.model.merge import merge, sorted_entries
from envkit.model.needs import needs_to_json
from envkit.model.tree import Entry, Kind
from envkit.model.version import LayerRef, Newest, Version
from envkit.services.context import Context
from envkit.services.layers import layer_tree
from envkit.store import versions
from envkit.store.missing import not_found


@dataclass(frozen=True)
class Doomed:
    """Versions that a delete would take."""

    env: EnvName
    numbers: tuple[int, ...]


def newest(context: Context, *, bases: bool = False) -> list[Newest]:
    """Return the newest version of every environment, or of every base, with its tags and the description."""
    names = [env for env in versions.list_environments(context.store) if env.is_base == bases]
    found = [versions.newest(context.store, env) for env in names]
    return [item for item in found if item is not None]


def resolve(context: Context, text: str) -> Version:
    """Return the version that a user's text names."""
    return versions.resolve(context.store, context.ref(text))


def exists(context: Context, text: str) -> bool:
    """Tell whether an environment of this name has a version that is not deleted."""
    return versions.latest(context.store, context.ref(text).env) is not None


def history(context: Context, text: str) -> History:
    """Return what is known of an environment, also where all its versions are deleted.

    :raises NotFound: there is no such environment, or it has another name now.
    """
    ref = EnvRef(env=context.ref(text).env)
    found = versions.read_history(context.store, ref.env)
    tombstone = found.newest_tombstone
    moved = not found.live and tombstone is not None and tombstone.renamed is not None
    if not found.versions or moved:
        raise not_found(context.store, ref)
    return found


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
    if not ref.is_whole:
        return Doomed(env=version.env, numbers=(version.number,))
    return Doomed(env=ref.env, numbers=tuple(versions.read_history(context.store, ref.env).live))


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
        "origin": version.origin,
        "layers": [_layer_json(layer) for layer in version.layers],
        "size": version.size,
        "message": version.message,
        "description": version.description,
        "author": version.author,
        "created": version.created,
        "arch": version.arch,
        "needs": needs_to_json(version.needs),
        "report": None
        if report is None
        else {
            "ruleset": report.ruleset,
            "findings": [{"rule": f.rule, "action": f.action, "path": f.path} for f in report.findings],
        },
    }


def newest_json(item: Newest) -> dict[str, object]:
    """Return an environment's newest version for `--json`."""
    return version_json(item.version) | {"description": item.description, "tags": list(item.tags)}


def history_json(history: History) -> list[dict[str, object]]:
    """Return an environment's versions for `--json`, the newest first."""
    return [
        version_json(version) | {"tags": history.tags_of(number), "deleted": history.tombstone_of(number) is not None}
        for number, version in reversed(history.versions.items())
    ]


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
