"""Owns what is said about names that mean nothing: what became of them, and what there is instead.

Only on the way to an error, so whole histories are read.
"""

from envkit.errors import Damaged, NotFound
from envkit.model.history import History
from envkit.model.ids import EnvName, EnvRef
from envkit.store import rows
from envkit.store.base import Store

_CLOSE = 0.75
"""What a whole name has to have in common with another one; those of one owner all have much."""


def not_found(store: Store, ref: EnvRef) -> NotFound:
    """Return the error for a name that `versions.resolve` could not resolve."""
    history = rows.read_history(store, ref.env)
    if not history.live:
        return _no_environment(store, ref.env, history)
    if ref.tag is not None:
        return _no_tag(ref.env, history, ref.tag)
    return _no_version(ref.env, history, ref.version or 0)


def _no_environment(store: Store, env: EnvName, history: History) -> NotFound:
    tombstone = history.newest_tombstone
    if tombstone is not None and tombstone.renamed is not None:
        return NotFound(f"{env} was renamed to {tombstone.renamed}", resolution=f"use {tombstone.renamed}")
    # difflib costs more than a whole lookup.
    from difflib import get_close_matches

    there = {str(other): other for other in rows.list_environments(store) if other != env}
    by_name = {other.name: text for text, other in there.items()}
    names = get_close_matches(env.name, by_name, n=3)
    close = [*get_close_matches(str(env), there, n=3, cutoff=_CLOSE), *(by_name[name] for name in names)]
    close = [text for text in dict.fromkeys(close) if _has_versions(store, there[text])][:3]
    return NotFound(
        f"no base {env.name}" if env.is_base else f"no environment {env}",
        details="all its versions were deleted" if tombstone is not None else None,
        resolution=f"did you mean {' or '.join(close)}?" if close else "`envkit list` shows what there is",
    )


def _has_versions(store: Store, env: EnvName) -> bool:
    try:
        return rows.latest(store, env) is not None
    except Damaged:
        return True


def _no_version(env: EnvName, history: History, number: int) -> NotFound:
    live = history.live
    tombstone = history.tombstone_of(number)
    if tombstone is None:
        brief = f"{env} has no version {number}: it has {_ranges(live)}"
        return NotFound(brief, resolution=f"use {env}@{live[-1]}, or {env} for the latest")
    brief = f"{env}@{number} was deleted: there are {_ranges(live)}"
    return NotFound(brief, resolution=f"use one of these, or bring it back with `envkit undelete {env}@{number}`")


def _no_tag(env: EnvName, history: History, tag: str) -> NotFound:
    number = history.tags.get(tag)
    if number is not None and history.tombstone_of(number) is not None:
        return NotFound(
            f"the tag {tag} of {env} means {env}@{number}, which was deleted",
            resolution=f"bring it back with `envkit undelete {env}@{number}`, or tag another version",
        )
    tags = [f"{name} (@{target})" for name, target in history.tags.items()]
    return NotFound(
        f"{env} has no tag {tag!r}: it has {', '.join(tags) or 'none'}",
        resolution=f"`envkit log {env}` shows versions and tags",
    )


def _ranges(ordered: list[int]) -> str:
    """Return numbers as in `1 to 3, 5`."""
    runs: list[list[int]] = []
    for number in ordered:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
