"""`services/publishing`: what a writer may rely on, and what it does when it cannot any more."""

import pytest
from aging import DAY, HOUR, age
from stored_support import Lab, entries

from envkit.errors import EXIT_CONFLICT, Damaged
from envkit.model.ids import EnvName
from envkit.model.version import LayerRef, Version, VersionKind
from envkit.services import collecting, publishing
from envkit.services.publishing import DataCollected, writing
from envkit.services.storing import store_layer
from envkit.store import epochs, layout, leases, versions
from envkit.store.epochs import NOTHING, Objects
from envkit.store.errors import ObjectNotFound, PacksMissing, StoreUnreadable, StoreUnwritable
from envkit.store.leases import LeaseLost

SCI = EnvName(owner="lab", name="sci")


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def _leases(lab):
    return list(lab.store.list("leases/"))


def _draft(*layers, env=SCI):
    return Version(env=env, number=1, kind=VersionKind.ENVIRONMENT, layers=layers)


def _needs(lab, version):
    """Return the keys of trees and packs of a version."""
    with writing(lab.context) as writer:
        writer.check_alive(version)
    trees = [layout.tree_key(layer.tree) for layer in version.layers]
    return trees, [key for key in lab.store.list("packs/")]


def test_a_writer_holds_a_lease_as_long_as_it_writes(lab):
    with writing(lab.context) as writer:
        assert len(_leases(lab)) == 1
        assert writer.epoch == 0
    assert _leases(lab) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_lease_goes_whatever_happens(lab, error):
    with pytest.raises(error), writing(lab.context):
        raise error
    assert _leases(lab) == []


def test_a_lease_that_cannot_be_removed_is_no_failure_of_the_save(lab, caplog):
    def refuse(key):
        raise StoreUnwritable(lab.store.url, f"no {key}")

    with writing(lab.context):
        delete, lab.store.delete = lab.store.delete, refuse
    lab.store.delete = delete
    assert len(_leases(lab)) == 1
    assert "a lease stays in the store until it expires" in caplog.text


def test_leases_are_renewed_in_the_background(lab, monkeypatch):
    monkeypatch.setattr(publishing, "_RENEWAL_SECONDS", 0.01)
    with writing(lab.context):
        first = _leases(lab)
        while len(now := _leases(lab)) < 2 or now[-1].endswith("-00000002"):
            pass
        assert now[0] == first[0]
    assert _leases(lab) == []


def test_a_sign_of_life_that_fails_is_tried_again(lab, monkeypatch, caplog):
    monkeypatch.setattr(publishing, "_RENEWAL_SECONDS", 0.01)
    with writing(lab.context):
        status = lab.store.status

        def fail(key):
            raise StoreUnreadable(lab.store.url, "gone for lunch")

        lab.store.status = fail
        while "could not renew a lease" not in caplog.text:
            pass
        lab.store.status = status
        while len(_leases(lab)) < 2:
            pass
    assert _leases(lab) == []


def test_what_is_written_carries_the_epoch(lab):
    first = lab.layer({"a": b"text" * 100})
    epochs.condemn(lab.store, 7, NOTHING, [])
    second = lab.layer({"a": b"text" * 100})
    assert first.tree != second.tree
    with writing(lab.context) as writer:
        assert writer.epoch == 7


def test_condemned_packs_are_not_reused_and_not_to_be_relied_on(lab):
    version = lab.save("sci", {"a": b"x" * 1000})
    (pack,) = lab.store.list("packs/")
    epochs.condemn(lab.store, 1, Objects(packs=frozenset({pack[-64:]})), [])
    again = lab.layer({"b": b"x" * 1000})
    assert len(list(lab.store.list("packs/"))) == 2
    with writing(lab.context) as writer:
        with pytest.raises(PacksMissing) as caught:
            writer.verify({pack[-64:]: 16})
        assert caught.value.digests == [pack[-64:]]
        with pytest.raises(DataCollected, match="are being deleted"):
            writer.check_alive(version)
        writer.publish(_draft(again), expected=None)


