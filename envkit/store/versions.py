"""Owns the versions of environments in a store: which there are, which one a name means, and adding the next.

A version is an object whose number is taken by put-if-absent, so of several writers one wins and the others know.
Records that speak of versions (tombstones, tags ...) take numbers from the same row; the newest one that speaks of a
version decides over it. `rows` reads them. On the path of `envkit run`.
"""

import os
from collections.abc import Iterable

from envkit.errors import Conflict, Damaged, InvalidInput
from envkit.model.ids import MAX_VERSION, EnvName, EnvRef
from envkit.model.record import Record
from envkit.model.version import MAX_VERSION_BYTES, Version, VersionKind, version_from_json, version_to_json
from envkit.store import layout
from envkit.store.base import Store
from envkit.store.errors import MovedOn
from envkit.store.rows import (
    Scan,
    latest,
    list_environments,
    load,
    newest,
    next_number,
    numbers,
    read_history,
)

__all__ = [
    "Past",
    "delete",
    "history",
    "latest",
    "list_environments",
    "load",
    "newest",
    "next_number",
    "numbers",
    "place",
    "publish",
    "read_history",
    "resolve",
    "tombstone",
]

# Far more than can honestly meet; it keeps a store that always answers "taken" from holding us for ever.
_ATTEMPTS = 100


class Past(Record):
    """A version as history shows it; `deleted` if the newest record that speaks of it is a tombstone."""

    version: Version
    deleted: bool


def resolve(store: Store, ref: EnvRef) -> Version:
    """Return the version that a name means: the given number, that of a tag, or the newest.

    :raises NotFound: the environment, version or tag does not exist, or is deleted; says what does exist.
    """
    if ref.tag is not None:
        found = _by_tag(store, ref.env, ref.tag)
    elif ref.version is not None:
        found = _by_number(store, ref.env, ref.version)
    else:
        found = latest(store, ref.env)
    if found is None:
        from envkit.store.missing import not_found

        raise not_found(store, ref)
    return found


def _by_number(store: Store, env: EnvName, number: int) -> Version | None:
    taken = numbers(store, env)
    if number not in taken:
        return None
    scan = Scan(store, env, taken)
    for record in scan:
        deleted = scan.decided(number)
        if deleted is not None:
            return None if deleted else _version(store, env, number)
        if record.number == number:
            return record if record.is_version else None
    return None


def _by_tag(store: Store, env: EnvName, tag: str) -> Version | None:
    scan = Scan(store, env, numbers(store, env))
    for record in scan:
        if record.tag == tag:
            # It was given to a version that was not deleted then, so only newer records can have deleted it.
            return None if not record.target or scan.decided(record.target) else _version(store, env, record.target)
    return None


def _version(store: Store, env: EnvName, number: int) -> Version | None:
    record = load(store, env, number)
    return record if record.is_version else None


def history(store: Store, env: EnvName) -> list[Past]:
    """Return all versions of an environment, tombstones and other records included, the oldest first.

    :raises NotFound: there is no such environment.
    """
    found = read_history(store, env)
    if not found.records:
        from envkit.store.missing import not_found

        raise not_found(store, EnvRef(env=env))
    return [Past(version=r, deleted=found.tombstone_of(r.number) is not None) for r in found.records]


def publish(store: Store, draft: Version, *, expected: int | None) -> Version:
    """Store a version under the next free number and return it with that number; the draft's own is not used.

    A version without a description carries on the environment's.

    :param expected: the number that the caller built the draft for; None takes whatever comes next. Records that are
        no versions and took it since then are no conflict for a version: they say nothing about what it builds on.
    :raises Conflict: somebody else saved a version since then. Packs and trees of the draft are not touched by this.
    :raises MovedOn: the draft speaks of versions, and there is any new record since then.
    """
    token = _token()
    for _ in range(_ATTEMPTS):
        taken = numbers(store, draft.env)
        number = max(taken, default=0) + 1
        if number > MAX_VERSION:
            raise Conflict(f"{draft.env} has no free version numbers left", resolution="save under another name")
        if expected is not None:
            _check_expected(store, draft, expected, taken)
        version = draft.replace(number=number, token=token)
        if version.is_version and not version.description:
            version = version.replace(description=_description(store, draft.env, taken))
        if store.put_if_absent(layout.version_key(version.env, number), _record(version)):
            return version
    raise Conflict(f"{draft.env} is being written by too many others at once", resolution="try again later")


def place(store: Store, version: Version) -> bool:
    """Store a version under its own number, unless that is taken; return whether this did it."""
    record = _record(version.replace(token=_token()))
    return store.put_if_absent(layout.version_key(version.env, version.number), record)


def tombstone(
    store: Store, env: EnvName, chosen: Iterable[int] | None, *, author: str, created: str, message: str = ""
) -> Version:
    """Return the draft of a tombstone that deletes versions; None deletes all that are there now.

    :raises NotFound: the environment or one of the versions does not exist, or is deleted already.
    """
    from envkit.store.missing import not_found

    live = read_history(store, env).live
    if not live:
        raise not_found(store, EnvRef(env=env))
    deletes = live if chosen is None else sorted(set(chosen))
    for number in deletes:
        if number not in live:
            raise not_found(store, EnvRef(env=env, version=number))
    if not deletes:
        raise InvalidInput(f"no version of {env} was named", resolution="name the versions to delete")
    return Version(
        env=env,
        number=MAX_VERSION,
        kind=VersionKind.TOMBSTONE,
        deletes=tuple(deletes),
        author=author,
        created=created,
        message=message,
    )


def delete(
    store: Store, env: EnvName, chosen: Iterable[int] | None, *, author: str, created: str, message: str = ""
) -> Version:
    """Delete versions by a tombstone, and return it; see `tombstone`."""
    draft = tombstone(store, env, chosen, author=author, created=created, message=message)
    return publish(store, draft, expected=None)


def _token() -> str:
    return os.urandom(16).hex()


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


def _description(store: Store, env: EnvName, taken: list[int]) -> str:
    # A damaged record of the past must not keep a new version from being stored.
    scan = Scan(store, env, taken, passing=(Damaged,))
    for record in scan:
        if record.kind is VersionKind.DESCRIBE or (record.is_version and not scan.decided(record.number)):
            return record.description
    return ""


def _check_expected(store: Store, draft: Version, expected: int, taken: list[int]) -> None:
    env = draft.env
    since = [number for number in taken if number >= expected]
    if expected > max(taken, default=0) + 1:
        raise Conflict(
            f"{env} has no version {expected - 1} that this one could follow",
            resolution="check that this is the store that the session was started from",
        )
    if since and not draft.is_version:
        raise MovedOn(env)
    for number in since:
        winner = load(store, env, number)
        if winner.is_version:
            by = f" by {winner.author}" if winner.author else ""
            raise Conflict(
                f"{winner} was saved meanwhile{by}",
                details=f"its message: {winner.message}" if winner.message else None,
                resolution="nothing of yours is lost: save it with --as NAME, or look at that version first",
            )
