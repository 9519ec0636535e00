"""`services/collecting` on a directory store: what goes, what stays, and what stops it."""

import os
import shutil
import time

import pytest
from aging import DAY, HOUR, MINUTE, age
from stored_support import Lab

from envkit.errors import EXIT_DAMAGED, EXIT_UNAVAILABLE
from envkit.model.ids import EnvName
from envkit.model.version import Version, VersionKind
from envkit.services import collecting, marking
from envkit.services.collecting import ClockRefused, CollectionOvertaken, collected_json
from envkit.services.marking import CollectionStopped
from envkit.services.publishing import writing
from envkit.services.verifying import verify
from envkit.store import epochs, layout, leases, roots, versions
from envkit.store.errors import StoreUnreadable


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def collect(lab, **how):
    return collecting.collect(lab.fresh_context(), **how)


def objects(lab, *prefixes):
    prefixes = prefixes or ("packs/", "trees/", "envs/")
    return [key for key in lab.store.list() if key.startswith(prefixes)]


def collect_all(lab):
    """Condemn and delete what nothing needs, as days would do it."""
    age(lab.store_path, 8 * DAY)
    first = collect(lab)
    age(lab.store_path, 5 * HOUR)
    return first, collect(lab)


def noise(seed):
    return os.urandom(50_000) + seed.encode()


def test_what_a_deleted_version_alone_needs_goes_and_all_else_stays(lab):
    kept = lab.save("kept", {"a": noise("a"), "b": noise("b")})
    before = objects(lab)
    doomed = lab.save("sci", {"a": noise("x")})
    lab.delete(doomed)
    first, second = collect_all(lab)
    assert (first.condemned.versions, first.condemned.trees, first.condemned.packs) == (1, 1, 1)
    assert first.deleted is None
    assert second.deleted == first.condemned
    assert second.deleted.bytes > 50_000
    assert objects(lab) == sorted([*before, "envs/lab/sci/00000002.json"])
    assert verify(lab.fresh_context(), data=True).damages == []
    assert versions.next_number(lab.store, doomed.env) == 3
    assert versions.latest(lab.store, kept.env) == kept
    assert collected_json(second)["deleted"]["packs"] == 1


def test_chunks_that_others_share_stay(lab):
    shared = noise("shared")
    doomed = lab.save("a", {"x": shared})
    lab.save("b", {"y": shared})
    lab.delete(doomed)
    _, second = collect_all(lab)
    assert (second.deleted.versions, second.deleted.trees, second.deleted.packs) == (1, 1, 0)
    assert verify(lab.fresh_context(), data=True).damages == []


def test_what_was_deleted_lately_can_be_brought_back(lab):
    version = lab.save("a", {"x": noise("x")})
    age(lab.store_path, 30 * DAY)
    lab.delete(version)
    age(lab.store_path, 6 * DAY)
    assert collect(lab).condemned.objects == 0
    assert collect(lab, grace=5 * DAY, dry_run=True).condemned.objects == 3
    with writing(lab.context) as writer:
        writer.check_alive(version)
        writer.publish(Version(env=version.env, number=1, kind=VersionKind.RESTORE, restores=(1,)), expected=None)
    age(lab.store_path, 30 * DAY)
    assert collect(lab).condemned.objects == 0
    assert versions.latest(lab.store, version.env).number == 1


def test_what_is_young_is_left_alone(lab):
    lab.save("kept", {"a": noise("a")})
    lab.layer({"x": noise("an unfinished save")})
    assert collect(lab, grace=0).condemned.objects == 0
    age(lab.store_path, 23 * HOUR)
    assert collect(lab, grace=0).condemned.objects == 0
    age(lab.store_path, 2 * HOUR)
    assert collect(lab, grace=0).condemned.objects == 2


def test_a_young_tree_keeps_its_old_packs(lab):
    lab.save("kept", {"a": noise("a")})
    shared = noise("shared")
    lab.layer({"x": shared})
    age(lab.store_path, 30 * DAY)
    lab.layer({"y": shared})
    condemned = collect(lab).condemned
    assert (condemned.trees, condemned.packs) == (1, 0)


