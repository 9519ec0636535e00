"""Saving a session again reads only what changed, and never takes a changed file for an unchanged one."""

import itertools
import os
import random
import shutil
import time
from functools import partial

import pytest

from envkit.config.model import Config
from envkit.model.ids import EnvName
from envkit.model.session import Session
from envkit.model.tree import Kind
from envkit.model.version import LayerRef
from envkit.overlay.scan import scan_directory
from envkit.sanitize import Allow
from envkit.services import memory
from envkit.services.cleaning import scanned_as
from envkit.services.contents import read_file
from envkit.services.context import Context
from envkit.services.fill import load_tree
from envkit.services.largefiles import LargeFiles
from envkit.services.publishing import writing
from envkit.services.storing import store_layer

pytestmark = [pytest.mark.root, pytest.mark.lxc]

_numbers = itertools.count()
_FILES = "mkdir -p /opt/d; for n in $(seq 300); do echo $n >/opt/d/$n; done; head -c 3000000 /dev/urandom >/opt/big"
_SUM = "cd /opt; find . -type f | sort | xargs sha256sum"


@pytest.fixture
def name():
    return f"again-{next(_numbers)}"


@pytest.fixture
def session(envkit, name):
    """A session with 300 small files and a large one, saved; what it was scanned with lies some time back."""
    with envkit.session(name, script=_FILES):
        envkit.inside(name, "sleep 0.1").ok()
        envkit("save", name).ok()
        yield name


def _saved_is_as_inside(envkit, name):
    inside = envkit.inside(name, _SUM).ok()
    assert envkit.sh(name, _SUM).ok() == inside


@pytest.mark.parametrize(
    "change",
    [
        "echo 77 >/opt/d/7",
        "touch -r /opt/d/7 /tmp/t; echo X >/opt/d/7; touch -r /tmp/t /opt/d/7",  # same size, same time
        "printf X | dd of=/opt/big bs=1 seek=1500000 conv=notrunc 2>/dev/null; touch -d 2001-01-01 /opt/big",
        "mv /opt/d/7 /opt/d/t; mv /opt/d/8 /opt/d/7; mv /opt/d/t /opt/d/8",
        "cp /opt/d/9 /opt/d/7; rm /opt/d/8; ln /opt/d/9 /opt/d/8",
        "ln /opt/d/9 /opt/d/0first",
        "rm /opt/d/1*; truncate -s 6000000 /opt/big",
        "mv /opt/d /opt/e; chmod 600 /opt/e/5",
    ],
)
def test_every_kind_of_change_is_seen(envkit, session, change):
    envkit.inside(session, change).ok()
    assert envkit.json("save", session)["unchanged"] is False
    _saved_is_as_inside(envkit, session)


def test_a_second_save_stores_what_changed_and_little_more(envkit, session):
    envkit.inside(session, "head -c 100000 /dev/urandom >/opt/new").ok()
    saved = envkit.json("save", session)
    assert 100_000 < saved["stored"] < 200_000
    _saved_is_as_inside(envkit, session)


def test_who_was_overtaken_saves_under_another_name(envkit, session, new_root):
    elsewhere = new_root(store=f"{envkit.root}/store")
    with elsewhere.session(session, origin=session, script="echo theirs >/opt/b"):
        elsewhere("save", session).ok()
    envkit.inside(session, "echo mine >/opt/d/7").ok()
    envkit("save", session).fails(4, "was saved meanwhile", "--as NAME")
    mine = f"{session}-mine"
    envkit("save", session, "--as", session).fails(2, "leave out --as")
    envkit("save", session, "--as", f"{mine}@3").fails(2, "names a version")
    assert envkit("save", session, "--as", mine, "-m", "mine").ok() == f"lab/{mine}@1"
    envkit("save", session, "--as", mine).fails(4, f"lab/{mine} exists already")
    (state,) = envkit.json("status", session)
    assert (state["saved"], state["saved_as"], state["unsaved"]) == (None, f"lab/{mine}@1", False)
    assert envkit.sh(mine, _SUM).ok() == envkit.inside(session, _SUM).ok()
    assert envkit.sh(session, "cat /opt/b /opt/d/7").ok() == "theirs\n7"
    envkit("save", session).fails(4, "was saved meanwhile")
    envkit("close", session).ok()


@pytest.mark.parametrize("damage", [b"", b"\x93", b"garbage" * 100, None])
def test_what_a_session_remembers_is_only_a_hint(envkit, session, damage):
    path = f"{envkit.directory(session)}/memory"
    assert os.path.getsize(path) > 1000
    if damage is None:
        os.unlink(path)
    else:
        with open(path, "wb") as file:
            file.write(damage)
    envkit.inside(session, "echo other >/opt/d/7").ok()
    envkit("save", session).ok()
    _saved_is_as_inside(envkit, session)


