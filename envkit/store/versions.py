"""Owns the versions of environments in a store: which there are, which one a name means, and adding the next.

A version is an object whose number is taken by put-if-absent, so of several writers one wins and the others know.
Deleting adds a tombstone, a version that names the ones that it deletes. On the path of `envkit run`.
"""

from collections.abc import Iterable

from envkit.errors import Conflict, Damaged, InvalidInput, NotFound
from envkit.model.ids import MAX_VERSION, EnvName, EnvRef
from envkit.model.record import Record
from envkit.model.version import MAX_VERSION_BYTES, Version, VersionKind, version_from_json, version_to_json
from envkit.store import layout
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound

# Far more than can honestly meet; it keeps a store that always answers "taken" from holding us for ever.
_ATTEMPTS = 100


class Past(Record):
    """A version as history shows it; `deleted` if a later tombstone names it."""

    version: Version
    deleted: bool


def list_environments(store: Store) -> list[EnvName]:
    """Return every environment and base that has a version, also those whose versions are all deleted."""
    found = {place[0]: None for key in store.list(layout.ENVIRONMENTS) if (place := layout.version_of(key))}
    return list(found)


def numbers(store: Store, env: EnvName) -> list[int]:
    """Return the numbers that an environment's versions have taken, in order; deleted ones and tombstones included."""
    return [place[1] for key in store.list(layout.versions_prefix(env)) if (place := layout.version_of(key))]


def load(store: Store, env: EnvName, number: int) -> Version:
    """Read one version, deleted or not.

    :raises NotFound: there is no such version.
    :raises Damaged: the record is broken, or belongs under another key.
    """
    key = layout.version_key(env, number)
    try:
        data = store.get(key, limit=MAX_VERSION_BYTES)
    except ObjectNotFound as error:
        raise NotFound(f"{env} has no version {number}") from error
    version = version_from_json(data, where=f"{key} in the store {store.url}")
    if version.env != env or version.number != number:
        raise Damaged(f"{key} in the store {store.url} is the record of {version}")
    if version.deletes and version.kind is not VersionKind.TOMBSTONE:
        raise Damaged(f"{key} in the store {store.url} deletes versions but is no tombstone")
    if any(not 0 < deleted < number for deleted in version.deletes):
        raise Damaged(f"{key} in the store {store.url} deletes versions that did not come before it")
    return version


def latest(store: Store, env: EnvName) -> Version | None:
    """Return the newest version that is not deleted, or None if there is none."""
    deleted: set[int] = set()
    for number in reversed(numbers(store, env)):
        version = load(store, env, number)
        if version.kind is VersionKind.TOMBSTONE:
            deleted.update(version.deletes)
        elif number not in deleted:
            return version
    return None


def next_number(store: Store, env: EnvName) -> int:
    """Return the number that the next version takes if nobody is faster."""
    return max(numbers(store, env), default=0) + 1


def resolve(store: Store, ref: EnvRef) -> Version:
    """Return the version that a name means: the given number, or the newest.

    :raises NotFound: the environment or the version does not exist, or is deleted; says what does exist.
    """
    if ref.version is None:
        newest = latest(store, ref.env)
        if newest is None:
            raise _no_environment(store, ref.env)
        return newest
    taken = numbers(store, ref.env)
    if ref.version in taken:
        # A tombstone is always newer than what it deletes.
        newer = (load(store, ref.env, number) for number in taken if number > ref.version)
        if not any(ref.version in version.deletes for version in newer):
            version = load(store, ref.env, ref.version)
            if version.kind is not VersionKind.TOMBSTONE:
                return version
    raise _no_version(store, ref.env, ref.version)


def history(store: Store, env: EnvName) -> list[Past]:
    """Return all versions of an environment, tombstones included, the oldest first.

    :raises NotFound: there is no such environment.
    """
    versions = [load(store, env, number) for number in numbers(store, env)]
    if not versions:
        raise _no_environment(store, env)
    deleted = {number for version in versions for number in version.deletes}
    return [Past(version=version, deleted=version.number in deleted) for version in versions]


