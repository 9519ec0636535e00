"""Start packs on every kind of store: under which name, which one is the best, how few stay, and which a collection takes."""

import pytest
from aging import DAY
from start_support import Images
from stored_support import CREATED, Lab

from envkit.content.startpack import Granule, read_head
from envkit.model.ids import EnvName
from envkit.model.startpack import GRANULE, stack_digest
from envkit.services import collecting
from envkit.services.startpacks import START
from envkit.services.verifying import verify
from envkit.store import starts, versions
from envkit.store.open import init_store

ENV = EnvName(owner="lab", name="sci")
OTHER = EnvName(owner="lab", name="other")


@pytest.fixture(params=["directory", "s3"])
def url(request, tmp_path, monkeypatch):
    if request.param == "directory":
        return str(tmp_path / "store")
    server = request.getfixturevalue("s3")
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    return server.new_url()


@pytest.fixture
def store(url):
    return init_store(url)


@pytest.fixture
def lab(url, store, tmp_path):
    return Lab(tmp_path, store=url)


@pytest.fixture
def later(monkeypatch):
    """A function that lets time pass for collections."""
    passed = 0.0
    now = collecting._Clock.now

    def move(seconds):
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(collecting._Clock, "now", lambda self: now(self) + passed)
    return move


def put(store, env=ENV, entry_point="true", stack=None, seed=0, **more):
    """Store a small start pack that no other seed gives."""
    pack, data = Images(4 * GRANULE, seed=seed).pack(entry_point=entry_point)
    return starts.put(
        store, env, stack=stack or pack.stack, entry_point=entry_point, digest=pack.digest, pieces=[data], **more
    )


def put_for(store, version, entry_point="true"):
    """Store a start pack for the layers of a version."""
    images = Images(*[4 * GRANULE] * len(version.layers))
    images.layers = tuple(
        image.replace(digest=layer.tree) for image, layer in zip(images.layers, version.layers, strict=True)
    )
    pack, data = images.pack(entry_point=entry_point)
    return starts.put(store, version.env, stack=pack.stack, entry_point=entry_point, digest=pack.digest, pieces=[data])


def test_what_was_put_is_found_and_read(store):
    images = Images(40 * GRANULE)
    pack, data = images.pack(entry_point="python3 -m pip")
    env, stack = ENV, pack.stack
    pieces = [data[:100], data[100:]]
    start = starts.put(store, env, stack=stack, entry_point="python3 -m pip", digest=pack.digest, pieces=pieces)
    assert start.key == f"starts/lab/sci/{stack[:16]}-{starts.entry_name('python3 -m pip')}-00000001-{pack.digest}"
    (found,) = starts.list_of(store, ENV)
    assert (found.key, found.size, found.number) == (start.key, len(data), 1)
    assert starts.list_all(store) == [found]
    assert starts.list_of(store, OTHER) == []
    read, _ = read_head(lambda at, length: store.get_range(found.key, at, length), found.size, found.digest)
    assert read == pack


def test_the_highest_number_wins_and_few_are_kept(store):
    stack = stack_digest(["ab"])
    assert [put(store, stack=stack, seed=seed).number for seed in range(6)] == [1, 2, 3, 4, 5, 6]
    listed = starts.list_of(store, ENV)
    assert sorted(start.number for start in listed) == [4, 5, 6]
    assert [start.number for start in starts.candidates(listed, stack, "true")] == [6, 5, 4]


def test_numbers_are_of_one_stack_and_entry_point(store):
    stack = stack_digest(["ab"])
    for entry_point in ("true", "make", "true"):
        put(store, entry_point=entry_point, stack=stack)
    put(store, OTHER, stack=stack)
    listed = starts.list_of(store, ENV)
    found = [(start.entry, start.number) for start in starts.candidates(listed, stack, "true")]
    assert found == [
        (starts.entry_name("true"), 2),
        (starts.entry_name("true"), 1),
        (starts.entry_name("make"), 1),
    ]
    assert starts.candidates(listed, stack_digest(["cd"]), "true") == []
    assert put(store, stack=stack, above=7).number == 8


def test_without_one_of_the_same_entry_point_the_last_one_of_the_stack_is_the_best(store):
    stack = stack_digest(["ab"])
    listed = [put(store, entry_point=f"e{number}", stack=stack) for number in range(3)]
    listed = [start.replace(modified=modified) for start, modified in zip(listed, (5.0, 9.0, 7.0), strict=True)]
    found = starts.candidates(listed, stack, "other")
    assert [start.entry for start in found] == [starts.entry_name(f"e{number}") for number in (1, 2, 0)]


