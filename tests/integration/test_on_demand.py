"""Environments that a node does not have: served as they are read, started with start packs, visible, and all right."""

import glob
import hashlib
import json
import os
import shutil
import time

import pytest
from commandline import PATIENCE, Envkit

from envkit.drivers.probes import kernel_at_least
from envkit.errors import EXIT_NOT_FOUND, EXIT_RUN_FAILED, EXIT_USAGE

pytestmark = [pytest.mark.root, pytest.mark.lxc]

SETTLING = PATIENCE
# What tells two trees apart: every path with its type, mode, size and target, and every byte.
DIGEST = """
cd / && find bin opt root usr -xdev | sort > /tmp/list
xargs stat -c '%n %f %s %u %g' < /tmp/list | sha256sum
find bin opt root usr -xdev -type f | sort | xargs sha256sum | sha256sum
"""


@pytest.fixture(scope="module")
def store(new_root, tiny_root):
    """A root whose store has `lab/env`: a thousand small files, and large ones that hardly compress."""
    envkit = new_root(place="saver")
    envkit("base", "import", "tiny", tiny_root).ok()
    with envkit.session(
        "env",
        script="""
        mkdir -p /opt/many/$(seq -s ' /opt/many/' 0 9)
        for n in $(seq 1000); do echo "file $n of a thousand" > /opt/many/$((n % 10))/$n; done
        for n in 1 2 3; do head -c 6000000 /dev/urandom > /opt/large$n; done
        head -c 1500000 /dev/urandom > /opt/medium
        truncate -s 3000000 /opt/sparse; echo end >> /opt/sparse
        ln /opt/large1 /opt/link; ln -s large2 /opt/symlink
        printf '#!/bin/sh\\ncat /opt/medium | md5sum\\n' > /opt/start; chmod 755 /opt/start
        """,
    ):
        envkit("save", "env").ok()
    return envkit


@pytest.fixture
def node(new_root, store):
    """A node that has nothing of the store's environments."""
    envkit = new_root(place="node", store=f"{store.root}/store")
    yield envkit
    envkit("cache", "stop", "--force")


def cost(outcome):
    """Return what --stats --json said."""
    outcome.ok()
    return json.loads(outcome.stderr.splitlines()[-1])


def run(envkit, *words, options=()):
    return envkit("run", "-e", "env", "--stats", "--json", *options, "--", *words)


def until(what, patience=SETTLING):
    """Wait until something is the case, and return it."""
    end = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found


def start_packs(store):
    return glob.glob(f"{store.root}/store/starts/lab/env/*")


def test_a_run_fetches_what_it_reads_and_no_more(node):
    first = cost(run(node, "cat", "/opt/many/1/1", options=["--no-start-pack"]))
    assert 0 < first["bytes"] < 5_000_000 < 18_000_000 < first["size"]
    assert first["requests"] > 0
    assert first["start_pack_bytes"] == 0


def test_what_is_served_is_what_was_saved(node, store):
    served = node("run", "-e", "env", "--user", "root", "--", "sh", "-c", DIGEST).ok()
    assert served == store("run", "-e", "env", "--eager", "--user", "root", "--", "sh", "-c", DIGEST).ok()


def test_the_rest_comes_in_the_background_and_then_nothing_is_fetched(node):
    run(node, "sh", "-c", "exec sleep 1000", options=["--timeout", "12"])
    assert until(lambda: not node.json("stat")["layers"] or len(glob.glob(f"{node.root}/cache/layers/*/image")) == 2)
    assert cost(run(node, "true"))["bytes"] == 0
    assert "all of the environment is on this node" in node("run", "-e", "env", "--stats", "--", "true").stderr


def test_the_first_run_makes_a_start_pack_and_the_next_node_starts_with_it(node, store, new_root):
    shutil.rmtree(f"{store.root}/store/starts", ignore_errors=True)
    first = cost(run(node, "/opt/start"))
    assert (first["start_pack_bytes"], first["chunk_bytes"] > 1_500_000) == (0, True)
    until(lambda: start_packs(store))
    second = new_root(place="node", store=f"{store.root}/store")
    helped = cost(run(second, "/opt/start"))
    assert helped["start_pack_bytes"] > 1_500_000
    assert helped["chunk_bytes"] < first["chunk_bytes"] * 3 / 4  # readers on a busy machine overtake the pack
    assert "start pack" in second("info", "env").ok()


def test_a_start_pack_can_be_made_with_a_save(store, new_root):
    with store.session("traced", script="head -c 1500000 /dev/urandom >/opt/data"):
        outcome = store("save", "traced", "--trace", "md5sum /opt/data")
        assert outcome.ok() == "lab/traced@1"
        assert "made a start pack of" in outcome.stderr
    node = new_root(place="node", store=f"{store.root}/store")
    got = cost(node("run", "-e", "traced", "--stats", "--json", "--", "md5sum", "/opt/data"))
    assert got["start_pack_bytes"] > 1_500_000