@pytest.mark.parametrize("left_out", [(2,), (3,), (4,), (2, 3), (3, 4), (2, 3, 4)])
def test_records_that_the_listings_leave_out_are_found_by_their_numbers(lab, monkeypatch, left_out):
    for number in range(4):
        lab.save("sci", {"x": noise(str(number))})
    hidden = {layout.version_key(EnvName(owner="lab", name="sci"), number) for number in left_out}
    everything = type(lab.store)._list_status

    def partly(store, prefix):
        return (found for found in everything(store, prefix) if found[0] not in hidden)

    monkeypatch.setattr(type(lab.store), "_list_status", partly)
    first, second = collect_all(lab)
    assert first.condemned.objects == 0
    assert second.condemned.objects == 0
    monkeypatch.undo()
    assert verify(lab.fresh_context(), data=True).damages == []


def test_a_store_that_lists_no_versions_at_all_is_not_collected(lab, monkeypatch):
    lab.save("sci", {"x": noise("x")})
    everything = type(lab.store)._list_status
    monkeypatch.setattr(
        type(lab.store),
        "_list_status",
        lambda store, prefix: iter(()) if prefix == layout.ENVIRONMENTS else everything(store, prefix),
    )
    age(lab.store_path, 8 * DAY)
    with pytest.raises(CollectionStopped, match="lists trees, but no version of anything"):
        collect(lab)


