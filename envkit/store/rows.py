"""Owns the rows of records in a store: which numbers those of an environment have taken, and what they say.

On the path of `envkit run`: the newest records are read first, and as few as answer.
"""

from collections.abc import Iterator

from envkit.errors import Damaged, EnvkitError, NotFound
from envkit.model.ids import EnvName
from envkit.model.version import MAX_VERSION_BYTES, Newest, Version, VersionKind, version_from_json
from envkit.store import layout
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from envkit.model.history import History


def list_environments(store: Store) -> list[EnvName]:
    """Return every environment and base that has a version, also those whose versions are all deleted."""
    found = {place[0]: None for key in store.list(layout.ENVIRONMENTS) if (place := layout.version_of(key))}
    return list(found)


def numbers(store: Store, env: EnvName) -> list[int]:
    """Return the numbers that an environment's records have taken, in order: versions, deleted or not, and others."""
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
    return version


class Scan:
    """The records of an environment, the newest first; knows which older versions those read so far delete."""

    def __init__(
        self, store: Store, env: EnvName, taken: list[int], *, passing: tuple[type[EnvkitError], ...] = ()
    ) -> None:
        self._store = store
        self._env = env
        self._taken = taken
        self._passing = passing
        self._deleted: dict[int, bool] = {}

    def __iter__(self) -> Iterator[Version]:
        for number in reversed(self._taken):
            try:
                record = load(self._store, self._env, number)
            except NotFound:
                if self.decided(number):  # collected after the listing
                    continue
                raise
            except self._passing:
                continue
            for other in record.deletes:
                self._deleted.setdefault(other, True)
            for other in record.restores:
                self._deleted.setdefault(other, False)
            yield record

    def decided(self, number: int) -> bool | None:
        """Return whether a version is deleted; None if no record so far speaks of it."""
        return self._deleted.get(number)


def newest(store: Store, env: EnvName) -> Newest | None:
    """Return the newest version that is not deleted, or None if there is none."""
    scan = Scan(store, env, numbers(store, env))
    description: str | None = None
    tags: dict[str, int] = {}
    for record in scan:
        if record.tag is not None:
            tags.setdefault(record.tag, record.target)
        elif record.kind is VersionKind.DESCRIBE and description is None:
            description = record.description
        elif record.is_version and not scan.decided(record.number):
            return Newest(
                version=record,
                description=record.description if description is None else description,
                tags=tuple(sorted(tag for tag, target in tags.items() if target == record.number)),
            )
    return None


def latest(store: Store, env: EnvName) -> Version | None:
    """Return the newest version that is not deleted, or None if there is none."""
    found = newest(store, env)
    return None if found is None else found.version


def next_number(store: Store, env: EnvName) -> int:
    """Return the number that the next version takes if nobody is faster."""
    return max(numbers(store, env), default=0) + 1


def read_history(store: Store, env: EnvName) -> "History":
    """Return all records of an environment; there may be none."""
    from envkit.model.history import History

    records: list[Version] = []
    gone: dict[int, NotFound] = {}
    for number in numbers(store, env):
        try:
            records.append(load(store, env, number))
        except NotFound as error:
            gone[number] = error
    found = History(records)
    for number, missing in gone.items():
        if found.tombstone_of(number) is None:  # else it was collected after the listing
            raise missing
    return found