def test_what_was_condemned_a_moment_ago_is_not_stored_under_its_old_name(lab):
    digest, other = "ab" * 32, "cd" * 32
    with writing(lab.context) as writer:
        assert writer.may_store(digest)
    epochs.condemn(lab.store, 1, Objects(packs=frozenset({digest, other}), trees=frozenset({other})), [])
    with writing(lab.context) as writer:
        assert not writer.may_store(digest)
        assert not writer.may_store(other)
    epochs.doom(lab.store, 1, Objects(packs=frozenset({digest})))
    epochs.finish(lab.store, 1)
    with writing(lab.context) as writer:
        assert not writer.may_store(digest)
        assert writer.may_store(other)


@pytest.mark.parametrize("how", ["condemned", "gone"])
def test_a_layer_that_went_with_its_version_cannot_be_built_on(lab, how):
    below = lab.save("other", {"a": b"1"})
    tree = below.layers[0].tree
    if how == "gone":
        lab.store.delete(layout.tree_key(tree))
    else:
        epochs.condemn(lab.store, 1, Objects(trees=frozenset({tree})), [])
    with pytest.raises(DataCollected, match=f"lab/sci cannot be used: its layer {tree[:12]} was deleted") as caught:
        lab.save("sci", {"b": b"2"}, below=below)
    assert caught.value.exit_code == EXIT_CONFLICT
    assert "envkit cp" in caught.value.resolution
    assert versions.numbers(lab.store, SCI) == []


@pytest.mark.parametrize("kind", ["record", "tree", "pack", "short pack", "damaged tree"])
def test_a_version_without_its_data_is_not_alive(lab, kind):
    version = lab.save("sci", {"a": b"x" * 1000})
    (tree,), (pack,) = _needs(lab, version)
    key = {"record": layout.version_key(SCI, 1), "tree": tree, "damaged tree": tree}.get(kind, pack)
    data = lab.store.get(key, limit=1 << 20)
    lab.store.delete(key)
    if " " in kind:
        lab.store.put_if_absent(key, data[:-1])
    with writing(lab.context) as writer, pytest.raises(DataCollected, match="lab/sci@1 cannot be used"):
        writer.check_alive(version)


def test_a_writer_that_lost_its_lease_does_not_publish(lab):
    layer = lab.layer({"a": b"1"})
    with writing(lab.context) as writer:
        (held,) = leases.held(lab.store)
        leases.remove(lab.store, held)
        with pytest.raises(LeaseLost):
            writer.publish(_draft(layer), expected=1)
    assert versions.numbers(lab.store, SCI) == []


def _publish_and(lab, monkeypatch, meanwhile):
    """Publish a version of one layer; `meanwhile` happens between the last check and the record."""
    layer = lab.layer({"a": b"x" * 1000})
    put = versions.publish

    def publish(*args, **more):
        monkeypatch.setattr(versions, "publish", put)
        meanwhile(layer)
        return put(*args, **more)

    with writing(lab.context) as writer:
        monkeypatch.setattr(versions, "publish", publish)
        return writer.publish(_draft(layer), expected=1)


def _expire(lab):
    (held,) = leases.held(lab.store)
    leases.remove(lab.store, held)


def test_a_lease_that_is_lost_while_publishing_is_no_harm_if_everything_is_there(lab, monkeypatch):
    version = _publish_and(lab, monkeypatch, lambda _layer: _expire(lab))
    assert versions.latest(lab.store, SCI) == version


@pytest.mark.parametrize("what", ["tree", "pack", "condemned pack"])
def test_a_version_whose_data_went_while_it_was_published_is_buried(lab, monkeypatch, what):
    def collected(layer):
        _expire(lab)
        (pack,) = lab.store.list("packs/")
        if what == "tree":
            lab.store.delete(layout.tree_key(layer.tree))
        elif what == "pack":
            lab.store.delete(pack)
        else:
            epochs.condemn(lab.store, 1, Objects(packs=frozenset({pack[-64:]})), [])

    with pytest.raises(LeaseLost, match="has lost its hold") as caught:
        _publish_and(lab, monkeypatch, collected)
    assert "repeat the command" in caught.value.resolution
    assert versions.latest(lab.store, SCI) is None
    assert versions.load(lab.store, SCI, 2).deletes == (1,)


