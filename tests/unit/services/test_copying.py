"""`services/copying`: a copy is whole and verified, sends what is missing and no more, and can be repeated."""

import hashlib
import os
import random
import shutil

import pytest
from stored_support import GONE, Lab

from envkit.content import treefile
from envkit.content.errors import DamagedTree
from envkit.content.pack import HEADER_SIZE, header
from envkit.errors import EXIT_DAMAGED, InvalidInput, NotFound
from envkit.model.ids import EnvName
from envkit.model.merge import merge
from envkit.services import copying
from envkit.services.contents import read_file
from envkit.services.layers import layer_tree
from envkit.services.moving import DamagedSource
from envkit.store import epochs, versions
from envkit.store.errors import ObjectNotFound
from envkit.store.objects import get_tree
from envkit.store.open import init_store, read_format


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "here")


@pytest.fixture
def there(tmp_path):
    """The other store, as a node of its own sees it."""
    return Lab(tmp_path / "there")


def copy(lab, there, text="sci", **how):
    return copying.copy(lab.context, text, there.store_path, **how)


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def some_files(seed, count=40, size=60_000):
    return {f"opt/{seed}/{n:03}": noise(seed * 1000 + n, size) for n in range(count)}


def everything(lab, version):
    """Return all files of a version with their contents, read from its store alone."""
    shutil.rmtree(f"{lab.root}/cache", ignore_errors=True)
    found = {}
    for layer in version.layers:
        tree = layer_tree(lab.context, layer.tree)
        for entry in merge([tree.entries]).values():
            found[layer.tree, entry.path] = (entry, read_file(lab.context, tree, entry))
    return {path: (entry.kind, entry.mode, data) for (_, path), (entry, data) in found.items()}


def objects(lab, kind):
    found = {}
    for place, _, names in os.walk(f"{lab.store_path}/{kind}"):
        for name in names:
            with open(f"{place}/{name}", "rb") as file:
                found[name] = file.read()
    return found


def resolved(lab, text):
    return versions.resolve(lab.store, lab.context.ref(text))


def test_a_copy_is_the_same_and_needs_nothing_of_its_source(lab, there):
    base = lab.save("base/tiny", some_files(1), message="base")
    saved = lab.save(
        "sci", {"opt/1/000": GONE, "opt/x": b"1"}, below=base, message="why", author="bob", base="base/tiny@1"
    )
    expected = everything(lab, saved)
    result = copy(lab, there)
    os.rename(lab.store_path, f"{lab.store_path}-away")
    made = resolved(there, "sci")
    assert (made.number, made.message, made.author, made.created) == (1, "why", "bob", saved.created)
    assert (made.base, made.parent, made.arch, made.kind) == ("base/tiny@1", None, "x86_64", saved.kind)
    assert everything(there, made) == expected
    assert [(v.source, v.copy, v.already) for v in result.versions] == [(saved, made, False)]


def test_packs_that_are_needed_whole_go_as_they_are_and_layers_keep_their_digests(lab, there):
    saved = lab.save("sci", some_files(1), some_files(2))
    result = copy(lab, there)
    assert objects(there, "packs") == objects(lab, "packs")
    assert resolved(there, "sci").layers == saved.layers
    sent = sum(map(len, (*objects(there, "packs").values(), *objects(there, "trees").values())))
    assert result.sent == sent


def test_a_copy_says_where_it_is_from_and_is_made_once(lab, there):
    saved = lab.save("sci", {"a": b"1"})
    first = copy(lab, there)
    (made,) = first.versions
    assert made.copy.origin == f"lab/sci@1 in store {read_format(lab.store).id}"
    before = objects(there, "")
    again = copy(lab, there)
    assert [(v.copy, v.already) for v in again.versions] == [(made.copy, True)]
    assert again.sent == 0
    assert objects(there, "") == before
    back = copy(there, lab)
    assert [(v.copy, v.already) for v in back.versions] == [(saved, True)]
    assert versions.numbers(lab.store, saved.env) == [1]


def test_a_copy_that_was_deleted_is_made_again(lab, there):
    lab.save("sci", {"a": b"1"})
    copy(lab, there)
    there.delete(resolved(there, "sci"))
    (made,) = copy(lab, there).versions
    assert (made.already, made.copy.number) == (False, 3)


