"""`services/diff`: what differs between versions in a store, and how little of it is read."""

import itertools
import os
import random
import threading

import pytest
from stored_support import GONE, HardLink, Lab, Link

from envkit.content import chunker
from envkit.content.errors import DamagedChunk
from envkit.errors import NotFound
from envkit.model.tree import Entry, Kind
from envkit.services import comparing
from envkit.services import diff as service
from envkit.services.publishing import writing
from envkit.services.storing import store_layer
from envkit.store.directory import DirectoryStore
from envkit.store.errors import StoreUnreadable


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def reads(monkeypatch):
    """The ranges of packs that are read."""
    found = []
    original = DirectoryStore._get_range

    def get_range(self, key, start, length):
        found.append((key, start, length))
        return original(self, key, start, length)

    monkeypatch.setattr(DirectoryStore, "_get_range", get_range)
    return found


def diff(lab, *names, **how):
    return service.diff(lab.context, *(*names, None)[:2], **how)


def told(difference):
    return {change.path.decode(): (change.how.value, *change.what) for change in difference.files}


def file(data, **attributes):
    return Entry(b"", Kind.FILE, **({"mode": 0o644} | attributes)), data


def test_the_first_version_is_compared_with_its_parent(lab, reads):
    base = lab.save("base/tiny", {"etc/passwd": b"root", "usr/old": b"old", "usr/gone": b"x"})
    lab.save("sci", {"usr/old": b"newer", "usr/gone": GONE, "opt/new": b"1"}, below=base)
    found = diff(lab, "sci")
    assert (found.before, found.after) == ("base/tiny@1", "lab/sci@1")
    assert told(found) == {
        "opt": ("added",),
        "opt/new": ("added",),
        "usr/gone": ("removed",),
        "usr/old": ("changed", "content"),
    }
    assert sum(change.growth for change in found.files) == 1 + 2 - 1
    assert reads == []


def test_two_versions_are_compared_from_the_first_to_the_second(lab):
    base = lab.save("base/tiny", {"a": b"1"})
    lab.save("sci", {"b": b"1"}, below=base)
    lab.save("sci", {"c": b"1"}, below=base)
    assert told(diff(lab, "sci@1", "sci@2")) == {"b": ("removed",), "c": ("added",)}
    assert told(diff(lab, "sci@2", "sci@1")) == {"b": ("added",), "c": ("removed",)}
    same = diff(lab, "sci@1", "sci@1")
    assert (same.files, same.packages) == ([], [])


def test_a_version_is_compared_with_the_one_before_it_where_there_is_one(lab):
    base = lab.save("base/tiny", {"a": b"1"})
    lab.save("sci", {"b": b"1"}, below=base)
    second = lab.save("sci", {"b": b"1", "c": b"1"}, below=base)
    found = diff(lab, "sci")
    assert (found.before, found.after) == ("lab/sci@1", "lab/sci@2")
    assert told(found) == {"c": ("added",)}
    lab.save("sci", {"b": b"1", "d": b"1"}, below=base)
    lab.delete(second)
    found = diff(lab, "sci")
    assert (found.before, told(found)) == ("lab/sci@1", {"d": ("added",)})


def test_a_base_is_compared_with_nothing(lab):
    lab.save("base/tiny", {"a": b"1"})
    found = diff(lab, "base/tiny")
    assert found.before == "nothing"
    assert told(found) == {"": ("added",), "a": ("added",)}


def test_a_parent_that_was_deleted_still_counts(lab):
    base = lab.save("base/tiny", {"a": b"1"})
    first = lab.save("sci", {"b": b"1"}, below=base)
    lab.save("sci", {"c": b"1"}, below=first)
    lab.delete(first)
    found = diff(lab, "sci@2")
    assert (found.before, told(found)) == ("lab/sci@1", {"c": ("added",)})


@pytest.mark.parametrize("parent", [None, "lab/elsewhere@7", "not a name", "lab/sci"])
def test_without_its_parent_a_version_is_compared_with_the_layers_below_its_own(lab, parent):
    base = lab.save("base/tiny", {"a": b"1"})
    lab.save("sci", {"b": b"1"}, below=base, parent=parent)
    found = diff(lab, "sci")
    assert (found.before, told(found)) == ("the layers below lab/sci@1", {"b": ("added",)})


def test_every_way_to_change_is_told(lab):
    before = {
        "mode": file(b"1"),
        "owner": file(b"1"),
        "time": file(b"1", mtime_ns=10**9),
        "xattrs": file(b"1"),
        "target": Link("a"),
        "kind": b"1",
        "same": b"1",
        "directory": Entry(b"", Kind.DIRECTORY, 0o755, mtime_ns=10**9),
        "link": HardLink("kind"),
        "all": file(b"12"),
    }
    after = before | {
        "mode": file(b"1", mode=0o600),
        "owner": file(b"1", gid=7),
        "time": file(b"1", mtime_ns=2 * 10**9),
        "xattrs": file(b"1", xattrs=((b"user.a", b"b"),)),
        "target": Link("b"),
        "kind": Link("x"),
        "directory": Entry(b"", Kind.DIRECTORY, 0o755, mtime_ns=2 * 10**9),
        "link": b"1",
        "all": file(b"1", mode=0o600, uid=4),
    }
    lab.save("a", before)
    lab.save("b", after)
    assert told(diff(lab, "a", "b")) == {
        "mode": ("changed", "mode"),
        "owner": ("changed", "owner"),
        "time": ("changed", "time"),
        "xattrs": ("changed", "xattrs"),
        "target": ("changed", "target"),
        "kind": ("changed", "kind"),
        "link": ("changed", "links"),
        "all": ("changed", "content", "mode", "owner"),
    }