def test_a_failing_trace_makes_no_start_pack_and_says_that_the_save_is_good(store):
    with store.session("failing", script="echo x >/opt/data"):
        outcome = store("save", "failing", "--trace", "sh -c 'exit 3'")
        assert outcome.code == 1
        assert "exit code 3" in outcome.stderr
        assert "lab/failing@1 is saved" in outcome.stderr
        store("save", "failing", "--trace", "'").fails(EXIT_USAGE, "--trace")
    assert not glob.glob(f"{store.root}/store/starts/lab/failing/*")


def test_eager_fetches_all_before_it_starts(node):
    node("run", "-e", "env", "--eager", "--", "true").ok()
    assert len(glob.glob(f"{node.root}/cache/layers/*/image")) == 2
    assert node.json("stat") == {"running": False}


def test_offline_runs_what_is_complete_and_refuses_the_rest(node, store):
    node("run", "-e", "env", "--offline", "--", "true").fails(EXIT_RUN_FAILED, "does not have all of it", "cache warm")
    assert not os.path.exists(f"{node.run_directory}/images.socket")
    node("cache", "warm", "env").ok()
    assert node("run", "-e", "env", "--offline", "--", "cat", "/opt/many/2/2").ok() == "file 2 of a thousand"
    both = node("run", "-e", "env", "--offline", "--eager", "--", "true")
    both.fails(EXIT_RUN_FAILED, "--eager and --offline")


def test_stat_shows_what_was_fetched_and_which_files(node):
    job = node.start("run", "-e", "env", "--no-start-pack", "--", "sh", "-c", "cat /opt/many/3/3; exec sleep 60")
    try:
        assert job.stdout.readline() == b"file 3 of a thousand\n"
        shown = node("stat", "--files").ok()
        assert "/bin/busybox" in shown
        if kernel_at_least(6, 12):  # else it reads through a loop device, and what lies beside a file, too
            assert "/opt/many/3/3" in shown
            assert "/opt/large1" not in shown
        state = node.json("stat")
        assert state["running"]
        assert state["fetched"]["requests"] > 0
        assert all(layer["ready"] <= layer["size"] for layer in state["layers"])
        node("cache", "stop").fails(4, "containers use the image server")
    finally:
        job.terminate()
        job.communicate(timeout=PATIENCE)
    until(lambda: node("cache", "stop").code == 0)
    assert "no image server" in node("stat").stderr


def test_many_cold_starts_at_once_fetch_every_byte_once(node, store):
    jobs = [node.start("run", "-e", "env", "--no-start-pack", "--", "md5sum", "/opt/large1") for _ in range(8)]
    outputs = {job.communicate(timeout=PATIENCE)[0] for job in jobs}
    expected = hashlib.md5(usedforsecurity=False)
    expected.update(store("run", "-e", "env", "--eager", "--", "cat", "/opt/large1").out)
    assert outputs == {f"{expected.hexdigest()}  /opt/large1\n".encode()}
    fetched = sum(layer["fetched"] for layer in node.json("stat")["layers"])
    assert 6_000_000 < fetched < 24_000_000  # with the rest of the layer, which is streamed as so much of it is read


def test_a_session_over_a_base_that_is_not_here(node):
    with node.session("work", base="tiny", script="cat /usr/share/doc/a; echo new >/opt/new"):
        assert node("save", "work").ok() == "lab/work@1"
    assert node.sh("work", "cat /opt/new /usr/share/doc/b").ok() == "new\nb"


def test_the_server_outlives_who_started_it_and_ends_when_it_is_idle(node):
    node("run", "-e", "env", "--", "true").ok()
    assert node.json("stat")["running"]
    assert node("cache", "stop").ok() == ""
    assert not os.path.exists(f"{node.run_directory}/images.socket")
    node("run", "-e", "env", "--", "true").ok()


def test_a_missing_environment_starts_nothing(node):
    node("run", "-e", "nothing", "--", "true").fails(EXIT_RUN_FAILED, "no environment")
    node("cache", "warm", "nothing").fails(EXIT_NOT_FOUND, "no environment")
    assert not os.path.exists(f"{node.run_directory}/images.socket")


def test_it_works_through_loop_devices(node, store):
    looped = Envkit(node.root, store=f"{store.root}/store")
    looped._settings["ENVKIT_LOOP"] = "1"
    assert looped.sh("env", "cat /opt/many/4/4; tail -c 4 /opt/sparse").ok() == "file 4 of a thousand\nend"
