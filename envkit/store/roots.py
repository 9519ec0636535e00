"""Owns the list of environments that collections have seen: the newest record of each, so that none can be overlooked.

    roots/00000000     there is a list, whatever a listing shows; never deleted
    roots/<8 digits>   the keys of the newest records, one for each environment; the highest number counts

What is deleted of an environment lies below its newest record, and the list is written before anything is condemned.
So a record that the newest list names was never deleted by a collection: it is there, or lost. Lists are numbered
without gaps, and the two newest are kept. So a listing that leaves out one of them, or both, is noticed.
"""

from collections.abc import Iterable, Mapping

from envkit.errors import Damaged
from envkit.model.ids import EnvName
from envkit.model.record import Record
from envkit.store import documents, layout
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound, StoreUnreadable

_MAX_LIST = 64 << 20
_ATTEMPTS = 20


class Roots(Record):
    """The newest list: its number, 0 for none, and the highest number that each environment's records had taken."""

    number: int = 0
    newest: Mapping[EnvName, int] = {}


def read(store: Store) -> Roots:
    """Return the newest list.

    :raises Damaged: it cannot be understood.
    :raises StoreUnreadable: there was a list, and none is there any more.
    """
    for _ in range(_ATTEMPTS):
        number = _last(store)
        if number == 0:
            return Roots()
        try:
            return Roots(number=number, newest=_load(store, layout.roots_key(number)))
        except ObjectNotFound:  # others have written two newer ones meanwhile
            continue
    raise StoreUnreadable(store.url, f"what it lists below {layout.ROOTS} is never there")


def note(store: Store, newest: Mapping[EnvName, int]) -> None:
    """Add environments to the list, and the newest records that they have now.

    :raises Damaged: the list cannot be understood.
    :raises StoreUnreadable: there was a list, and none is there any more.
    """
    for _ in range(_ATTEMPTS):
        known = read(store)
        both = {env: max(newest.get(env, 0), known.newest.get(env, 0)) for env in {**known.newest, **newest}}
        number = known.number
        if both != known.newest:
            number += 1
            records = sorted(layout.version_key(env, last) for env, last in both.items())
            if not store.put_if_absent(layout.roots_key(number), documents.encode({"records": records})):
                continue  # another collection was faster, and its list is the one to add to
        if number:  # only now: a list must be there when this says so
            store.put_if_absent(layout.roots_key(0), documents.encode({}))
        _forget(store, _numbers(store.list(layout.ROOTS)), before=number - 1)
        return
    raise StoreUnreadable(store.url, f"what it has below {layout.ROOTS} changes all the time")


def _load(store: Store, key: str) -> dict[EnvName, int]:
    where = f"{key} in the store {store.url}"
    try:
        fields = documents.decode(store.get(key, limit=_MAX_LIST), where=where)
        places = [layout.version_of(text) for text in documents.texts(fields.get("records"), where=where)]
        if None in places:
            raise Damaged(f"{where} is damaged: it names something that is no version record")
    except Damaged as error:
        raise Damaged(
            error.brief,
            resolution=error.resolution or "remove this object: the list that was written before it counts then",
        ) from error
    return dict(filter(None, places))


def _last(store: Store) -> int:
    """Return the number of the newest list, which need not be listed; 0 where there never was one."""
    last = max(_numbers(store.list(layout.ROOTS)), default=0)
    for _ in range(_ATTEMPTS):
        if store.size(layout.roots_key(last + 1)) is None:
            break
        last += 1
    if last == 0 and store.size(layout.roots_key(0)) is not None:
        raise StoreUnreadable(
            store.url,
            f"it no longer lists anything below {layout.ROOTS}, where it had what collections have seen",
            resolution="nothing was collected: check the store's health, or restore these objects from a copy",
        )
    return last


def _numbers(keys: Iterable[str]) -> list[int]:
    return [number for key in keys if (number := layout.roots_of(key)) is not None and number > 0]


def _forget(store: Store, numbers: Iterable[int], *, before: int) -> None:
    """Remove older lists, the oldest first: killed in between, it leaves no gap."""
    for number in sorted(numbers):
        if number < before:
            store.delete(layout.roots_key(number))