def test_equal_files_in_other_chunks_are_read_and_found_equal(lab, reads):
    lab.save("a", {"d/1": b"neighbour", "d/2": b"the same", "d/3": b"old"})
    lab.save("b", {"d/1": b"another one", "d/2": b"the same", "d/3": b"new"})
    assert told(diff(lab, "a", "b")) == {"d/1": ("changed", "content"), "d/3": ("changed", "content")}
    assert len(reads) == 2, "each chunk is read once"


def test_large_files_that_are_cut_otherwise_are_compared_piece_by_piece(lab, reads, monkeypatch):
    source = random.Random(5)
    data = source.randbytes(6 << 20)
    lab.save("a", {"big": data, "edit": data})
    # One byte differs near the end.
    edited = bytearray(data)
    edited[-100] ^= 1
    layer = _cut_otherwise(lab, {"big": data, "edit": bytes(edited)}, monkeypatch)
    lab.save("b", layer)
    assert told(diff(lab, "a", "b")) == {"edit": ("changed", "content")}
    assert reads


def _cut_otherwise(lab, files, monkeypatch):
    original = chunker.chunk_files
    usual = chunker.DEFAULT_SIZES
    sizes = chunker.Sizes(least=2 * usual.least, usual=2 * usual.usual, most=2 * usual.most)
    with monkeypatch.context() as patch:
        patch.setattr("envkit.services.storing.chunk_files", lambda *a, **k: original(*a, **(k | {"sizes": sizes})))
        return lab.layer(files)


def test_holes_are_zeros(lab):
    lab.save("a", {"f": bytes(300_000) + b"end"})
    entries = [Entry(b"", Kind.DIRECTORY, 0o755), Entry(b"f", Kind.FILE, 0o644, size=300_003)]
    with writing(lab.context) as writer:
        sparse = store_layer(lab.context, writer, entries, lambda entry: [(300_000, b"end")])
        other = store_layer(lab.context, writer, entries, lambda entry: [(299_999, b"!end")])
    lab.save("b", sparse)
    lab.save("c", other)
    assert told(diff(lab, "a", "b")) == {}
    assert told(diff(lab, "b", "a")) == {}
    assert told(diff(lab, "a", "c")) == {"f": ("changed", "content")}


def test_many_small_files_are_read_in_order_with_bounded_memory(lab, reads, monkeypatch):
    source = random.Random(6)
    files = {f"d{n % 7}/{n:04}": source.randbytes(source.randint(1, 40_000)) for n in range(400)}
    lab.save("a", files)
    changed = files | {f"d{n % 7}/{n:04}": source.randbytes(len(files[f"d{n % 7}/{n:04}"])) for n in range(0, 400, 9)}
    lab.save("b", changed)
    monkeypatch.setattr(comparing, "_KEPT", 6 << 20)
    found = told(diff(lab, "a", "b"))
    assert found == {name: ("changed", "content") for name in files if files[name] != changed[name]}
    assert len(reads) == len(set(reads)), "a chunk was read twice"


def test_only_packages_are_read_where_only_they_are_asked_for(lab, reads):
    status = "Package: a\nStatus: install ok installed\nVersion: {}\n"
    lab.save("a", {"var/lib/dpkg/status": status.format(1).encode(), "zz/x": b"1", "zz/y": b"other"})
    lab.save("b", {"var/lib/dpkg/status": status.format(2).encode(), "zz/x": b"1", "zz/y": b"OTHER"})
    found = diff(lab, "a", "b", files=False)
    assert found.files is None
    assert [(p.name, p.before, p.after, p.fate.value) for p in found.packages] == [("a", ("1",), ("2",), "upgraded")]


def test_a_damaged_chunk_is_named(lab):
    lab.save("a", {"d/1": b"neighbour", "d/2": b"the same"})
    lab.save("b", {"d/1": b"another one", "d/2": b"the same"})
    for place, _, names in os.walk(f"{lab.store_path}/packs"):
        for name in names:
            path = f"{place}/{name}"
            os.chmod(path, 0o600)
            with open(path, "r+b") as pack:
                pack.seek(-3, os.SEEK_END)
                pack.write(b"xxx")
    with pytest.raises(DamagedChunk):
        diff(lab, "a", "b")


def test_what_does_not_exist_is_told(lab):
    lab.save("a", {"x": b""})
    for names in (("b",), ("a", "b"), ("a@7",)):
        with pytest.raises(NotFound):
            diff(lab, *names)


def test_a_failing_read_ends_all_threads(lab, monkeypatch):
    source = random.Random(7)
    files = {f"{n:03}": source.randbytes(50_000) for n in range(60)}
    lab.save("a", files | {"000": b"x"})
    lab.save("b", files | {"001": b"y"})
    calls = itertools.count()

    def fail(_self, _chunk):
        if next(calls) == 1:
            raise StoreUnreadable("here", "it burns")
        return b""

    before = threading.active_count()
    monkeypatch.setattr("envkit.content.reader.ChunkReader.read", fail)
    with pytest.raises(StoreUnreadable), comparing.Contents(lab.context) as contents:
        a, b = service._views(lab.context, *(service.resolve(lab.context, name).layers for name in ("a", "b")))
        changes = service.compare(a, b)
        list(contents.compare(a, b, [change for change in changes if change.undecided]))
    assert threading.active_count() == before
