"""Owns the record of collections in the store: which objects one has condemned, for whom it waits, what it deletes.

    gc/<epoch>.condemned   what nothing needed when a collection looked; what later writers must not rely on
    gc/<epoch>.writers     the leases that were held after that was there for all to see
    gc/<epoch>.doomed      what of it was still not needed after all those writers had ended; it will be deleted
    gc/<epoch>.done        it is deleted

Each part is written once, by put-if-absent, in this order; whoever comes second goes on with what the first one wrote.
The epoch is the highest number, 0 before the first collection. docs/formats.md says why this is safe.
"""

from collections.abc import Iterable

from envkit.errors import Damaged
from envkit.model.ids import is_digest
from envkit.model.record import Record
from envkit.store import documents, layout
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound, StoreUnreadable

CONDEMNED = "condemned"
WRITERS = "writers"
DOOMED = "doomed"
DONE = "done"

MAX_OBJECTS = 400_000
"""What one collection takes at most, so that its record stays small; the next one takes the rest."""
_MAX_DOCUMENT = 64 << 20
_ATTEMPTS = 20


class Epoch(Record):
    """A collection: its number, 0 for none, and the parts of its record that are there."""

    number: int
    parts: frozenset[str] = frozenset()

    @property
    def is_open(self) -> bool:
        """Whether it may still delete something."""
        return self.number > 0 and DONE not in self.parts


class Objects(Record):
    """A set of objects: packs and trees by digest, versions by key."""

    packs: frozenset[str] = frozenset()
    trees: frozenset[str] = frozenset()
    versions: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.packs) + len(self.trees) + len(self.versions)

    def __and__(self, other: "Objects") -> "Objects":
        return Objects(
            packs=self.packs & other.packs, trees=self.trees & other.trees, versions=self.versions & other.versions
        )

    def in_order(self) -> tuple[list[str], list[str], list[str]]:
        """Return the keys in the order in which they have to go: versions, trees, packs."""
        return (
            sorted(self.versions),
            [layout.tree_key(digest) for digest in sorted(self.trees)],
            [layout.pack_key(digest) for digest in sorted(self.packs)],
        )


NOTHING = Objects()


def current(store: Store) -> Epoch:
    """Return the newest collection."""
    return _newest(store.list(layout.COLLECTIONS))


def read(store: Store) -> tuple[Epoch, Objects]:
    """Return the newest collection, and what must not be relied on because of it.

    :raises Damaged: its record cannot be understood.
    """
    for _ in range(_ATTEMPTS):
        epoch = current(store)
        try:
            return epoch, taboo(store, epoch) if epoch.is_open else NOTHING
        except ObjectNotFound:  # the next one has begun meanwhile, and removed the record of this one
            continue
    raise StoreUnreadable(store.url, f"what it lists below {layout.COLLECTIONS} is never there")


def taboo(store: Store, epoch: Epoch) -> Objects:
    """Return what a collection deletes or may delete; once it has made up its mind, only that."""
    for part in (DOOMED, CONDEMNED):
        if part in epoch.parts:
            return load(store, epoch.number, part)
    return NOTHING


def condemn(store: Store, epoch: int, objects: Objects, records: Iterable[str]) -> bool:
    """Begin a collection; return whether its number was free.

    :param records: the keys of all version records that were seen; the same listing must not show less later.
    """
    return _put(store, epoch, CONDEMNED, _fields(objects) | {"records": sorted(records)})


def wait_for(store: Store, epoch: int, writers: Iterable[str]) -> bool:
    """Write down the leases that were held after the condemned list was visible; return whether it was the first."""
    return _put(store, epoch, WRITERS, {"leases": sorted(writers)})


def doom(store: Store, epoch: int, objects: Objects) -> bool:
    """Write down what will be deleted; return whether it was the first."""
    return _put(store, epoch, DOOMED, _fields(objects))


def finish(store: Store, epoch: int) -> None:
    """Close a collection whose doomed objects are all gone."""
    _put(store, epoch, DONE, {})


def forget_before(store: Store, epoch: int) -> None:
    """Remove the records of earlier collections."""
    for key in list(store.list(layout.COLLECTIONS)):
        place = layout.collection_of(key)
        if place is not None and place[0] < epoch:
            store.delete(key)


def load(store: Store, epoch: int, part: str) -> Objects:
    """Return the objects that a part names.

    :raises Damaged: it cannot be understood.
    """
    where, fields = _get(store, epoch, part)
    packs, trees, versions = (documents.texts(fields.get(name), where=where) for name in ("packs", "trees", "versions"))
    if not all(map(is_digest, (*packs, *trees))) or not all(map(layout.version_of, versions)):
        raise Damaged(f"{where} is damaged: it names something that is no object")
    return Objects(packs=frozenset(packs), trees=frozenset(trees), versions=frozenset(versions))


def records_seen(store: Store, epoch: int) -> frozenset[str]:
    """Return the keys of the version records that were there when a collection began."""
    where, fields = _get(store, epoch, CONDEMNED)
    return frozenset(documents.texts(fields.get("records"), where=where))


def awaited(store: Store, epoch: int) -> frozenset[str]:
    """Return the identities of the leases that a collection waits for."""
    where, fields = _get(store, epoch, WRITERS)
    return frozenset(documents.texts(fields.get("leases"), where=where))


def _newest(keys: Iterable[str]) -> Epoch:
    places = [place for key in keys if (place := layout.collection_of(key)) is not None]
    number = max((epoch for epoch, _ in places), default=0)
    return Epoch(number=number, parts=frozenset(part for epoch, part in places if epoch == number))


def _fields(objects: Objects) -> dict[str, object]:
    return {name: sorted(getattr(objects, name)) for name in Objects._fields}


def _put(store: Store, epoch: int, part: str, fields: dict[str, object]) -> bool:
    return store.put_if_absent(layout.collection_key(epoch, part), documents.encode(fields))


def _get(store: Store, epoch: int, part: str) -> tuple[str, dict[str, object]]:
    key = layout.collection_key(epoch, part)
    where = f"{key} in the store {store.url}"
    return where, documents.decode(store.get(key, limit=_MAX_DOCUMENT), where=where)
