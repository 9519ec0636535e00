"""Stores in directories that cannot be used as they are, through the command line: read-only, foreign, closed."""

import contextlib
import json
import os
import subprocess

import pytest
from commandline import Envkit
from traces import new_traces, traces

pytestmark = [pytest.mark.root, pytest.mark.lxc]


@pytest.fixture(scope="module")
def lab(new_root, tiny_root, disk):
    """A root with a store elsewhere: the base `tiny` and the environment `lab/env`."""
    envkit = new_root(store=f"{disk}/elsewhere")
    assert envkit("store", "init", f"{disk}/elsewhere").stderr == f"{disk}/elsewhere is a store\n"
    envkit("base", "import", "tiny", tiny_root).ok()
    envkit.saved("env", "echo text >/opt/text")
    return envkit


@pytest.fixture
def store(lab, disk):
    """The directory of that store; the environment is whole in the end, and nothing is left of what was tried."""
    before = traces(lab)
    yield f"{disk}/elsewhere"
    assert new_traces(lab, before) == []
    assert lab.json("status") == []
    assert lab.sh("env", "cat /opt/text").ok() == "text"


@contextlib.contextmanager
def read_only(path):
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def test_what_a_directory_promises_is_tried_and_recorded(store):
    with open(f"{store}/format.json", encoding="utf-8") as file:
        document = json.load(file)
    assert document["probe"]["atomic_create"] is True
    assert not os.path.exists(f"{store}/probe")
    assert not os.path.exists(f"{store}/clock")


def test_a_store_on_a_read_only_mount_can_be_read_and_says_why_not_written(lab, store):
    with lab.session("draft", origin="env", script="echo more >/opt/more"):
        with read_only(store):
            assert lab.sh("env", "cat /opt/text").ok() == "text"
            assert "lab/env" in lab("list").ok()
            told = f"cannot write to the store {store}: Read-only file system"
            lab("save", "draft").fails(7, told)
            lab("delete", "env", "--yes").fails(7, told)
        # The session kept what could not be saved.
        lab("save", "draft").ok()
    assert lab.sh("draft", "cat /opt/more").ok() == "more"
    lab("delete", "draft", "--yes").ok()


def test_no_store_is_made_on_a_read_only_mount(lab, store, place):
    with read_only(str(place)):
        lab("store", "init", f"{place}/new").fails(7, "Read-only file system")
        lab("store", "init", str(place)).fails(7, "Read-only file system")
    assert os.listdir(place) == []


@pytest.mark.parametrize("name", ["README", "packs/notes.txt", "trees/~draft", "envs/lab/notes", "lost+found/x"])
def test_a_foreign_file_in_a_store_harms_nobody(lab, store, name):
    path = f"{store}/{name}"
    made = [] if os.path.isdir(os.path.dirname(path)) else [os.path.dirname(path)]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("somebody was here")
    try:
        assert [row["environment"] for row in lab.json("list")] == ["lab/env"]
        assert lab.sh("env", "cat /opt/text").ok() == "text"
        lab.saved("more", "echo more >/opt/more")
        lab("delete", "more", "--yes").ok()
        with open(path, encoding="utf-8") as file:
            assert file.read() == "somebody was here"
    finally:
        os.unlink(path)
        for directory in made:
            os.rmdir(directory)


@pytest.mark.parametrize("name", ["trees/00link", "envs/link"])
def test_a_link_in_a_store_is_named(lab, store, name):
    path = f"{store}/{name}"
    os.symlink("/etc/passwd", path)
    try:
        with lab.session("draft", origin="env", script="echo more >/opt/more"):
            if name.startswith("trees/"):
                lab("save", "draft").fails(7, f"{name} is a symbolic link or a special file", "remove it")
            else:
                lab("list").fails(7, f"{name} is a symbolic link or a special file", "remove it")
    finally:
        os.unlink(path)


def test_a_store_without_permission_is_told_with_the_reason(lab, store, place, as_nobody):
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    for words, text in (
        (["store", "init", str(closed / "store")], "Permission denied"),
        (["store", "init", str(closed)], "Permission denied"),
        (["store", "init", str(place / "mine")], "Permission denied"),
    ):
        as_nobody(lab, *words).fails(7, text)
    as_nobody(Envkit(lab.root, store=str(closed)), "list").fails(7, "Permission denied")
    assert os.listdir(place) == ["closed"]
    assert os.listdir(closed) == []


def test_users_make_stores_where_they_may_write(lab, store, place, as_nobody):
    os.chown(place, 65_534, 65_534)
    own = str(place / "own")
    assert as_nobody(lab, "store", "init", own).stderr == f"{own} is a store\n"
    assert os.stat(own).st_uid == 65_534
    assert os.listdir(own) == ["format.json"]
    assert as_nobody(Envkit(lab.root, store=own), "list").ok().splitlines()[1:] == []
