"""`services/verifying`: every class of object, every kind of damage, named with what it affects; and nothing invented."""

import os
import random

import pytest
from stored_support import Lab

from envkit.content import treefile
from envkit.errors import InvalidInput, NotFound
from envkit.model.ids import EnvName
from envkit.services import damage as damages
from envkit.services.verifying import verified_json, verify
from envkit.store import epochs, layout, roots, versions
from envkit.store.epochs import NOTHING
from envkit.store.objects import get_tree


@pytest.fixture
def lab(tmp_path):
    """Three environments: `a` and `b` share a layer, `c` has one of its own in another pack."""
    lab = Lab(tmp_path)
    base = lab.save("a", {f"opt/{n}": noise(n, 40_000) for n in range(6)})
    lab.save("b", {"only/b": noise("b", 100_000)}, below=base)
    lab.save("c", {"only/c": noise("c", 300_000), "only/d": noise("d", 300_000)})
    return lab


def noise(seed, size):
    return random.Random(str(seed)).randbytes(size)


def check(lab, text=None, **how):
    return verify(lab.fresh_context(), text, **how)


def tree_of(lab, name):
    """Return the digest of an environment's own layer, and the tree."""
    digest = lab.store.get(f"envs/lab/{name}/00000001.json", limit=1 << 20).decode()
    digest = digest.rsplit('"tree": "', 1)[1][:64]
    return digest, treefile.decode(get_tree(lab.store, digest), digest)


def pack_of(lab, name):
    return layout.pack_key(tree_of(lab, name)[1].chunks[0].pack.hex())


def rewrite(lab, key, change):
    path = f"{lab.store_path}/{key}"
    with open(path, "rb") as file:
        data = change(file.read())
    os.unlink(path)
    if data is not None:
        with open(path, "wb") as file:
            file.write(data)


def flipped(data, place=None):
    place = len(data) // 2 if place is None else place
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_a_whole_store_is_whole(lab):
    for how in ({}, {"data": True}, {"sample": 1.0}):
        found = check(lab, **how)
        assert found.damages == []
        assert (found.versions, found.trees, found.packs) == (3, 3, 3)
        assert found.checked_chunks == (found.chunks if how else 0)
    assert verified_json(found)["damages"] == []
    assert check(lab, "b").trees == 2
    assert check(lab, "c@1", data=True).packs == 1


def test_structure_alone_reads_no_pack(lab):
    context = lab.fresh_context()
    get_range = context.store.get_range

    def refuse(key, start, length):
        assert not key.startswith("packs/")
        return get_range(key, start, length)

    context.store.get_range = refuse
    assert verify(context).damages == []


@pytest.mark.parametrize("change", [flipped, lambda data: data[:-1], lambda data: b"", lambda data: None])
def test_a_damaged_or_missing_tree_is_named_with_the_versions_that_need_it(lab, change):
    digest, _ = tree_of(lab, "a")
    rewrite(lab, layout.tree_key(digest), change)
    (damage,) = check(lab).damages
    assert (damage.key, damage.kind, damage.digest) == (layout.tree_key(digest), damages.TREE, digest)
    assert sorted(damage.versions) == ["lab/a@1", "lab/b@1"]
    assert check(lab, "c", data=True).damages == []
    assert len(check(lab, "b").damages) == 1


@pytest.mark.parametrize("change", [flipped, lambda data: data[:-1], lambda data: b"", lambda data: b"[]"])
def test_a_damaged_record_is_named(lab, change):
    rewrite(lab, "envs/lab/b/00000001.json", change)
    (damage,) = check(lab).damages
    assert (damage.key, damage.kind) == ("envs/lab/b/00000001.json", damages.VERSION)
    assert damage.versions == ("lab/b@1",)
    assert check(lab).versions == 2
    assert check(lab, "a", data=True).damages == []


def test_a_record_in_the_place_of_another_is_named(lab):
    other = lab.store.get("envs/lab/a/00000001.json", limit=1 << 20)
    rewrite(lab, "envs/lab/b/00000001.json", lambda _: other)
    (damage,) = check(lab).damages
    assert damage.problem == "it is the record of lab/a@1"


def test_a_tree_in_the_place_of_another_is_named(lab):
    mine, _ = tree_of(lab, "a")
    other, _ = tree_of(lab, "c")
    data = lab.store.get(layout.tree_key(other), limit=1 << 20)
    rewrite(lab, layout.tree_key(mine), lambda _: data)
    (damage,) = check(lab).damages
    assert "its content has another digest" in damage.problem


def test_a_missing_pack_is_named_with_all_files_that_need_it(lab):
    rewrite(lab, pack_of(lab, "a"), lambda data: None)
    (damage,) = check(lab).damages
    assert (damage.kind, damage.problem, damage.files) == (damages.PACK, "is missing", 6)
    assert damage.paths == tuple(f"/opt/{n}" for n in range(6))
    assert sorted(damage.versions) == ["lab/a@1", "lab/b@1"]