def test_only_missing_chunks_are_sent(lab, there):
    shared = some_files(1, count=90)
    lab.save("first", shared)
    copy(lab, there, "first")
    before = set(objects(there, "packs"))
    new = some_files(2, count=10)
    lab.save("second", shared | new)
    result = copy(lab, there, "second")
    sent = {name: data for name, data in objects(there, "packs").items() if name not in before}
    trees = sum(map(len, objects(there, "trees").values()))
    assert 0 < sum(map(len, sent.values())) < 1.5 * sum(map(len, new.values()))
    assert result.sent <= sum(map(len, sent.values())) + trees
    assert everything(there, resolved(there, "second")) == everything(lab, resolved(lab, "second"))


def test_what_others_put_there_is_not_sent(lab, there):
    files = some_files(1, count=60)
    there.save("own", files, message="nothing to do with the copy")
    before = objects(there, "packs")
    # Other neighbours at the end, so that the pack as a whole is another one.
    lab.save("sci", files | {"zz": noise(9, 300_000)})
    result = copy(lab, there)
    added = {name: data for name, data in objects(there, "packs").items() if name not in before}
    assert sum(map(len, added.values())) < 700_000
    assert result.sent < 800_000
    assert everything(there, resolved(there, "sci")) == everything(lab, resolved(lab, "sci"))


def test_frames_of_half_needed_packs_go_into_new_packs_unchanged(lab, there):
    lab.save("all", some_files(1, count=80))
    # Shares chunks with `all` and has none of its own, so that its tree needs a part of that pack.
    lab.save("part", {name: data for name, data in some_files(1, count=80).items() if name < "opt/1/040"})
    chunks = layer_tree(lab.context, resolved(lab, "part").layers[0].tree).chunks
    copy(lab, there, "part")
    made = resolved(there, "part")
    assert made.layers[0].tree != resolved(lab, "part").layers[0].tree
    sizes = {name: len(data) for name, data in objects(lab, "packs").items()}
    assert sum(map(len, objects(there, "packs").values())) < 0.7 * sum(sizes.values())
    source = objects(lab, "packs")
    frames = {c.digest: source[c.pack.hex()][c.offset : c.offset + c.stored] for c in chunks}
    target = objects(there, "packs")
    for chunk in layer_tree(there.context, made.layers[0].tree).chunks:
        assert target[chunk.pack.hex()][chunk.offset : chunk.offset + chunk.stored] == frames[chunk.digest]
    for name, data in target.items():
        assert hashlib.sha256(data).hexdigest() == name
        assert data[:HEADER_SIZE] == header(0)
    assert everything(there, made) == everything(lab, resolved(lab, "part"))


def test_a_history_is_copied_in_order_with_its_parents(lab, there):
    base = lab.save("base/tiny", {"etc/x": b"x"})
    first = lab.save("sci", {"a": b"1"}, below=base, message="one")
    second = lab.save("sci", {"a": b"2"}, below=first, message="two")
    third = lab.save("sci", {"a": b"3"}, below=second, message="three")
    lab.delete(second)
    copy(lab, there, "base/tiny")
    result = copy(lab, there, history=True)
    assert [(str(v.source), str(v.copy)) for v in result.versions] == [
        ("lab/sci@1", "lab/sci@1"),
        (str(third), "lab/sci@2"),
    ]
    made = [item.version for item in versions.history(there.store, first.env)]
    assert [version.message for version in made] == ["one", "three"]
    assert [version.parent for version in made] == ["base/tiny@1", None]
    lab.save("sci", {"a": b"4"}, below=third, message="four")
    more = copy(lab, there, history=True)
    assert [v.already for v in more.versions] == [True, True, False]
    assert more.versions[-1].copy.parent == "lab/sci@2"


def test_a_copy_takes_another_name_and_the_next_free_number(lab, there):
    lab.save("sci", {"a": b"1"})
    there.save("paper", {"b": b"mine"})
    assert str(copy(lab, there, name="paper").versions[0].copy) == "lab/paper@2"
    assert str(copy(lab, there, name="bob/paper").versions[0].copy) == "bob/paper@1"
    assert str(copy(lab, there).versions[0].copy) == "lab/sci@1"


@pytest.mark.parametrize("name", ["x@1", "base/x", "A B"])
def test_names_that_cannot_be_are_refused(lab, there, name):
    lab.save("sci", {"a": b"1"})
    with pytest.raises(InvalidInput):
        copy(lab, there, name=name)
    assert objects(there, "envs") == {}