def publish(store: Store, draft: Version, *, expected: int | None) -> Version:
    """Store a version under the next free number and return it with that number; the draft's own is not used.

    :param expected: the number that the caller built the draft for; None takes whatever comes next. Tombstones that
        took it since then are no conflict: they say nothing about what the draft builds on.
    :raises Conflict: somebody else saved a version since then. Packs and trees of the draft are not touched by this.
    """
    for _ in range(_ATTEMPTS):
        number = next_number(store, draft.env)
        if number > MAX_VERSION:
            raise Conflict(f"{draft.env} has no free version numbers left", resolution="save under another name")
        if expected is not None:
            _check_expected(store, draft.env, expected, number)
        version = draft.replace(number=number)
        if store.put_if_absent(layout.version_key(version.env, number), _record(version)):
            return version
    raise Conflict(f"{draft.env} is being written by too many others at once", resolution="try again later")


def delete(
    store: Store, env: EnvName, chosen: Iterable[int] | None, *, author: str, created: str, message: str = ""
) -> Version:
    """Delete versions by a tombstone, and return it; None deletes all that are there now.

    :raises NotFound: the environment or one of the versions does not exist, or is deleted already.
    """
    live = _live(history(store, env))
    if not live:
        raise _no_environment(store, env)
    deletes = live if chosen is None else sorted(set(chosen))
    for number in deletes:
        if number not in live:
            raise _no_version(store, env, number)
    if not deletes:
        raise InvalidInput(f"no version of {env} was named", resolution="name the versions to delete")
    tombstone = Version(
        env=env,
        number=MAX_VERSION,
        kind=VersionKind.TOMBSTONE,
        deletes=tuple(deletes),
        author=author,
        created=created,
        message=message,
    )
    return publish(store, tombstone, expected=None)


def _record(version: Version) -> bytes:
    """Return the stored form, after making sure that it can be read again."""
    data = version_to_json(version)
    if len(data) > MAX_VERSION_BYTES:
        raise InvalidInput(
            f"the record of {version} has {len(data)} bytes, more than the {MAX_VERSION_BYTES} that it may have",
            resolution="use a shorter message",
        )
    if version_from_json(data, where=f"the record of {version}") != version:
        raise ValueError(f"the record of {version} does not survive being stored")
    return data


def _live(past: Iterable[Past]) -> list[int]:
    return [p.version.number for p in past if not p.deleted and p.version.kind is not VersionKind.TOMBSTONE]


def _check_expected(store: Store, env: EnvName, expected: int, number: int) -> None:
    if number < expected:
        raise Conflict(
            f"{env} has no version {expected - 1} that this one could follow",
            resolution="check that this is the store that the session was started from",
        )
    for taken in range(expected, number):
        winner = load(store, env, taken)
        if winner.kind is not VersionKind.TOMBSTONE:
            by = f" by {winner.author}" if winner.author else ""
            raise Conflict(
                f"{winner} was saved meanwhile{by}",
                details=f"its message: {winner.message}" if winner.message else None,
                resolution="nothing of yours is lost: save under another name, or look at that version first",
            )


def _no_environment(store: Store, env: EnvName) -> NotFound:
    # Only on the way to an error: difflib costs more than a whole lookup.
    from difflib import get_close_matches

    there = {str(other): other for other in list_environments(store) if other != env}
    by_name = {other.name: text for text, other in there.items()}
    close = [*get_close_matches(str(env), there, n=3), *(by_name[n] for n in get_close_matches(env.name, by_name, n=3))]
    close = [text for text in dict.fromkeys(close) if _has_versions(store, there[text])][:3]
    return NotFound(
        f"no base {env.name}" if env.is_base else f"no environment {env}",
        details="all its versions were deleted" if numbers(store, env) else None,
        resolution=f"did you mean {' or '.join(close)}?" if close else "`envkit list` shows what there is",
    )


def _has_versions(store: Store, env: EnvName) -> bool:
    try:
        return latest(store, env) is not None
    except Damaged:
        return True


def _no_version(store: Store, env: EnvName, number: int) -> NotFound:
    past = history(store, env) if numbers(store, env) else []
    live = _live(past)
    if not live:
        return _no_environment(store, env)
    deleted = any(p.deleted and p.version.number == number for p in past)
    return NotFound(
        f"{env}@{number} was deleted: there are {_ranges(live)}"
        if deleted
        else f"{env} has no version {number}: it has {_ranges(live)}",
        resolution=f"use {env}@{live[-1]}, or {env} for the latest",
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