def test_when_there_are_no_numbers_left_nothing_is_written(store):
    assert put(store, above=starts.MAX_NUMBER - 1).number == starts.MAX_NUMBER
    before = list(store.list("starts/"))
    assert put(store, seed=1, stack=Images(4 * GRANULE).pack()[0].stack) is None
    assert list(store.list("starts/")) == before


def test_entry_points_are_limited(store, monkeypatch):
    monkeypatch.setattr(starts, "ENTRIES", 3)
    stack = stack_digest(["ab"])
    for number in range(5):
        put(store, entry_point=f"e{number}", stack=stack)
    listed = starts.list_of(store, ENV)
    assert len(listed) == 3
    assert starts.entry_name("e4") in {start.entry for start in listed}


def test_names_of_others_are_nobodys(store):
    store.put_if_absent("starts/lab/sci/README", b"")
    store.put_if_absent("starts/lab/sci/" + "-".join(["0" * 16, "0" * 16, "00000000", "0" * 64]), b"")
    assert starts.list_all(store) == []


def test_a_collection_takes_those_of_stacks_that_are_gone(lab, later):
    kept = lab.save("kept", {"a": b"kept" * 10_000})
    older = lab.save("sci", {"a": b"gone" * 10_000})
    newer = lab.save("sci", {"a": b"here" * 10_000})
    keys = [put_for(lab.store, version).key for version in (kept, newer)]
    doomed = put_for(lab.store, older).key
    lab.delete(older)
    later(2 * DAY)
    assert collecting.collect(lab.fresh_context()).start_packs == 0
    later(8 * DAY)
    dry = collecting.collect(lab.fresh_context(), dry_run=True)
    assert dry.start_packs == 1
    assert dry.notes == ["would delete 1 start packs that are of no use any more"]
    assert doomed in lab.store.list("starts/")
    done = collecting.collect(lab.fresh_context())
    assert (done.start_packs, done.notes) == (1, ["deleted 1 start packs that are of no use any more"])
    assert list(lab.store.list("starts/")) == sorted(keys)
    assert verify(lab.fresh_context(), data=True).damages == []


def test_a_collection_leaves_young_ones_and_takes_superseded_ones(lab, later):
    version = lab.save("sci", {"a": b"here" * 10_000})
    young = put(lab.store, env=OTHER)
    for number in range(4):
        data = Images(4 * GRANULE, seed=number).pack()[1]
        stack = stack_digest([layer.tree for layer in version.layers])
        start = starts.Start(env=version.env, stack=stack[:16], entry="0" * 16, number=number + 1, digest="0" * 64)
        lab.store.put_if_absent(start.key, data)
    assert collecting.collect(lab.fresh_context()).start_packs == 1
    assert young.key in lab.store.list("starts/")
    later(2 * DAY)
    assert collecting.collect(lab.fresh_context()).start_packs == 1
    assert [start.number for start in starts.list_all(lab.store)] == [2, 3, 4]


def test_an_environment_that_is_deleted_and_collected_leaves_none(lab, later):
    version = lab.save("sci", {"a": b"x" * 10_000})
    lab.save("kept", {"a": b"y"})
    put_for(lab.store, version)
    versions.delete(lab.store, version.env, None, author="alice", created=CREATED)
    later(8 * DAY)
    for _ in range(2):
        collecting.collect(lab.fresh_context())
        later(DAY)
    assert list(lab.store.list("starts/")) == []


def test_damage_is_named(lab):
    version = lab.save("sci", {"a": b"x" * 10_000})
    start = put_for(lab.store, version)
    assert verify(lab.fresh_context(), data=True).damages == []
    assert verify(lab.fresh_context()).start_packs == 1
    assert verify(lab.fresh_context(), "sci", data=True).start_packs == 1
    good = lab.store.get(start.key, limit=1 << 20)
    for place, data_only in ((20, False), (len(good) - 10, True)):
        lab.store.delete(start.key)
        lab.store.put_if_absent(start.key, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        shallow = verify(lab.fresh_context()).damages
        assert [damage.key for damage in shallow] == ([] if data_only else [start.key])
        (found,) = verify(lab.fresh_context(), "sci@1", data=True).damages
        assert (found.key, found.kind) == (start.key, START)
        assert "is damaged" in found.problem
    lab.store.delete(start.key)
    lab.store.put_if_absent(start.key, good[:-5])
    assert [damage.key for damage in verify(lab.fresh_context()).damages] == [start.key]


def test_one_under_the_name_of_another_is_named(lab):
    version = lab.save("sci", {"a": b"x" * 10_000})
    pack, data = Images(4 * GRANULE).pack([Granule(0, 1)])
    stack = stack_digest([layer.tree for layer in version.layers])
    starts.put(lab.store, version.env, stack=stack, entry_point="true", digest=pack.digest, pieces=[data])
    (found,) = verify(lab.fresh_context()).damages
    assert "is a start pack of something else" in found.problem