def test_a_pack_cut_short_affects_only_what_lies_behind(lab):
    _, tree = tree_of(lab, "c")
    last = max(tree.chunks, key=lambda chunk: chunk.offset)
    rewrite(lab, pack_of(lab, "c"), lambda data: data[:-1])
    (damage,) = check(lab).damages
    assert f"bytes, and {last.offset + last.stored} are needed" in damage.problem
    assert damage.chunks == {last.digest}
    assert damage.paths == ("/only/d",)


def test_a_flipped_bit_in_each_chunk_in_turn_is_found_with_the_files_that_it_affects(lab):
    _, tree = tree_of(lab, "c")
    for number, chunk in enumerate(tree.chunks):
        spot = chunk.offset + chunk.stored // 2
        rewrite(lab, pack_of(lab, "c"), lambda data, spot=spot: flipped(data, spot))
        assert check(lab).damages == []
        for how in ({"data": True}, {"sample": 1.0}):
            (damage,) = check(lab, **how).damages
            assert damage.chunks == {chunk.digest}
            assert damage.versions == ("lab/c@1",)
            expected = [e.path.decode() for e in tree.entries if any(s.chunk == number for s in e.segments)]
            assert damage.paths == tuple(f"/{path}" for path in expected)
        rewrite(lab, pack_of(lab, "c"), lambda data, spot=spot: flipped(data, spot))
    assert check(lab, data=True).damages == []


def test_swapped_chunks_are_found(lab):
    _, tree = tree_of(lab, "c")
    first, second = sorted(tree.chunks, key=lambda chunk: chunk.offset)[:2]

    def swapped(data):
        parts = [data[c.offset : c.offset + c.stored] for c in (first, second)]
        return data[: first.offset] + parts[1] + parts[0] + data[second.offset + second.stored :]

    rewrite(lab, pack_of(lab, "c"), swapped)
    (damage,) = check(lab, data=True).damages
    assert damage.chunks >= {first.digest, second.digest}


def test_a_pack_in_the_place_of_another_is_found(lab):
    with open(f"{lab.store_path}/{pack_of(lab, 'c')}", "rb") as file:
        other = file.read()
    rewrite(lab, pack_of(lab, "a"), lambda _: other)
    (damage,) = check(lab, data=True).damages
    assert damage.files == 6


def test_damage_that_no_version_needs_is_told_as_that(lab):
    rewrite(lab, pack_of(lab, "c"), lambda data: flipped(data, 12))  # the epoch in the header
    assert check(lab).damages == []
    (damage,) = check(lab, data=True).damages
    assert "all chunks that are needed are whole" in damage.problem
    assert (damage.versions, damage.files) == ((), 0)


def test_many_files_are_counted_and_some_are_named(lab):
    lab.save("many", {f"x/{n:03}": b"%d" % n * 50 for n in range(100)})
    rewrite(lab, pack_of(lab, "many"), lambda data: None)
    (damage,) = check(lab).damages
    assert (damage.files, len(damage.paths)) == (100, damages.MAX_PATHS)


def test_deleted_versions_are_not_looked_at(lab):
    rewrite(lab, pack_of(lab, "c"), lambda data: None)
    assert check(lab).damages
    lab.delete(versions.load(lab.store, EnvName(owner="lab", name="c"), 1))
    assert check(lab).damages == []


def test_a_damaged_record_of_a_collection_is_named(lab):
    epochs.condemn(lab.store, 1, NOTHING, [])
    assert check(lab).damages == []
    rewrite(lab, "gc/00000001.condemned", flipped)
    (damage,) = check(lab).damages
    assert (damage.kind, damage.versions) == (damages.NOTE, ())
    assert "gc/00000001.condemned" in damage.problem


def test_a_version_that_a_collection_has_seen_and_nothing_shows_any_more_is_named(lab):
    roots.note(lab.store, {EnvName(owner="lab", name="c"): 1})
    assert check(lab).damages == []
    rewrite(lab, "envs/lab/c/00000001.json", lambda _: None)
    (damage,) = check(lab).damages
    assert (damage.key, damage.kind, damage.versions) == ("envs/lab/c/00000001.json", damages.LOST, ("lab/c@1",))
    assert check(lab, "a").damages == []


def test_a_list_of_what_collections_have_seen_that_cannot_be_read_is_named(lab):
    roots.note(lab.store, {EnvName(owner="lab", name="c"): 1})
    rewrite(lab, "roots/00000001", flipped)
    (damage,) = check(lab).damages
    assert (damage.key, damage.kind) == ("roots/", damages.NOTE)
    assert "roots/00000001" in damage.problem
    rewrite(lab, "roots/00000001", lambda _: None)
    (damage,) = check(lab).damages
    assert "no longer lists anything" in damage.problem


@pytest.mark.parametrize("text", ["nobody", "a@7"])
def test_what_is_not_there_is_told(lab, text):
    with pytest.raises(NotFound):
        check(lab, text)


@pytest.mark.parametrize("share", [0, -1, 1.1])
def test_a_sample_is_a_share(lab, share):
    with pytest.raises(InvalidInput):
        check(lab, sample=share)


def test_this_nodes_copies_hide_nothing(lab):
    digest, _ = tree_of(lab, "a")
    assert os.path.exists(f"{lab.root}/cache/trees/{digest}")
    rewrite(lab, layout.tree_key(digest), lambda data: None)
    assert len(check(lab).damages) == 1