def test_the_same_store_is_refused(lab):
    lab.save("sci", {"a": b"1"})
    with pytest.raises(InvalidInput, match="is the store that the environment is in already"):
        copy(lab, lab)


def test_what_does_not_exist_is_told(lab, there):
    lab.save("sci", {"a": b"1"})
    for text in ("other", "sci@2"):
        with pytest.raises(NotFound):
            copy(lab, there, text)
    with pytest.raises(InvalidInput, match="--history copies all versions"):
        copy(lab, there, "sci@1", history=True)


def _damage(path, change):
    os.chmod(path, 0o600)
    with open(path, "rb") as file:
        data = bytearray(file.read())
    change(data)
    with open(path, "wb") as file:
        file.write(data)


def _flip(data):
    data[len(data) // 2] ^= 4


def _path(lab, kind, digest):
    return f"{lab.store_path}/{kind}/{digest[:2]}/{digest}"


@pytest.mark.parametrize("half", [False, True], ids=["whole", "frames"])
@pytest.mark.parametrize("change", [_flip, lambda data: data.__delitem__(slice(-1, None))], ids=["bit", "cut"])
def test_a_damaged_pack_is_named_and_nothing_becomes_visible(lab, there, half, change):
    files = some_files(1, count=40)
    lab.save("sci", files)
    name = "sci"
    if half:
        lab.save("part", {path: data for path, data in files.items() if path > "opt/1/003"})
        name = "part"
    (pack,) = {c.pack for c in layer_tree(lab.context, resolved(lab, "sci").layers[0].tree).chunks}
    _damage(_path(lab, "packs", pack.hex()), change)
    with pytest.raises(Exception) as caught:
        copy(lab, there, name)
    assert caught.value.exit_code == EXIT_DAMAGED
    assert pack.hex() in caught.value.brief
    assert lab.store_path in caught.value.brief
    assert objects(there, "envs") == {}
    assert objects(there, "trees") == {}


def test_a_chunk_that_is_another_one_in_its_place_is_named(lab, there):
    """A pack whose bytes are those of its name, and a tree that lies about what is in it."""
    lab.save("sci", some_files(1))
    layer = resolved(lab, "sci").layers[0]
    tree = layer_tree(lab.context, layer.tree)
    lie = [
        type(c)(tree.chunks[0].digest if n else c.digest, c.size, c.pack, c.offset, c.stored)
        for n, c in enumerate(tree.chunks[:2])
    ]
    forged = type(tree)(tree.format, tree.entries, [*lie, *tree.chunks[2:]], tree.epoch)
    digest, data = treefile.encode(forged)
    lab.store.put_if_absent(f"trees/{digest[:2]}/{digest}", data)
    lab.save("forged", layer.replace(tree=digest))
    with pytest.raises(DamagedSource, match="its content has another digest") as caught:
        copy(lab, there, "forged")
    assert tree.chunks[0].digest.hex() in caught.value.brief
    assert objects(there, "envs") == {}
    # Also where the pack is there already and could be taken for good.
    copy(lab, there, "sci")
    before = objects(there, "")
    with pytest.raises(DamagedSource):
        copy(lab, there, "forged")
    assert objects(there, "") == before


def test_a_missing_pack_and_a_damaged_tree_name_the_store(lab, there):
    lab.save("sci", some_files(1))
    layer = resolved(lab, "sci").layers[0]
    (pack,) = {c.pack.hex() for c in layer_tree(lab.context, layer.tree).chunks}
    os.rename(_path(lab, "packs", pack), f"{lab.root}/away")
    with pytest.raises(ObjectNotFound, match=f"the store {lab.store_path} has no object packs"):
        copy(lab, there)
    os.rename(f"{lab.root}/away", _path(lab, "packs", pack))
    shutil.rmtree(f"{lab.root}/cache")
    _damage(_path(lab, "trees", layer.tree), _flip)
    with pytest.raises(DamagedSource, match=lab.store_path):
        copy(lab, there)
    assert objects(there, "envs") == {}


def test_notes_about_packs_that_are_gone_cost_a_second_try(lab, there):
    lab.save("sci", some_files(1))
    copy(lab, there)
    name = EnvName(owner="lab", name="sci")
    for kind in ("packs", "trees"):
        shutil.rmtree(f"{there.store_path}/{kind}")
    shutil.rmtree(f"{there.store_path}/envs")
    there.context = there.fresh_context()
    lab.context = lab.fresh_context()
    copy(lab, there)
    assert everything(there, resolved(there, "sci")) == everything(lab, resolved(lab, "sci"))
    assert versions.numbers(there.store, name) == [1]


def test_a_tree_that_is_there_and_damaged_is_told_of_the_destination(lab, there):
    lab.save("sci", {"a": b"1"})
    copy(lab, there)
    layer = resolved(there, "sci").layers[0]
    _damage(_path(there, "trees", layer.tree), _flip)
    shutil.rmtree(f"{lab.root}/cache/index.sqlite", ignore_errors=True)
    lab.save("other", layer)
    with pytest.raises(DamagedSource, match=there.store_path):
        copy(lab, there, "other")
    with pytest.raises(DamagedTree):
        treefile.decode(get_tree(there.store, layer.tree), layer.tree)


def test_packs_of_a_later_epoch_get_the_destinations(lab, there):
    """An epoch tells when a pack may have been condemned; one of another store's future says nothing."""
    epochs.condemn(lab.store, 5, epochs.NOTHING, [])
    saved = lab.save("sci", some_files(1))
    assert {data[:HEADER_SIZE] for data in objects(lab, "packs").values()} == {header(5)}
    copy(lab, there)
    made = resolved(there, "sci")
    assert {data[:HEADER_SIZE] for data in objects(there, "packs").values()} == {header(0)}
    assert made.layers[0].tree != saved.layers[0].tree
    assert layer_tree(there.context, made.layers[0].tree).epoch == 0
    assert everything(there, made) == everything(lab, saved)


@pytest.mark.parametrize("gone", [False, True], ids=["condemned", "deleted"])
def test_what_is_being_collected_is_neither_relied_on_nor_written_again(lab, there, gone):
    lab.save("sci", some_files(1))
    copy(lab, there)
    condemned = epochs.Objects(
        packs=frozenset(objects(there, "packs")), trees=frozenset(objects(there, "trees")), versions=frozenset()
    )
    there.delete(resolved(there, "sci"))
    epochs.condemn(there.store, 1, condemned, [])

    def collect():
        for key in (*condemned.in_order()[1], *condemned.in_order()[2]):
            there.store.delete(key)

    if gone:
        collect()
        epochs.finish(there.store, 1)
    copy(lab, there)
    collect()  # also one that was suspended for long and goes on now
    there.context = there.fresh_context()
    made = resolved(there, "sci")
    assert layer_tree(there.context, made.layers[0].tree).epoch == 1
    assert everything(there, made) == everything(lab, resolved(lab, "sci"))


def test_somebody_who_publishes_meanwhile_costs_nothing(lab, there, monkeypatch):
    import envkit.services.publishing as publishing

    lab.save("sci", {"a": b"1"})
    original = publishing.Writer.publish
    done = []

    def publish(self, draft, *, expected):
        if not done and self.store.url == there.store_path:
            done.append(True)
            copy(Lab_at(lab), there)
        return original(self, draft, expected=expected)

    monkeypatch.setattr(publishing.Writer, "publish", publish)
    (made,) = copy(lab, there).versions
    assert made.already
    assert versions.numbers(there.store, made.copy.env) == [1]


def Lab_at(lab):  # noqa: N802
    return Lab(os.path.dirname(lab.root), store=lab.store_path)


def test_an_interrupted_copy_says_what_need_not_be_sent_again(lab, there, monkeypatch):
    lab.save("sci", some_files(1), some_files(2), some_files(3))
    steps = []

    def stop(name):
        steps.append(name)
        if steps.count("copy:tree") == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("envkit.services.moving.crash_point", stop)
        with pytest.raises(KeyboardInterrupt) as caught:
            copy(lab, there)
    assert f"4.8 MB of 7.2 MB are in {there.store_path} and will not be sent again" in caught.value.__notes__
    assert copy(lab, there).sent < 2_600_000


def test_a_directory_that_is_no_store_is_refused(lab, tmp_path):
    lab.save("sci", {"a": b"1"})
    with pytest.raises(Exception, match="is not an envkit store"):
        copying.copy(lab.context, "sci", str(tmp_path))
    init_store(str(tmp_path / "new"))
    copying.copy(lab.context, "sci", str(tmp_path / "new"))
