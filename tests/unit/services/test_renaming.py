"""`services/renaming`: all of a history has another name, or nothing has; whatever others do meanwhile."""

import pytest
from stored_support import CREATED, Lab

from envkit.errors import Conflict, InvalidInput, NotFound
from envkit.model.ids import EnvName
from envkit.services import amending, environments, renaming
from envkit.services.publishing import Writer
from envkit.store import layout, versions
from envkit.store.errors import MovedOn

OLD, NEW = EnvName(owner="lab", name="old"), EnvName(owner="lab", name="new")


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def full(lab):
    """A lab whose environment `old` has a history with everything in it."""
    base = lab.save("base/tiny", {"etc/base": b"base"})
    first = lab.save("old", {"opt/1": b"1"}, below=base, message="one", base=str(base), description="first words")
    second = lab.save("old", {"opt/2": b"2"}, below=first, message="two", base=str(base))
    amending.tag(lab.context, "old@1", "stable")
    lab.save("old", {"opt/3": b"3"}, below=second, message="three", base=str(base), origin="bob/x@9")
    amending.describe(lab.context, "old", "last words")
    for text in ("old@2", "old@4"):
        amending.delete(lab.context, environments.to_delete(lab.context, text))
    amending.undelete(lab.context, "old@4")
    return lab


def rename(lab, old="old", new="new"):
    return renaming.rename(lab.fresh_context(), old, new)


def look(lab, env):
    """Return a history as people see it, without the names of its environment."""
    history = versions.read_history(lab.store, env)
    rows = [
        (r.number, r.kind, r.layers, r.message, r.author, r.created, r.deletes, r.restores, r.tag, r.target, r.report)
        for r in history.records
    ]
    return rows, history.live, history.tags, history.description


def test_everything_moves_and_the_old_name_says_where(full):
    before = look(full, OLD)
    assert before[1:] == ([1, 4], {"stable": 1}, "last words")
    result = rename(full)
    assert (result.old, result.new, result.already) == (OLD, NEW, False)
    assert look(full, NEW) == before
    for text in ("old", "old@1", "old@2", "old@stable"):
        with pytest.raises(NotFound) as caught:
            environments.resolve(full.context, text)
        assert caught.value.brief == "lab/old was renamed to lab/new"
    for text in ("old", "old@1", "old@2"):
        with pytest.raises(Conflict, match=r"lab/old.* was not deleted but renamed: use lab/new"):
            amending.undelete(full.context, text)
    assert environments.resolve(full.context, "new@stable").number == 1
    assert amending.undelete(full.context, "new@2").numbers == (2,)


def test_copies_are_versions_of_the_new_name_and_say_where_they_are_from(full):
    rename(full)
    history = versions.read_history(full.store, NEW)
    assert [(v.parent, v.base, v.origin) for v in history.versions.values()] == [
        ("base/tiny@1", "base/tiny@1", "lab/old@1"),
        ("lab/new@1", "base/tiny@1", "lab/old@2"),
        ("lab/new@2", "base/tiny@1", "bob/x@9"),
    ]
    tokens = {r.token for env in (OLD, NEW) for r in versions.read_history(full.store, env).records}
    assert len(tokens) == 2 * len(history.records) + 1


def test_the_newest_record_comes_first(full, monkeypatch):
    placed = []
    real = versions.place
    monkeypatch.setattr(versions, "place", lambda store, version: placed.append(version.number) or real(store, version))
    rename(full)
    assert placed == [8, 7, 6, 5, 4, 3, 2, 1]


def test_renaming_again_is_done_already_and_to_another_name_is_not_found(full):
    rename(full)
    before = look(full, NEW)
    assert rename(full).already
    assert look(full, NEW) == before
    with pytest.raises(NotFound, match="lab/old was renamed to lab/new"):
        rename(full, "old", "third")
    rename(full, "new", "third")
    assert look(full, EnvName(owner="lab", name="third")) == before


@pytest.mark.parametrize("count", range(1, 8))
def test_what_an_interrupted_rename_left_is_finished(full, count):
    before = look(full, OLD)
    history = versions.read_history(full.store, OLD)
    for record in sorted(history.records, key=lambda r: -r.number)[:count]:
        versions.place(full.store, renaming._copy_of(record, NEW))
    assert environments.resolve(full.context, "old@stable").number == 1
    rename(full)
    assert look(full, NEW) == before
    assert versions.latest(full.store, OLD) is None


def test_names_that_are_or_were_used_are_refused(full):
    full.save("new", {"opt/x": b"x"})
    before = look(full, OLD), look(full, NEW)
    with pytest.raises(Conflict, match="lab/new exists"):
        rename(full)
    assert (look(full, OLD), look(full, NEW)) == before
    amending.delete(full.context, environments.to_delete(full.context, "new"))
    with pytest.raises(Conflict, match="the name lab/new was used before, and its version numbers stay taken"):
        rename(full)
    rename(full, "old", "third")
    with pytest.raises(Conflict, match="the name lab/old was used before"):
        rename(full, "third", "old")