def test_what_comes_of_the_same_scan_is_remembered_for_the_same_waivers(envkit, name):
    secret = "/root/.bash_history"
    with envkit.session(name, script=f"echo secret >{secret}; echo 1 >/opt/a; sleep 0.1"):
        envkit("save", name).ok()
        assert envkit.json("save", name)["unchanged"] is True
        assert envkit.json("save", name, "--allow", f"R103:{secret}")["unchanged"] is False
        assert envkit.sh(name, f"cat {secret}").ok() == "secret"
        assert envkit.json("status", name)[0]["unsaved"] is True
        assert envkit.json("save", name)["unchanged"] is False
        assert envkit.sh(name, f"test -e {secret}").code == 1
        assert envkit.json("status", name)[0]["unsaved"] is False


def test_an_attribute_is_seen_that_a_file_got_since_the_last_save(envkit, session):
    path = f"{envkit.directory(session)}/upper/opt/d/7"
    os.setxattr(path, "user.mark", b"1")
    assert envkit.json("save", session)["unchanged"] is False
    assert envkit.json("save", session)["unchanged"] is True
    os.removexattr(path, "user.mark")
    assert envkit.json("save", session)["unchanged"] is False


def test_a_pack_that_the_store_lost_is_stored_again(new_root, tiny_root, name):
    envkit = new_root()
    envkit("base", "import", "tiny", tiny_root).ok()
    with envkit.session(name):
        base = {p for p, _, names in os.walk(f"{envkit.root}/store/packs") for _ in names}
        envkit.inside(name, _FILES + "; sleep 0.1").ok()
        envkit("save", name).ok()
        for place, _, names in os.walk(f"{envkit.root}/store/packs"):
            if names and place not in base:
                shutil.rmtree(place)
        envkit.inside(name, "echo other >/opt/d/7").ok()
        envkit("save", name).ok()
        _saved_is_as_inside(envkit, name)


def _opened(root):
    """A session without a container."""
    context = Context(Config(root=str(root), owner="lab"))
    env = EnvName(owner="lab", name="x")
    os.makedirs(context.paths.session(env))
    return context, Session(env=env, identity="i", base="b", parent="p", layers=(), arch="a", known=0)


def _recalled(context, session, scan):
    notes = memory.read_notes(context, session)
    return memory.recall(notes, memory.load_former(context, session, notes), scan)


def test_files_that_did_not_change_are_recalled_and_others_are_not(tmp_path):
    """The bookkeeping alone, on a plain directory."""
    root, place = tmp_path / "root", tmp_path / "envkit"
    root.mkdir()
    for name in ("a", "b", "c", "edited"):
        (root / name).write_bytes(name.encode() * 100)
        os.utime(root / name, ns=(1, 1))
    context, session = _opened(place)
    tree = _stored(context, root)
    with scan_directory(str(root)) as scan:
        scan.began_ns += 1_000_000_000  # the scan of a save, long after the files were written
        paths = [entry.path for entry in scan.entries if entry.kind is Kind.FILE]
        memory.remember(context, session, scan, tree, paths, replaced=[b"edited"])
    (root / "b").write_bytes(b"x" * 100)
    os.utime(root / "b", ns=(1, 1))
    with scan_directory(str(root)) as scan:
        found = _recalled(context, session, scan)
        assert sorted(found.files) == [b"a", b"c"]
        assert sorted(found.without([b"c"]).files) == [b"a"]
    assert [segment.length for segment in found.files[b"c"]] == [100]


