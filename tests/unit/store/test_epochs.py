"""The record of collections: each part once, nothing believed that was damaged."""

import pytest

from envkit.errors import Damaged
from envkit.store import documents, epochs, layout
from envkit.store.epochs import CONDEMNED, DONE, DOOMED, NOTHING, WRITERS, Epoch, Objects
from envkit.store.errors import StoreUnreadable
from envkit.store.open import init_store

A, B = "ab" * 32, "cd" * 32
OBJECTS = Objects(packs=frozenset({A, B}), trees=frozenset({A}), versions=frozenset({"envs/lab/sci/00000001.json"}))


@pytest.fixture
def store(tmp_path):
    return init_store(str(tmp_path / "store"))


def test_before_the_first_collection_nothing_is_condemned(store):
    assert epochs.current(store) == Epoch(number=0)
    assert epochs.read(store) == (Epoch(number=0), NOTHING)
    assert not epochs.current(store).is_open


def test_a_collection_goes_through_its_parts(store):
    assert epochs.condemn(store, 1, OBJECTS, ["envs/lab/sci/00000001.json"])
    assert epochs.read(store) == (Epoch(number=1, parts=frozenset({CONDEMNED})), OBJECTS)
    assert epochs.records_seen(store, 1) == {"envs/lab/sci/00000001.json"}
    assert epochs.wait_for(store, 1, ["ab" * 16])
    assert epochs.awaited(store, 1) == {"ab" * 16}
    less = Objects(packs=frozenset({A}))
    assert epochs.doom(store, 1, less)
    assert epochs.read(store)[1] == less
    epochs.finish(store, 1)
    epoch, condemned = epochs.read(store)
    assert (epoch.number, epoch.is_open, condemned) == (1, False, NOTHING)
    assert epochs.taboo(store, epoch) == less


def test_each_part_is_written_once(store):
    assert epochs.condemn(store, 1, OBJECTS, [])
    assert not epochs.condemn(store, 1, NOTHING, [])
    assert epochs.doom(store, 1, NOTHING)
    assert not epochs.doom(store, 1, OBJECTS)
    assert epochs.load(store, 1, CONDEMNED) == OBJECTS
    assert epochs.load(store, 1, DOOMED) == NOTHING


def test_the_newest_number_counts_and_older_records_go(store):
    for epoch in (1, 2, 10):
        epochs.condemn(store, epoch, NOTHING, [])
        epochs.doom(store, epoch, NOTHING)
        epochs.finish(store, epoch)
    assert epochs.current(store) == Epoch(number=10, parts=frozenset({CONDEMNED, DOOMED, DONE}))
    store.put_if_absent("gc/README", b"")
    epochs.forget_before(store, 10)
    assert {key[:11] for key in store.list("gc/")} == {"gc/00000010", "gc/README"}


def test_objects_go_in_the_order_in_which_they_name_one_another():
    versions, trees, packs = OBJECTS.in_order()
    assert versions == ["envs/lab/sci/00000001.json"]
    assert trees == [f"trees/ab/{A}"]
    assert packs == [f"packs/ab/{A}", f"packs/cd/{B}"]


def _damage(store, part, change):
    key = layout.collection_key(1, part)
    data = change(store.get(key, limit=1 << 20))
    store.delete(key)
    store.put_if_absent(key, data)


def _flip(data):
    """Make another digest of one, which no grammar would notice."""
    place = data.rindex(A.encode())
    return data[:place] + b"b" + data[place + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        _flip,
        lambda data: data[:-3],
        lambda data: b"",
        lambda data: documents.encode({"packs": [A]}),
        lambda data: documents.encode({"packs": ["../x"], "trees": [], "versions": []}),
        lambda data: documents.encode({"packs": [], "trees": [], "versions": ["format.json"]}),
        lambda data: documents.encode({"packs": [1], "trees": [], "versions": []}),
        lambda data: documents.encode({"packs": A, "trees": [], "versions": []}),
        lambda data: documents.encode({"format": 2}),
    ],
)
def test_a_damaged_record_is_told_and_never_believed(store, change):
    epochs.condemn(store, 1, OBJECTS, [])
    _damage(store, CONDEMNED, change)
    with pytest.raises(Damaged, match=r"gc/00000001\.condemned in the store"):
        epochs.read(store)


def test_a_damaged_list_of_writers_is_told(store):
    epochs.wait_for(store, 1, [])
    _damage(store, WRITERS, lambda data: documents.encode({}))
    with pytest.raises(Damaged, match="holds no list of texts"):
        epochs.awaited(store, 1)


def test_a_store_that_lists_what_it_does_not_have_is_told(store):
    epochs.condemn(store, 1, OBJECTS, [])
    listed = list(store.list("gc/"))
    store.delete("gc/00000001.condemned")
    store.list = lambda prefix="": iter(listed)
    with pytest.raises(StoreUnreadable, match="is never there"):
        epochs.read(store)