def test_what_cannot_be_renamed_is_refused(full):
    for old, new, problem in (
        ("old", "old", "lab/old is its name already"),
        ("old@1", "new", "invalid name 'old@1'"),
        ("old", "new@stable", "invalid name 'new@stable'"),
        ("base/tiny", "new", "a base stays a base"),
        ("old", "base/new", "a base stays a base"),
    ):
        with pytest.raises(InvalidInput, match=problem):
            rename(full, old, new)
    with pytest.raises(NotFound, match="no environment lab/nothing"):
        rename(full, "nothing", "new")


def test_a_base_keeps_being_one(full):
    rename(full, "base/tiny", "base/small")
    assert environments.resolve(full.context, "base/small").env.is_base
    with pytest.raises(NotFound, match="base/tiny was renamed to base/small"):
        environments.resolve(full.context, "base/tiny")


def test_what_is_saved_meanwhile_is_told_and_taken_along_the_next_time(full, monkeypatch):
    real = Writer.publish

    def late(self, draft, *, expected):
        if draft.renamed is not None:
            monkeypatch.undo()
            full.save("old", {"opt/late": b"late"}, message="late")
        return real(self, draft, expected=expected)

    monkeypatch.setattr(Writer, "publish", late)
    with pytest.raises(Conflict, match="somebody else changed lab/old meanwhile"):
        rename(full)
    assert environments.resolve(full.context, "old").message == "late"
    assert environments.resolve(full.context, "new").message == "three"
    before = look(full, OLD)
    rename(full)
    assert look(full, NEW) == before
    assert environments.resolve(full.context, "new").message == "late"


def test_two_that_both_went_on_are_left_alone(full):
    for record in reversed(versions.read_history(full.store, OLD).records):
        versions.place(full.store, renaming._copy_of(record, NEW))
    full.save("new", {"opt/here": b"1"}, message="here")
    full.save("old", {"opt/there": b"2"}, message="there")
    before = look(full, OLD), look(full, NEW)
    with pytest.raises(Conflict, match="lab/new@9 is no version of lab/old"):
        rename(full)
    assert (look(full, OLD), look(full, NEW)) == before


def test_a_new_name_that_went_on_alone_is_finished(full):
    for record in reversed(versions.read_history(full.store, OLD).records):
        versions.place(full.store, renaming._copy_of(record, NEW))
    amending.tag(full.context, "new", "fresh")
    before = look(full, NEW)
    rename(full)
    assert look(full, NEW) == before
    with pytest.raises(NotFound, match="lab/old was renamed to lab/new"):
        environments.resolve(full.context, "old")


def test_somebody_who_takes_the_name_at_the_same_moment_keeps_it(full, monkeypatch):
    """The other one saves its first version when ours had looked, and before ours has put that number."""
    real = versions.place

    def race(store, version):
        placed = real(store, version)
        if version.number == 8:
            other = versions.load(store, OLD, 1).replace(env=NEW, message="theirs", layers=(full.layer({"o": b"o"}),))
            assert real(store, other)
        return placed

    monkeypatch.setattr(versions, "place", race)
    before = look(full, OLD)
    with pytest.raises(Conflict, match="lab/new@1 is no version of lab/old: somebody else took the name lab/new"):
        rename(full)
    assert look(full, OLD) == before
    history = versions.read_history(full.store, NEW)
    assert (history.live, history.versions[1].message) == ([1], "theirs")


def test_the_same_command_given_twice_at_once_is_one_rename(full, monkeypatch):
    real = Writer.publish

    def race(self, draft, *, expected):
        if draft.renamed is not None:
            monkeypatch.undo()
            rename(full)
        return real(self, draft, expected=expected)

    monkeypatch.setattr(Writer, "publish", race)
    before = look(full, OLD)
    rename(full)
    assert look(full, NEW) == before


def test_a_deleted_version_whose_data_is_gone_stays_behind(full):
    tree = versions.load(full.store, OLD, 2).layers[-1].tree
    later = versions.load(full.store, OLD, 4)
    lone = full.save("old", {"opt/lone": b"lone"}, message="lone")
    amending.delete(full.context, environments.to_delete(full.context, f"old@{lone.number}"))
    full.store.delete(layout.tree_key(lone.layers[-1].tree))
    rename(full)
    history = versions.read_history(full.store, NEW)
    assert lone.number not in history.versions
    assert lone.number in history.deleted
    assert (history.live, tree in {layer.tree for layer in later.layers}) == ([1, 4], True)


def test_a_live_version_whose_data_is_gone_keeps_the_name(full):
    full.store.delete(layout.tree_key(versions.load(full.store, OLD, 4).layers[-1].tree))
    with pytest.raises(Conflict, match="its layer"):
        rename(full)
    assert versions.latest(full.store, OLD).number == 4


def test_the_order_of_the_last_steps_is_what_keeps_a_late_save(full):
    """The control for the test above: the same tombstone without its condition swallows the late version."""
    expected = versions.next_number(full.store, OLD)
    live = versions.read_history(full.store, OLD).live
    draft = versions.tombstone(full.store, OLD, live, author="lab", created=CREATED).replace(renamed=NEW)
    full.save("old", {"opt/late": b"late"})
    with pytest.raises(MovedOn):
        versions.publish(full.store, draft, expected=expected)
    assert versions.publish(full.store, draft, expected=None).number == expected + 1
