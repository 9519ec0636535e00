"""`envkit gc` through the command line: two steps, what it says, kills at every step, and saves that go on meanwhile."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess

import pytest
from aging import DAY, HOUR, age

from envkit.drivers.crash import POINTS

pytestmark = [pytest.mark.root, pytest.mark.lxc]

_numbers = itertools.count()


@pytest.fixture
def node(new_root, tiny_root):
    """A root of its own with a store of its own, and the base `tiny` in it."""
    envkit = new_root(place=f"gc-{next(_numbers)}")
    envkit("base", "import", "tiny", tiny_root).ok()
    return envkit


def store(node):
    return f"{node.root}/store"


def objects(node):
    found = []
    for place, _, names in os.walk(store(node)):
        found += [os.path.relpath(f"{place}/{name}", store(node)) for name in names]
    return sorted(key for key in found if key.startswith(("packs/", "trees/", "envs/")))


def deleted_environment(node, name="gone"):
    """Save an environment, delete it, and let eight days pass."""
    node.saved(name, f"head -c 300000 /dev/urandom >/opt/{name}; echo {name} >/opt/text")
    kept = set(objects(node))
    node("delete", name, "--yes").ok()
    age(store(node), 8 * DAY)
    return kept


def test_gc_takes_two_steps_and_keeps_what_is_needed(node):
    node.saved("kept", "head -c 200000 /dev/urandom >/opt/kept; sha256sum /opt/kept >/opt/sum")
    before = objects(node)
    deleted_environment(node)
    dry = node("gc", "--dry-run")
    assert re.fullmatch(r"would condemn 1 versions, 1 trees and 1 packs: 30\d kB\n", dry.stderr)
    assert dry.out == b""
    first = node("gc")
    condemned, then = first.stderr.splitlines()
    assert condemned.startswith("condemned 1 versions, 1 trees and 1 packs: 30")
    assert then.startswith("run `envkit gc` again in ")
    assert re.fullmatch(
        r"run `envkit gc` again in 3 h 5\d min or later to delete what is condemned\n", node("gc").stderr
    )
    assert len(objects(node)) == len(before) + 4
    node("undelete", "gone").fails(4, "lab/gone@1 cannot be used", "was deleted")
    age(store(node), 5 * HOUR)
    second = node("gc")
    assert second.stderr.splitlines()[0] == condemned.replace("condemned", "deleted")
    assert objects(node) == sorted([*before, "envs/lab/gone/00000002.json"])
    assert "everything is there" in node("verify", "--data").stderr
    subprocess.run(["rm", "-rf", f"{node.root}/cache"], check=True)
    assert node.sh("kept", "sha256sum -c /opt/sum").ok() == "/opt/kept: OK"
    node.sh("gone", "true").fails(125, "no environment lab/gone")
    with node.session("gone", script="echo again >/opt/x"):
        assert node("save", "gone").ok() == "lab/gone@3"


def test_gc_speaks_json(node):
    deleted_environment(node)
    done = node.json("gc")
    assert (done["condemned"]["packs"], done["deleted"], done["dry_run"]) == (1, None, False)
    assert 0 < done["ripe_in"] <= 4 * HOUR


def test_a_session_outlives_the_collection_of_what_it_did_not_use(node):
    with node.session("open", script="echo 1 >/opt/1"):
        node("save", "open").ok()
        deleted_environment(node)
        node("gc").ok()
        age(store(node), 5 * HOUR)
        node("gc").ok()
        node.inside("open", "echo 2 >/opt/2").ok()
        node("save", "open").ok()
    assert node.sh("open", "cat /opt/1 /opt/2").ok() == "1\n2"


def test_a_session_on_a_version_that_was_collected_is_told_what_to_do(node):
    deleted_environment(node, "below")
    node("undelete", "below").ok()
    with node.session("above", origin="below", script="echo x >/opt/x"):
        node("delete", "below", "--yes").ok()
        age(store(node), 8 * DAY)
        node("gc").ok()
        said = node("save", "above").fails(4, "lab/above cannot be used: its layer", "was deleted")
        assert "envkit cp" in said.stderr
        assert node.inside("above", "cat /opt/x").ok() == "x"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--grace", "week"], "invalid span of time 'week'"),
        (["--grace", "-1d"], "invalid span of time '-1d'"),
        (["--grace", "7"], "invalid span of time '7'"),
    ],
)
def test_a_span_of_time_that_is_none_is_told(node, words, text):
    node("gc", *words).fails(2, text, "as in 30m, 12h, 7d")


def test_clocks_that_differ_are_told(node):
    deleted_environment(node)
    node("gc").ok()
    age(store(node), -2 * HOUR, "gc/")
    node("gc").fails(5, "nothing was collected: the clock of the store", "is behind the time")


def test_damage_stops_it_and_is_named(node):
    node.saved("live", "head -c 100000 /dev/urandom >/opt/x")
    deleted_environment(node)
    (layer,) = node.json("info", "live")["layers"][-1:]
    os.unlink(f"{store(node)}/trees/{layer['tree'][:2]}/{layer['tree']}")
    before = objects(node)
    node("gc").fails(6, "nothing was collected", layer["tree"], "envkit repair")
    assert objects(node) == before


GC_POINTS = [point for point in POINTS if point.startswith("gc:")]


@pytest.fixture(scope="module")
def prepared(new_root, tiny_root):
    """A store with something that lives and something to collect, all of it old; tests take copies of it."""
    envkit = new_root(place="gc-prepared")
    envkit("base", "import", "tiny", tiny_root).ok()
    envkit.saved("live", "head -c 100000 /dev/urandom >/opt/x; sha256sum /opt/x >/opt/sum")
    live = set(objects(envkit))
    deleted_environment(envkit)
    return store(envkit), live


@pytest.mark.parametrize("point", GC_POINTS)
def test_a_killed_collection_is_finished_by_the_next(new_root, prepared, tiny_root, point):
    node = new_root(place=f"gc-killed-{next(_numbers)}")
    os.mkdir(node.root, 0o700)
    subprocess.run(["cp", "-a", "-T", prepared[0], store(node)], check=True)
    killed = False
    for _ in range(3):
        killed = node("gc", env={"ENVKIT_CRASH": point}).code == -signal.SIGKILL
        if killed:
            break
        age(store(node), 5 * HOUR)
    assert killed, f"gc never came to {point}"
    # In between everything works.
    assert node("verify", "--data").code == 0
    assert node.sh("live", "sha256sum -c /opt/sum").ok() == "/opt/x: OK"
    node("base", "import", "meanwhile", tiny_root).ok()
    for _ in range(3):
        node("gc").ok()
        age(store(node), 5 * HOUR)
    left = set(objects(node))
    assert prepared[1] <= left
    assert "envs/lab/gone/00000001.json" not in left
    assert len([key for key in left if key.startswith("packs/")]) == 2
    assert node("verify", "--data").code == 0


LEASE_POINTS = [point for point in POINTS if point.startswith("lease:") and point != "lease:expired"]


@pytest.mark.parametrize("point", LEASE_POINTS)
def test_a_killed_save_delays_a_collection_until_its_lease_expires(node, point):
    with node.session("victim", script="head -c 100000 /dev/urandom >/opt/x"):
        assert node("save", "victim", env={"ENVKIT_CRASH": point}).code == -signal.SIGKILL
        assert len(os.listdir(f"{store(node)}/leases")) == 1
        # Not yet old: this lease is from before the list of what is condemned.
        node.saved("gone", "head -c 100000 /dev/urandom >/opt/y")
        node("delete", "gone", "--yes").ok()
        age(store(node), 8 * DAY, "packs", "trees", "envs")
        node("gc").ok()
        age(store(node), 5 * HOUR)
        assert "waits for a writer that began before: process " in node("gc").stderr
        age(store(node), 8 * HOUR)
        assert json.loads(node("gc", "--json").ok())["expired_leases"] == 1
        assert node("save", "victim").ok() in ("lab/victim@1", "")
        assert node("verify", "--data").code == 0
    assert node.sh("victim", "wc -c </opt/x").ok() == "100000"


@pytest.mark.parametrize("lost", [True, False], ids=["data gone", "data there"])
def test_a_save_that_was_killed_before_its_last_look_is_looked_at_by_the_next(node, lost):
    with node.session("victim", script="head -c 100000 /dev/urandom >/opt/x; sha256sum /opt/x >/opt/sum"):
        before = objects(node)
        assert node("save", "victim", env={"ENVKIT_CRASH": "lease:published"}).code == -signal.SIGKILL
        if lost:
            for key in set(objects(node)) - set(before):
                if not key.startswith("envs/"):
                    os.unlink(f"{store(node)}/{key}")
        said = node("save", "victim")
        assert said.code == 0
        assert ("saved lab/victim@3" if lost else "nothing changed since lab/victim@1") in said.stderr
        assert node("save", "victim").stderr.startswith("nothing changed since")
    subprocess.run(["rm", "-rf", f"{node.root}/cache"], check=True)
    assert node("verify", "--data").code == 0
    assert node.sh("victim", "sha256sum -c /opt/sum").ok() == "/opt/x: OK"


def test_a_collection_killed_while_it_removes_a_dead_lease_is_finished(node):
    with node.session("victim", script="echo x >/opt/x"):
        assert node("save", "victim", env={"ENVKIT_CRASH": "lease:taken"}).code == -signal.SIGKILL
        age(store(node), 13 * HOUR)
        assert node("gc", env={"ENVKIT_CRASH": "lease:expired"}).code == -signal.SIGKILL
        node("gc").ok()
        assert os.listdir(f"{store(node)}/leases") == []


def test_saves_and_collections_at_the_same_time(node):
    """Two writers save and delete, a third process collects again and again; time is made to pass meanwhile."""
    for name in ("one", "two"):
        node("create", name, "--base", "tiny", "--no-shell").ok()
    try:
        for turn in range(4):
            for name in ("one", "two"):
                node.inside(name, f"head -c 50000 /dev/urandom >/opt/{turn}; echo {turn} >/opt/last").ok()
            with contextlib.ExitStack() as started:
                saves = [started.enter_context(node.start("save", name)) for name in ("one", "two")]
                collections = [started.enter_context(node.start("gc", "--grace", "1h")) for _ in range(2)]
                for process in (*saves, *collections):
                    _, err = process.communicate(timeout=60)
                    busy = b"another collection" in err and process in collections
                    assert process.returncode == 0 or busy, err.decode()
            if turn % 2:
                oldest = node.json("log", "one")[-1]["version"]
                node("delete", f"one@{oldest}", "--yes").ok()
            age(store(node), 6 * HOUR)
        assert node("verify", "--data").code == 0
        subprocess.run(["rm", "-rf", f"{node.root}/cache/layers", f"{node.root}/cache/trees"], check=True)
        assert node.sh("one", "cat /opt/last").ok() == "3"
    finally:
        for name in ("one", "two"):
            node("close", name, "--discard")
