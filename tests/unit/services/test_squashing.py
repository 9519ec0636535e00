"""`services/squashing`: the same files with fewer layers, and no data written."""

import pytest
from stored_support import GONE, Lab

from envkit.errors import Conflict, InvalidInput
from envkit.model.tree import Kind
from envkit.model.view import View, stacked
from envkit.services import cloning, squashing
from envkit.services.contents import read_file
from envkit.services.layers import layer_tree
from envkit.services.publishing import Writer
from envkit.store import layout, versions
from envkit.store.errors import PacksMissing

pytestmark = pytest.mark.root


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    base = lab.save("base/tiny", {"etc/a": b"base", "usr/doc/a": b"doc", "usr/doc/b": b"doc"})
    first = lab.save("sci", {"opt/x": b"x" * 200_000, "usr/doc": GONE, "opt/l1": b"link"}, below=base, base=str(base))
    second = lab.save(
        "sci", {"opt/x": GONE, "opt/y": b"y" * 300_000, "usr/doc/new": b"new"}, below=first, base=str(base)
    )
    lab.save("sci", {"opt/l1": GONE, "opt/z": b"z", "opt/zz": b"last"}, below=second, base=str(base))
    return lab


def files(lab, version):
    """Return every path of a version with its content, all chunks read from the store."""
    trees = [layer_tree(lab.context, layer.tree) for layer in version.layers]
    view = stacked(View(), trees)
    owners = {}
    for tree in trees:
        for entry in tree.entries:
            owners[entry.path] = (tree, entry)
    return {
        path: read_file(lab.context, *owners[path]) if entry.kind is Kind.FILE else entry.kind
        for path, entry in view.entries.items()
    }


def packs(lab):
    return sorted(lab.store.list("packs/"))


def test_a_squashed_version_has_the_same_files_in_one_layer_on_the_base(lab):
    before = packs(lab)
    source = versions.latest(lab.store, lab.context.ref("sci").env)
    done = squashing.squash(lab.context, "sci")
    assert done.source == source
    assert (done.version.number, done.version.parent, done.version.message) == (4, "lab/sci@3", "squash of @3")
    assert done.version.layers[0] == source.layers[0]
    assert (len(source.layers), len(done.version.layers)) == (4, 2)
    assert files(lab, done.version) == files(lab, source)
    assert packs(lab) == before
    tree = layer_tree(lab.context, done.version.layers[1].tree)
    assert {entry.path for entry in tree.entries if entry.kind is Kind.WHITEOUT} == set()
    assert {entry.path for entry in tree.entries if entry.opaque} == {b"usr/doc"}
    assert sum(chunk.size for chunk in tree.chunks) < 400_000, "what was deleted is not kept"
    assert 0 < done.version.layers[1].stored < 5000


def test_there_is_nothing_to_squash_in_one_layer_or_none(lab):
    squashing.squash(lab.context, "sci")
    with pytest.raises(Conflict, match="lab/sci@4 has one layer on its base: there is nothing to squash"):
        squashing.squash(lab.context, "sci")
    cloning.clone(lab.context, "base/tiny", "plain")
    with pytest.raises(Conflict, match="lab/plain@1 has no layer on its base"):
        squashing.squash(lab.context, "plain")
    with pytest.raises(Conflict, match="base/tiny@1 has no layer on its base"):
        squashing.squash(lab.context, "base/tiny")
    with pytest.raises(InvalidInput, match="only the latest one is squashed"):
        squashing.squash(lab.context, "sci@2")


def test_all_layers_of_a_base_stay(lab):
    base = lab.save("base/tall", {"etc/a": b"1"}, {"etc/b": b"2"}, {"etc/c": b"3"})
    version = lab.save("tall", {"opt/a": b"4"}, {"opt/a": GONE, "opt/b": b"5"}, below=base, base=str(base))
    done = squashing.squash(lab.context, "tall").version
    assert done.layers[:3] == base.layers
    assert len(done.layers) == 4
    assert files(lab, done) == files(lab, version)


@pytest.mark.parametrize("base", [None, "base/gone@1", "base/gone", "not a name", "lab/sci@99999999"])
def test_a_base_that_is_gone_counts_as_one_layer(lab, base):
    version = lab.save("odd", {"a": b"1"}, {"b": b"2"}, {"b": GONE, "c": b"3"}, base=base)
    done = squashing.squash(lab.context, "odd").version
    assert done.layers[0] == version.layers[0]
    assert len(done.layers) == 2
    assert files(lab, done) == files(lab, version)


def test_lost_packs_are_noticed_before_there_is_a_version(lab):
    source = versions.latest(lab.store, lab.context.ref("sci").env)
    tree = layer_tree(lab.context, source.layers[2].tree)
    lab.store.delete(layout.pack_key(tree.chunks[0].pack.hex()))
    with pytest.raises(PacksMissing):
        squashing.squash(lab.context, "sci")
    assert versions.latest(lab.store, source.env) == source


def test_what_is_saved_meanwhile_is_told(lab, monkeypatch):
    real = Writer.publish

    def late(self, draft, *, expected):
        monkeypatch.undo()
        lab.save("sci", {"opt/late": b"late"}, message="late")
        return real(self, draft, expected=expected)

    monkeypatch.setattr(Writer, "publish", late)
    with pytest.raises(Conflict, match="lab/sci@4 was saved meanwhile by alice"):
        squashing.squash(lab.context, "sci")
