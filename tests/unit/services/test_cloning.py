"""`services/cloning`: new versions of layers that are there."""

import pytest
from stored_support import Lab

from envkit.errors import Conflict, InvalidInput, NotFound
from envkit.model.version import Finding, Report, VersionKind
from envkit.services import amending, cloning, environments
from envkit.services.publishing import Writer
from envkit.store import versions


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    base = lab.save("base/tiny", {"etc/base": b"base"}, description="busybox")
    report = Report(ruleset=1, findings=(Finding(rule="R1", path="/x", action="drop"),))
    first = lab.save("bob/sci", {"opt/1": b"1"}, below=base, base=str(base), description="words", report=report)
    lab.save("bob/sci", {"opt/2": b"2"}, below=first, base=str(base))
    return lab


def test_a_clone_has_the_layers_and_says_where_it_is_from(lab):
    source = environments.resolve(lab.context, "bob/sci@1")
    clone = cloning.clone(lab.context, "bob/sci@1", "mine")
    assert str(clone) == "lab/mine@1"
    assert (clone.layers, clone.base, clone.report) == (source.layers, source.base, source.report)
    assert (clone.parent, clone.origin, clone.author) == ("bob/sci@1", "bob/sci@1", "lab")
    assert (clone.description, clone.message) == ("words", "clone of bob/sci@1")
    assert cloning.clone(lab.context, "bob/sci", "bob/other", description="own").description == "own"
    amending.describe(lab.context, "bob/sci", "newer")
    assert cloning.clone(lab.context, "bob/sci@1", "third").description == "newer"


def test_a_base_becomes_an_environment(lab):
    clone = cloning.clone(lab.context, "base/tiny", "plain")
    assert (clone.kind, clone.base, clone.description) == (VersionKind.ENVIRONMENT, "base/tiny@1", "busybox")


def test_names_that_are_taken_or_cannot_be_are_refused(lab):
    cloning.clone(lab.context, "bob/sci", "mine")
    with pytest.raises(Conflict, match="the environment lab/mine exists"):
        cloning.clone(lab.context, "bob/sci", "mine")
    for name in ("mine@2", "new@stable", "base/new", "New"):
        with pytest.raises(InvalidInput):
            cloning.clone(lab.context, "bob/sci", name)
    with pytest.raises(NotFound, match="bob/sci has no version 7"):
        cloning.clone(lab.context, "bob/sci@7", "new")
    amending.delete(lab.context, environments.to_delete(lab.context, "mine"))
    assert cloning.clone(lab.context, "bob/sci", "mine").number == 3


def test_a_rollback_is_a_new_version_with_the_old_layers(lab):
    first = environments.resolve(lab.context, "bob/sci@1")
    back = cloning.rollback(lab.context, "bob/sci@1")
    assert (back.number, back.layers, back.report) == (3, first.layers, first.report)
    assert (back.parent, back.origin, back.message) == ("bob/sci@1", None, "rollback to @1")
    assert versions.read_history(lab.store, back.env).live == [1, 2, 3]
    assert cloning.rollback(lab.context, "bob/sci@2", message="again").message == "again"


def test_there_is_no_rollback_to_what_is_there(lab):
    for text, words in (
        ("bob/sci@2", "bob/sci@2 is the latest version already"),
        ("bob/sci@1", "bob/sci@1 is what the latest version, bob/sci@3, is already"),
    ):
        with pytest.raises(Conflict, match=words):
            cloning.rollback(lab.context, text)
        if text.endswith("2"):
            cloning.rollback(lab.context, "bob/sci@1")
    with pytest.raises(InvalidInput, match="does not say where to go back to"):
        cloning.rollback(lab.context, "bob/sci")
    with pytest.raises(NotFound):
        cloning.rollback(lab.context, "bob/sci@9")


@pytest.mark.parametrize(
    "call", [lambda c: cloning.rollback(c, "bob/sci@1"), lambda c: cloning.clone(c, "bob/sci", "n")]
)
def test_what_is_saved_meanwhile_is_told(lab, monkeypatch, call):
    real = Writer.publish

    def late(self, draft, *, expected):
        monkeypatch.undo()
        lab.save(str(draft.env), {"opt/late": b"late"}, message="late")
        return real(self, draft, expected=expected)

    monkeypatch.setattr(Writer, "publish", late)
    with pytest.raises(Conflict, match="was saved meanwhile by alice"):
        call(lab.context)
