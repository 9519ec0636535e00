"""Packs and trees as objects."""

import pytest

from envkit.errors import EXIT_DAMAGED
from envkit.store import objects
from envkit.store.errors import ObjectNotFound, ObjectTruncated, PacksMissing
from envkit.store.open import init_store

DIGEST = "ab" * 32


@pytest.fixture
def store(tmp_path):
    return init_store(str(tmp_path / "store"))


def test_a_pack_is_stored_once_and_read_in_ranges(store):
    assert objects.put_pack(store, DIGEST, [b"one", b"two"]) is True
    assert objects.put_pack(store, DIGEST, iter([b"one", b"two"])) is False
    assert objects.pack_ranges(store)(DIGEST, 2, 3) == b"etw"


def test_a_pack_that_is_there_but_cut_short_is_not_taken_for_stored(store):
    store.put_if_absent(f"packs/ab/{DIGEST}", b"one")
    with pytest.raises(ObjectTruncated, match=f"packs/ab/{DIGEST} in the store .* has 3 bytes instead of 6") as caught:
        objects.put_pack(store, DIGEST, [b"one", b"two"])
    assert caught.value.exit_code == EXIT_DAMAGED
    assert caught.value.resolution == "restore this object from a copy of the store"


def test_trees_are_listed_by_digest(store):
    others = ["cd" * 32, "00" * 32]
    for digest in (DIGEST, *others):
        assert objects.put_tree(store, digest, b"bytes") is True
    assert objects.put_tree(store, DIGEST, b"compressed otherwise") is False
    store.put_if_absent("trees/README", b"")
    assert list(objects.tree_digests(store)) == sorted([DIGEST, *others])
    assert objects.get_tree(store, DIGEST) == b"bytes"
    with pytest.raises(ObjectNotFound, match="has no object trees/ff/f"):
        objects.get_tree(store, "ff" * 32)


def test_packs_that_are_relied_on_are_looked_for_with_the_bytes_that_they_need(store):
    short, gone = "cd" * 32, "ef" * 32
    objects.put_pack(store, DIGEST, [b"123456"])
    objects.put_pack(store, short, [b"123"])
    objects.verify_packs(store, {DIGEST: 6, short: 3})
    with pytest.raises(PacksMissing, match="lost 2 of the packs that are needed") as caught:
        objects.verify_packs(store, {DIGEST: 6, short: 4, gone: 1})
    assert caught.value.digests == [short, gone]
    assert caught.value.details == f"{short}\n{gone}"
    assert caught.value.exit_code == EXIT_DAMAGED


def test_many_lost_packs_are_counted_and_ten_are_named(store):
    with pytest.raises(PacksMissing) as caught:
        objects.verify_packs(store, {f"{number:064x}": 1 for number in range(14)})
    assert len(caught.value.digests) == 14
    assert caught.value.details.splitlines()[10:] == ["and 4 more"]