def test_a_collection_that_did_not_wait_is_noticed(lab, monkeypatch):
    """The lease holds, but a collection has made up its mind without regard to it: its listing was short."""

    def overtaken(_layer):
        (pack,) = lab.store.list("packs/")
        epochs.condemn(lab.store, 1, Objects(packs=frozenset({pack[-64:]})), [])
        epochs.doom(lab.store, 1, Objects(packs=frozenset({pack[-64:]})))

    with pytest.raises(LeaseLost):
        _publish_and(lab, monkeypatch, overtaken)
    assert versions.latest(lab.store, SCI) is None


def test_versions_that_were_brought_back_without_their_data_are_buried_again(lab, monkeypatch):
    version = lab.save("sci", {"a": b"x" * 1000})
    lab.delete(version)
    (tree,), _ = _needs(lab, version)
    restore = Version(env=SCI, number=1, kind=VersionKind.RESTORE, restores=(1,))
    put = versions.publish
    with writing(lab.context) as writer:
        writer.check_alive(version)

        def publish(*args, **more):
            monkeypatch.setattr(versions, "publish", put)
            _expire(lab)
            lab.store.delete(tree)
            return put(*args, **more)

        monkeypatch.setattr(versions, "publish", publish)
        with pytest.raises(LeaseLost):
            writer.publish(restore, expected=None)
    assert versions.latest(lab.store, SCI) is None


def test_of_versions_that_were_brought_back_those_with_a_record_are_buried_again(lab, monkeypatch):
    for text in (b"1", b"2"):
        lab.save("sci", {"a": text * 1000})
    for number in (1, 2):
        lab.delete(versions.load(lab.store, SCI, number))
    restore = Version(env=SCI, number=1, kind=VersionKind.RESTORE, restores=(1, 2))
    put = versions.publish
    with writing(lab.context) as writer:
        for number in (1, 2):
            writer.check_alive(versions.load(lab.store, SCI, number))

        def publish(*args, **more):
            monkeypatch.setattr(versions, "publish", put)
            _expire(lab)
            for key in [*lab.store.list("packs/"), layout.version_key(SCI, 1)]:
                lab.store.delete(key)
            return put(*args, **more)

        monkeypatch.setattr(versions, "publish", publish)
        with pytest.raises(LeaseLost):
            writer.publish(restore, expected=None)
    assert versions.latest(lab.store, SCI) is None
    assert versions.load(lab.store, SCI, 6).deletes == (2,)


def test_a_damaged_record_of_a_collection_is_told_to_writers(lab):
    lab.store.put_if_absent("gc/00000001.condemned", b"garbage")
    with pytest.raises(Damaged, match=r"gc/00000001\.condemned in the store"), writing(lab.context):
        pass
    assert _leases(lab) == []


def test_a_save_finds_what_its_first_try_stored_in_the_same_epoch(lab):
    listed, contents = entries({"a": b"x" * 100_000})
    stored = []
    for _ in range(2):
        with writing(lab.context) as writer:
            stored.append(store_layer(lab.context, writer, listed, lambda entry: [(0, contents[entry.path])]))
    assert stored[0].tree == stored[1].tree
    assert len(list(lab.store.list("packs/"))) == 1


def test_a_deleted_pack_that_this_machine_still_knows_of_is_stored_again(lab):
    lab.delete(lab.save("sci", {"a": b"x" * 1000}))
    age(lab.store_path, 8 * DAY)
    collecting.collect(lab.fresh_context())
    age(lab.store_path, 5 * HOUR)
    assert collecting.collect(lab.fresh_context()).deleted.packs == 1
    version = lab.save("sci", {"b": b"x" * 1000})
    _needs(lab, version)


def test_a_layer_reference_that_leads_nowhere_is_refused(lab):
    with writing(lab.context) as writer, pytest.raises(DataCollected):
        writer.publish(_draft(LayerRef(tree="ab" * 32, entries=1, size=1, stored=1)), expected=None)
    with pytest.raises(ObjectNotFound):
        lab.store.get(layout.version_key(SCI, 1), limit=1 << 20)