def _saved_large(tmp_path):
    """A directory with one large file, and a session that remembers having saved it."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "large").write_bytes(random.Random(1).randbytes(20 << 20))
    context, session = _opened(tmp_path / "envkit")
    tree = _stored(context, root)
    with scan_directory(str(root)) as scan:
        memory.remember(context, session, scan, tree, [b"large"], replaced=[])
    return root, context, session


@pytest.mark.parametrize("known", [True, False])
def test_of_a_large_file_only_what_has_changed_is_cut_again(tmp_path, known):
    root, context, session = _saved_large(tmp_path)
    with open(root / "large", "r+b") as file:
        file.seek(9 << 20)
        file.write(b"changed")
    read = []
    notes = memory.read_notes(context, session) if known else memory.Notes()
    former = partial(memory.load_former, context, session, notes)
    with (
        LargeFiles(str(root), notes, former) as large,
        scan_directory(str(root)) as scan,
        writing(context) as writer,
    ):

        def opened(entry, start=0):
            for begin, data in scan.open(entry, start):
                read.append(len(data))
                yield begin, data

        unchanged = memory.recall(notes, large.tree, scan)
        kept = partial(large.kept, scan)
        layer = store_layer(context, writer, scan.entries, opened, unchanged=unchanged, kept=kept)
    assert (sum(read) < 12 << 20) is known, "cutting read more than the beginning and what surrounds the change"
    assert layer.tree == _stored(context, root)
    with open(root / "large", "rb") as file:
        assert _content(context, layer.tree, b"large") == file.read()


def test_what_was_found_out_before_the_scan_does_not_count_if_the_file_is_another_then(tmp_path):
    root, context, session = _saved_large(tmp_path)
    notes = memory.read_notes(context, session)
    os.utime(root / "large", ns=(1, 1))
    with LargeFiles(str(root), notes, partial(memory.load_former, context, session, notes)) as large:
        with scan_directory(str(root)) as scan:
            (entry,) = (entry for entry in scan.entries if entry.path == b"large")
            assert len(large.kept(scan, entry)) > 100
        os.utime(root / "large", ns=(2, 2))
        with scan_directory(str(root)) as scan:
            assert large.kept(scan, entry) == {}


def test_large_files_that_are_gone_or_no_files_any_more_are_not_compared(tmp_path):
    root, place = tmp_path / "root", tmp_path / "envkit"
    root.mkdir()
    for name in ("gone", "link", "pipe", "directory"):
        (root / name).write_bytes(random.Random(name).randbytes(5 << 20))
    context, session = _opened(place)
    tree = _stored(context, root)
    with scan_directory(str(root)) as scan:
        memory.remember(context, session, scan, tree, sorted(scan.files), replaced=[])
    notes = memory.read_notes(context, session)
    assert len(notes.large) == 4
    for path in root.iterdir():
        path.unlink()
    (root / "link").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe")
    (root / "directory").mkdir()
    with LargeFiles(str(root), notes, pytest.fail) as large:
        assert large.tree is None


def test_files_written_within_a_tick_of_the_clock_are_read_again(tmp_path):
    root, place = tmp_path / "root", tmp_path / "envkit"
    root.mkdir()
    (root / "a").write_bytes(b"x")
    context, session = _opened(place)
    tree = _stored(context, root)
    with scan_directory(str(root)) as scan:
        scan.began_ns = scan.stamp(b"a")[1] + 1_000_000
        memory.remember(context, session, scan, tree, [b"a"], replaced=[])
        assert _recalled(context, session, scan).files == {}


def test_what_was_stored_of_a_scan_is_remembered_if_its_files_cannot_change_unseen(tmp_path):
    root, place = tmp_path / "root", tmp_path / "envkit"
    root.mkdir()
    (root / "a").write_bytes(b"x")
    context, session = _opened(place)
    tree = _stored(context, root)
    for later, remembered in ((30_000_000, "stored"), (1_000_000, None)):
        with scan_directory(str(root)) as scan:
            scan.began_ns = scan.stamp(b"a")[1] + later
            memory.remember(context, session, scan, tree, [b"a"], replaced=[], scanned="scan", stored="stored")
        notes = memory.read_notes(context, session)
        assert notes.outcome("scan") == remembered
        assert notes.outcome("") is notes.outcome("another") is None
        assert bool(notes.plain) is bool(remembered)


def test_a_scan_is_the_same_until_something_changes_that_a_save_depends_on(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("a", "b"):
        (tmp_path / "d" / name).write_bytes(b"content")
    session = Session(
        env=EnvName(owner="lab", name="x"), identity="i", base="b", parent="p", layers=(), arch="a", known=0
    )

    def seen(session=session, waivers=()):
        with scan_directory(str(tmp_path)) as scan:
            return scanned_as(session, scan, waivers)

    before = seen()
    os.utime(tmp_path / "d", ns=(1, 1))
    assert seen() == before, "times of directories decide nothing"
    layer = LayerRef(tree="0" * 64, entries=1, size=1, stored=1)
    digests = [before, seen(session.replace(layers=(layer,))), seen(waivers=[Allow.parse("R103:/a")])]
    for change in (
        lambda: os.chmod(tmp_path / "d", 0o700),
        lambda: os.chmod(tmp_path / "d/a", 0o600),
        lambda: os.utime(tmp_path / "d/a", ns=(1, 1)),
        lambda: os.setxattr(tmp_path / "d/a", "user.a", b""),
        lambda: os.symlink("a", tmp_path / "d/c"),
        lambda: os.unlink(tmp_path / "d/c"),
        lambda: os.rename(tmp_path / "d/b", tmp_path / "d/c"),
        # The same size and time again.
        lambda: ((tmp_path / "d/a").write_bytes(b"CONTENT"), os.utime(tmp_path / "d/a", ns=(1, 1))),
    ):
        time.sleep(0.02)  # the clock of ctimes ticks
        change()
        digests.append(seen())
    digests.remove(digests[8])  # nothing is left of the symlink
    assert len(set(digests)) == len(digests)


def _content(context, digest, path):
    tree = load_tree(context, digest)
    (entry,) = (entry for entry in tree.entries if entry.path == path)
    return read_file(context, tree, entry)


def _stored(context, root):
    """Store a directory as a layer; return the digest of its tree."""
    with scan_directory(str(root)) as scan, writing(context) as writer:
        return store_layer(context, writer, scan.entries, scan.open).tree