def test_a_dry_run_changes_nothing(lab):
    lab.delete(lab.save("a", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    before = list(lab.store.list())
    assert collect(lab, dry_run=True).condemned.objects == 3
    assert list(lab.store.list()) == before
    collect(lab)
    age(lab.store_path, 5 * HOUR)
    before = list(lab.store.list())
    done = collect(lab, dry_run=True)
    assert (done.deleted.objects, done.ripe_in) == (3, None)
    assert list(lab.store.list()) == before


def test_nothing_to_collect_leaves_no_trace(lab):
    lab.save("a", {"x": noise("x")})
    age(lab.store_path, 30 * DAY)
    collect(lab)
    assert objects(lab, "gc/", "clock/", "leases/") == []


def test_what_is_condemned_waits_four_hours(lab):
    lab.delete(lab.save("a", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    assert 4 * HOUR - 60 < collect(lab).ripe_in <= 4 * HOUR
    age(lab.store_path, 3 * HOUR)
    done = collect(lab)
    assert done.deleted is None
    assert HOUR - 60 < done.ripe_in <= HOUR
    assert len(objects(lab)) == 4


def test_it_waits_for_writers_that_began_before_and_for_no_others(lab):
    lab.delete(lab.save("a", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    with writing(lab.context):
        collect(lab)
        age(lab.store_path, 5 * HOUR)
        done = collect(lab)
        assert done.deleted is None
        assert done.writers == (f"process {os.getpid()} on {os.uname().nodename}",)
        assert done.ripe_in == 0
    with writing(lab.context):
        assert collect(lab).deleted.objects == 3


def test_a_dead_writer_is_waited_for_until_its_lease_expires(lab):
    lab.delete(lab.save("a", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    dead = leases.Lease(lab.store)
    collect(lab)
    age(lab.store_path, 11 * HOUR)
    assert collect(lab).writers
    age(lab.store_path, 2 * HOUR)
    done = collect(lab)
    assert done.expired_leases == 1
    assert done.deleted.objects == 3
    assert objects(lab, "leases/") == []
    with pytest.raises(leases.LeaseLost):
        dead.check()


def test_what_became_needed_again_is_spared(lab):
    version = lab.save("a", {"x": noise("x")})
    lab.delete(version)
    age(lab.store_path, 8 * DAY)
    # A writer that began before may publish what is condemned; here it ends before the second step.
    with writing(lab.context) as writer:
        collect(lab)
        writer.publish(version, expected=None)
    age(lab.store_path, 5 * HOUR)
    done = collect(lab)
    assert (done.spared, done.deleted.versions, done.deleted.trees, done.deleted.packs) == (2, 1, 0, 0)
    assert verify(lab.fresh_context(), data=True).damages == []


def _break(lab, key, data):
    lab.store.delete(key)
    if data is not None:
        lab.store.put_if_absent(key, data)
    age(lab.store_path, 8 * DAY, key)


@pytest.mark.parametrize("data", [None, b"", b"garbage"], ids=["missing", "empty", "garbage"])
@pytest.mark.parametrize("kind", ["version", "tree"])
@pytest.mark.parametrize("step", [1, 2])
def test_anything_live_that_cannot_be_read_stops_it(lab, kind, data, step):
    lab.delete(lab.save("gone", {"x": noise("x")}))
    live = lab.save("live", {"y": noise("y")})
    age(lab.store_path, 8 * DAY)
    if step == 2:
        collect(lab)
        age(lab.store_path, 5 * HOUR)
    before = objects(lab)
    key = layout.tree_key(live.layers[0].tree) if kind == "tree" else layout.version_key(live.env, 1)
    _break(lab, key, data)
    shutil.rmtree(f"{lab.root}/cache")
    if (kind, data, step) == ("version", None, 1):
        return  # nothing knows of a record that is not there
    with pytest.raises((CollectionStopped, StoreUnreadable)) as caught:
        collect(lab, grace=0)
    said = str(caught.value)
    assert "nothing was collected" in said or "nothing was collected" in caught.value.resolution
    assert live.layers[0].tree in said or "envs/lab/live/00000001.json" in said or "lab/live@1" in said
    if isinstance(caught.value, CollectionStopped):
        assert caught.value.exit_code == EXIT_DAMAGED
    assert [k for k in objects(lab) if k != key] == [k for k in before if k != key]


def hiding(lab, *prefixes):
    """Return a context whose store lists nothing below some prefixes, as a store would whose listings are short."""
    context = lab.fresh_context()
    everything = context.store._list_status
    listed = context.store._list
    context.store._list_status = lambda prefix: (i for i in everything(prefix) if not i[0].startswith(prefixes))
    context.store._list = lambda prefix: (key for key in listed(prefix) if not key.startswith(prefixes))
    return context


LIVE = EnvName(owner="lab", name="live")


@pytest.fixture
def half_seen(lab):
    """A store with something to collect, and an environment that a collection has seen; then it got a version more."""
    for number in range(2):
        lab.save("live", {"y": noise(f"y{number}")})
    lab.save("other", {"x": noise("z")})
    collect(lab)
    lab.save("live", {"y": noise("y2")})
    lab.delete(lab.save("gone", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    return lab


@pytest.mark.parametrize("hidden", ["envs/lab/live/", "envs/lab/live/00000002", "envs/lab/live/00000003", "envs/lab/"])
def test_environments_that_no_listing_shows_are_found_by_their_newest_record(half_seen, hidden):
    lab = half_seen
    first = collecting.collect(hiding(lab, hidden))
    age(lab.store_path, 5 * HOUR)
    second = collecting.collect(hiding(lab, hidden))
    # Of what no collection has seen yet, only what nothing shows is kept: "gone", where it is hidden, has no record.
    assert first.condemned.objects == second.deleted.objects == (2 if hidden == "envs/lab/" else 3)
    assert verify(lab.fresh_context(), data=True).damages == []
    assert [versions.load(lab.store, LIVE, number).number for number in (1, 2, 3)] == [1, 2, 3]


def test_without_the_list_of_environments_one_that_no_listing_shows_is_lost(half_seen, monkeypatch):
    """What the test above would say of a collection that believes its listings."""
    lab = half_seen
    monkeypatch.setattr(marking.Marker, "_with_known", lambda _self, listed: listed)
    for _ in range(2):
        collecting.collect(hiding(lab, "envs/lab/live/"))
        age(lab.store_path, 5 * HOUR)
    shutil.rmtree(f"{lab.root}/cache", ignore_errors=True)
    assert {damage.kind for damage in verify(lab.fresh_context()).damages} == {"tree"}


@pytest.mark.parametrize("lost", [("live",), ("live", "other")])
@pytest.mark.parametrize("step", [1, 2])
def test_environments_that_are_gone_are_named_and_nothing_is_collected(half_seen, lost, step):
    lab = half_seen
    if step == 2:
        collect(lab)
        age(lab.store_path, 5 * HOUR)
    for name in lost:
        shutil.rmtree(f"{lab.store_path}/envs/lab/{name}")
    before = objects(lab)
    last = 3 if step == 2 else 2
    names = f"lab/live@{last}" + " and lab/other@1" * (len(lost) == 2)
    with pytest.raises(
        CollectionStopped, match=f"nothing was collected: the store .* no longer has {names}, "
    ) as caught:
        collect(lab)
    assert f"restore envs/lab/live/{last:08}.json" in caught.value.resolution
    assert caught.value.exit_code == EXIT_DAMAGED
    assert objects(lab) == before
    for key in objects(lab, "roots/"):  # given up
        lab.store.delete(key)
    shutil.rmtree(f"{lab.store_path}/gc", ignore_errors=True)
    assert collect(lab).condemned.packs >= 3


def test_an_environment_whose_versions_were_all_collected_is_not_missed(lab):
    lab.delete(lab.save("gone", {"x": noise("x")}))
    lab.save("live", {"y": noise("y")})
    collect_all(lab)
    assert roots.read(lab.store).newest[EnvName(owner="lab", name="gone")] == 2
    collecting.collect(hiding(lab, "envs/lab/gone/"))
    lab.save("gone", {"x": noise("x2")})
    assert collecting.collect(hiding(lab, "envs/lab/gone/")).condemned.objects == 0
    assert roots.read(lab.store).newest[EnvName(owner="lab", name="gone")] == 3


def test_a_row_of_records_that_is_too_long_to_look_for_stops_it(half_seen, monkeypatch):
    monkeypatch.setattr(marking, "_WIDE", 1)
    with pytest.raises(CollectionStopped, match="no longer lists records of lab/live, which go up to 2"):
        collecting.collect(hiding(half_seen, "envs/lab/live/"))


def test_a_dry_run_uses_the_list_and_does_not_write_it(half_seen):
    lab = half_seen
    before = list(lab.store.list())
    assert collecting.collect(hiding(lab, "envs/lab/live/"), dry_run=True).condemned.objects == 3
    assert list(lab.store.list()) == before


@pytest.mark.parametrize("prefix", ["envs/", "trees/", "packs/", "leases/", "gc/"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_listing_that_fails_deletes_nothing(lab, prefix, step):
    lab.delete(lab.save("gone", {"x": noise("x")}))
    lab.save("live", {"y": noise("y")})
    age(lab.store_path, 8 * DAY)
    if step == 2:
        collect(lab)
        age(lab.store_path, 5 * HOUR)
    context = lab.fresh_context()
    listed = context.store._list

    def failing(asked):
        yield from list(listed(asked))[:1]
        if asked.startswith(prefix):
            raise StoreUnreadable("s", "the second page did not come")

    context.store._list = failing
    before = objects(lab)
    with pytest.raises(StoreUnreadable):
        collecting.collect(context)
    assert objects(lab) == before


def test_a_dead_version_without_data_does_not_stop_it(lab):
    """What is left of a save that found its data collected: a record, deleted, whose tree is gone."""
    version = lab.save("a", {"x": noise("x")})
    lab.delete(version)
    lab.store.delete(layout.tree_key(version.layers[0].tree))
    shutil.rmtree(f"{lab.root}/cache")
    age(lab.store_path, 2 * DAY)
    assert collect(lab).condemned.packs == 1


@pytest.mark.parametrize("part", [epochs.CONDEMNED, epochs.WRITERS, epochs.DOOMED])
def test_a_collection_whose_record_is_damaged_is_given_up(lab, part):
    lab.delete(lab.save("a", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    collect(lab)
    if part == epochs.DOOMED:
        epochs.doom(lab.store, 1, epochs.load(lab.store, 1, epochs.CONDEMNED))
    _break(lab, layout.collection_key(1, part), b"garbage")
    done = collect(lab)
    assert "gave up the collection 1" in done.notes[0]
    assert done.deleted is None
    assert done.condemned.objects == 3
    assert len(objects(lab)) == 4
    age(lab.store_path, 5 * HOUR)
    assert collect(lab).deleted.objects == 3
    assert {key[:11] for key in objects(lab, "gc/")} == {"gc/00000002"}


def test_clocks_that_differ_refuse_it_and_saving_goes_on(lab, monkeypatch):
    lab.delete(lab.save("a", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    monkeypatch.setattr(collecting.time, "time", lambda real=time.time: real() + 6 * MINUTE)
    with pytest.raises(ClockRefused, match=r"the clock of the store .* is 360 s from this machine's") as caught:
        collect(lab)
    assert caught.value.exit_code == EXIT_UNAVAILABLE
    lab.save("b", {"x": noise("x")})


def test_a_clock_that_goes_back_refuses_it(lab):
    lab.delete(lab.save("a", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    context = lab.fresh_context()
    times = iter([time.time() + 30, time.time()])
    context.store.now = lambda: next(times)
    with pytest.raises(ClockRefused, match="went back by 30 s"):
        collecting.collect(context)
    assert objects(lab, "gc/") == []


def test_a_clock_that_was_set_back_is_noticed_by_what_the_store_has(lab):
    lab.delete(lab.save("a", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    collect(lab)
    age(lab.store_path, -HOUR, "gc/")
    with pytest.raises(ClockRefused, match=r"is behind the time at which it wrote gc/00000001\."):
        collect(lab)


def test_of_two_that_begin_at_once_one_says_so(lab):
    lab.delete(lab.save("a", {"x": noise("x")}))
    age(lab.store_path, 8 * DAY)
    context = lab.fresh_context()
    put = context.store.put_if_absent

    def overtaken(key, data):
        if key.endswith(".condemned"):
            collect(lab)
        return put(key, data)

    context.store.put_if_absent = overtaken
    with pytest.raises(CollectionOvertaken, match="another collection"):
        collecting.collect(context)
    assert epochs.current(lab.store).number == 1
    age(lab.store_path, 5 * HOUR)
    assert collect(lab).deleted.objects == 3


def test_large_collections_are_cut_and_no_pack_goes_before_a_tree_that_names_it(lab, monkeypatch):
    for number in range(3):
        lab.delete(lab.save(f"e{number}", {"x": noise(str(number))}))
    age(lab.store_path, 8 * DAY)
    monkeypatch.setattr(epochs, "MAX_OBJECTS", 2)
    seen = []
    for _ in range(6):
        done = collect(lab)
        seen.append((done.condemned.versions, done.condemned.trees, done.condemned.packs))
        age(lab.store_path, 5 * HOUR)
    assert seen == [(2, 0, 0), (1, 1, 0), (0, 2, 0), (0, 0, 2), (0, 0, 1), (0, 0, 0)]
    assert [key for key in objects(lab) if not key.endswith("2.json")] == []


def test_what_dead_processes_left_goes_after_a_day(lab):
    lab.store.put_if_absent("clock/old", b"")
    lab.store.put_if_absent("probe/x/old", b"")
    os.makedirs(f"{lab.store_path}/packs", exist_ok=True)
    with open(f"{lab.store_path}/packs/~tmp.0123", "wb"):
        pass
    age(lab.store_path, 25 * HOUR)
    lab.store.put_if_absent("clock/new", b"")
    with open(f"{lab.store_path}/packs/~tmp.4567", "wb"):
        pass
    assert collect(lab, dry_run=True).leftovers == 0
    assert collect(lab).leftovers == 3
    assert objects(lab, "clock/", "probe/") == ["clock/new"]
    assert os.listdir(f"{lab.store_path}/packs") == ["~tmp.4567"]


def test_damaged_copies_of_trees_on_this_node_do_not_matter(lab):
    live = lab.save("live", {"y": noise("y")})
    lab.delete(lab.save("a", {"x": noise("x")}))
    path = f"{lab.root}/cache/trees/{live.layers[0].tree}"
    if os.geteuid() == 0:
        assert os.path.exists(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"garbage")
    _, second = collect_all(lab)
    assert second.deleted.packs == 1
    assert verify(lab.fresh_context(), data=True).damages == []
