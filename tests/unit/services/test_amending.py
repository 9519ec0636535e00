"""`services/amending`: what is said about versions is true of what came before it, also where others are faster."""

import pytest
from stored_support import Lab

from envkit.errors import Conflict, InvalidInput, NotFound
from envkit.model.ids import EnvName
from envkit.services import amending, environments
from envkit.services.publishing import DataCollected, Writer
from envkit.store import layout, versions
from envkit.store.errors import MovedOn

SCI = EnvName(owner="lab", name="sci")


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    for number in (1, 2, 3):
        lab.save("sci", {f"opt/{number}": b"%d" % number}, description="words")
    return lab


def delete(lab, text):
    amending.delete(lab.context, environments.to_delete(lab.context, text))


def numbers(lab):
    return versions.numbers(lab.store, SCI)


def before_the_next(monkeypatch, action):
    """Have something done between the moment when a record is made up and when it is published, once."""
    real = Writer.publish

    def late(self, draft, *, expected):
        monkeypatch.undo()
        action()
        return real(self, draft, expected=expected)

    monkeypatch.setattr(Writer, "publish", late)


def test_a_tag_is_thought_over_when_its_version_is_deleted_meanwhile(lab, monkeypatch):
    before_the_next(monkeypatch, lambda: delete(lab, "sci@2"))
    with pytest.raises(NotFound, match="lab/sci@2 was deleted: there are 1, 3"):
        amending.tag(lab.context, "sci@2", "stable")
    assert versions.read_history(lab.store, SCI).tags == {}
    before_the_next(monkeypatch, lambda: delete(lab, "sci@3"))
    done = amending.tag(lab.context, "sci", "stable")
    assert (done.number, done.before) == (1, None)


def test_a_tag_that_is_moved_meanwhile_ends_where_the_last_one_put_it(lab, monkeypatch):
    before_the_next(monkeypatch, lambda: amending.tag(lab.context, "sci@1", "stable"))
    done = amending.tag(lab.context, "sci@2", "stable")
    assert (done.number, done.before, done.changed) == (2, 1, True)
    assert environments.resolve(lab.context, "sci@stable").number == 2


def test_what_is_so_already_is_not_said_again(lab):
    amending.tag(lab.context, "sci@1", "stable")
    before = numbers(lab)
    assert not amending.tag(lab.context, "sci@1", "stable").changed
    assert not amending.tag(lab.context, "sci@stable", "stable").changed
    amending.describe(lab.context, "sci", "words")
    assert numbers(lab) == before


def test_somebody_who_is_always_faster_does_not_hold_us(lab, monkeypatch):
    def lose(self, draft, *, expected):
        raise MovedOn(draft.env)

    monkeypatch.setattr(Writer, "publish", lose)
    with pytest.raises(MovedOn, match="lab/sci was changed by somebody else meanwhile"):
        amending.tag(lab.context, "sci", "stable")


def test_undelete_takes_back_the_last_delete_and_then_the_one_before(lab):
    delete(lab, "sci@1")
    delete(lab, "sci")
    with pytest.raises(NotFound, match="no environment lab/sci"):
        environments.resolve(lab.context, "sci")
    assert amending.undelete(lab.context, "sci").numbers == (2, 3)
    assert versions.read_history(lab.store, SCI).live == [2, 3]
    assert amending.undelete(lab.context, "sci").numbers == (1,)
    with pytest.raises(Conflict, match="no version of lab/sci is deleted"):
        amending.undelete(lab.context, "sci")


def test_one_version_of_many_that_were_deleted_comes_back(lab):
    amending.tag(lab.context, "sci@2", "stable")
    delete(lab, "sci")
    assert amending.undelete(lab.context, "sci@3").numbers == (3,)
    assert amending.undelete(lab.context, "sci@stable").numbers == (2,)
    assert versions.read_history(lab.store, SCI).live == [2, 3]
    with pytest.raises(Conflict, match="lab/sci@3 is not deleted"):
        amending.undelete(lab.context, "sci@3")
    with pytest.raises(NotFound, match="lab/sci has no version 9: it has 2 to 3"):
        amending.undelete(lab.context, "sci@9")
    with pytest.raises(NotFound, match="lab/sci has no tag 'other'"):
        amending.undelete(lab.context, "sci@other")
    with pytest.raises(NotFound, match="no environment lab/nothing"):
        amending.undelete(lab.context, "nothing")


def test_collected_versions_are_refused_and_the_others_come_back(lab):
    delete(lab, "sci")
    lab.store.delete(layout.version_key(SCI, 1))
    lab.store.delete(layout.tree_key(versions.load(lab.store, SCI, 2).layers[-1].tree))
    for text in ("sci@1", "sci@2"):
        with pytest.raises(DataCollected, match=rf"lab/{text} cannot be used"):
            amending.undelete(lab.context, text)
    restored = amending.undelete(lab.context, "sci")
    assert (restored.numbers, len(restored.refused)) == ((3,), 2)
    assert versions.read_history(lab.store, SCI).live == [3]
    before = numbers(lab)
    with pytest.raises(DataCollected, match="lab/sci@1 cannot be used: it was collected after it had been deleted"):
        amending.undelete(lab.context, "sci")
    assert numbers(lab) == before


def test_versions_are_not_tagged_removed_or_described_through_others(lab):
    amending.tag(lab.context, "sci@1", "stable")
    for call in (
        lambda: amending.untag(lab.context, "sci@1", "stable"),
        lambda: amending.describe(lab.context, "sci@stable", "text"),
        lambda: amending.tag(lab.context, "sci", "latest"),
        lambda: amending.tag(lab.context, "sci", "1"),
        lambda: amending.untag(lab.context, "sci", "Stable"),
    ):
        with pytest.raises(InvalidInput):
            call()
    for call in (
        lambda: amending.untag(lab.context, "sci", "other"),
        lambda: amending.describe(lab.context, "nothing", "text"),
        lambda: amending.tag(lab.context, "sci@9", "stable"),
        lambda: amending.tag(lab.context, "sci@other", "stable"),
        lambda: amending.tag(lab.context, "nothing", "stable"),
    ):
        with pytest.raises(NotFound):
            call()


def test_a_removed_tag_is_gone_and_can_be_given_again(lab):
    amending.tag(lab.context, "sci@1", "stable")
    removed = amending.untag(lab.context, "sci", "stable")
    assert (removed.number, removed.before) == (0, 1)
    assert amending.tagged_json(removed)["version"] is None
    with pytest.raises(NotFound, match="it has none"):
        environments.resolve(lab.context, "sci@stable")
    assert amending.tag(lab.context, "sci@2", "stable").before is None


def test_the_description_is_shown_with_the_newest_version(lab):
    amending.describe(lab.context, "sci", "better words")
    (item,) = environments.newest(lab.context)
    assert (item.version.number, item.version.description, item.description) == (3, "words", "better words")
    assert environments.newest_json(item)["description"] == "better words"
    assert lab.save("sci", {"opt/4": b"4"}).description == "better words"
