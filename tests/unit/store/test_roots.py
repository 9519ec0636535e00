"""The list of environments that collections have seen: it only grows, and no listing can hide it."""

import pytest

from envkit.errors import Damaged
from envkit.model.ids import EnvName
from envkit.store import documents, roots
from envkit.store.errors import StoreUnreadable
from envkit.store.open import init_store
from envkit.store.roots import Roots

A, B = EnvName(owner="lab", name="a"), EnvName(owner="lab", name="b")


@pytest.fixture
def store(tmp_path):
    return init_store(str(tmp_path / "store"))


def keys(store):
    return list(store.list("roots/"))


def hide(store, *hidden):
    listed = store._list
    store._list = lambda prefix: (key for key in listed(prefix) if key not in hidden)


def test_there_is_no_list_at_first(store):
    assert roots.read(store) == Roots(number=0, newest={})


def test_numbers_grow_and_never_shrink_and_nothing_is_forgotten(store):
    roots.note(store, {A: 3})
    assert roots.read(store) == Roots(number=1, newest={A: 3})
    roots.note(store, {A: 2, B: 1})
    roots.note(store, {B: 5})
    assert roots.read(store) == Roots(number=3, newest={A: 3, B: 5})


def test_what_is_known_is_not_written_again(store):
    roots.note(store, {A: 3, B: 1})
    before = keys(store)
    roots.note(store, {A: 3})
    roots.note(store, {B: 1})
    assert keys(store) == before


def test_the_two_newest_lists_are_kept(store):
    for number in range(1, 6):
        roots.note(store, {A: number})
        roots.note(store, {A: number})
    assert keys(store) == ["roots/00000000", "roots/00000004", "roots/00000005"]


def test_a_list_that_is_not_listed_is_found(store):
    for number in range(1, 4):
        roots.note(store, {A: number})
    hide(store, "roots/00000003")
    assert roots.read(store) == Roots(number=3, newest={A: 3})
    roots.note(store, {A: 4})
    assert roots.read(store).number == 4


def test_what_a_killed_collection_left_out_is_made_up_for(store):
    roots.note(store, {A: 1})
    store.delete("roots/00000000")
    roots.note(store, {A: 1})
    assert keys(store) == ["roots/00000000", "roots/00000001"]


def test_that_no_list_is_listed_any_more_is_noticed(store):
    for number in range(1, 4):
        roots.note(store, {A: number})
    hide(store, *keys(store))
    for call in (roots.read, lambda store: roots.note(store, {A: 4})):
        with pytest.raises(StoreUnreadable, match="it no longer lists anything below roots/"):
            call(store)


def test_of_two_that_write_at_once_both_are_heard(store):
    put = store.put_if_absent

    def overtaken(key, data):
        store.put_if_absent = put
        roots.note(store, {A: 7, B: 1})
        return put(key, data)

    store.put_if_absent = overtaken
    roots.note(store, {A: 2, B: 2})
    assert roots.read(store) == Roots(number=2, newest={A: 7, B: 2})


def test_a_list_that_goes_while_it_is_read_is_read_again(store):
    roots.note(store, {A: 1})
    get = store.get

    def late(key, *, limit):
        store.get = get
        for number in (2, 3):
            roots.note(store, {A: number})
        return get(key, limit=limit)

    store.get = late
    assert roots.read(store) == Roots(number=3, newest={A: 3})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        documents.encode({}),
        documents.encode({"records": "envs/lab/a/00000001.json"}),
        documents.encode({"records": ["envs/lab/a/00000001.json", "../x"]}),
        documents.encode({"format": 2}),
    ],
)
def test_a_damaged_list_is_named_and_the_one_before_it_can_take_its_place(store, data):
    roots.note(store, {A: 1})
    roots.note(store, {A: 2})
    store.delete("roots/00000002")
    store.put_if_absent("roots/00000002", data)
    with pytest.raises(Damaged, match=r"^roots/00000002 in the store") as caught:
        roots.read(store)
    assert "remove this object" in caught.value.resolution or "update envkit" in caught.value.resolution
    store.delete("roots/00000002")
    assert roots.read(store) == Roots(number=1, newest={A: 1})


def test_a_store_that_has_every_list_is_not_believed_for_ever(store):
    store.size = lambda key: 1
    with pytest.raises(StoreUnreadable, match="is never there"):
        roots.read(store)
