"""`envkit cache` through the command line, with jobs and sessions that use what is in the cache."""

import json
import os
import re

import pytest
from commandline import read_until

pytestmark = [pytest.mark.root, pytest.mark.lxc]

EAGER = {"ENVKIT_FETCH": "eager"}


@pytest.fixture(scope="module")
def full(new_root, tiny_root):
    """A root of its own, and two environments on the base `tiny` in it."""
    envkit = new_root(place="cache")
    envkit("base", "import", "tiny", tiny_root).ok()
    for name in ("one", "two"):
        envkit.saved(name, f"head -c 300000 /dev/urandom >/opt/{name}")
    return envkit


@pytest.fixture
def node(full):
    """The same with nothing in its cache."""
    full("cache", "drop", "--all").ok()
    return full


def layers(node):
    return [entry for entry in node.json("cache", "list")["entries"] if entry["kind"] == "layer"]


def test_warm_list_why_check_drop(node):
    assert layers(node) == []
    warm = node("cache", "warm", "one", "two@1")
    warm.ok()
    assert re.fullmatch(r"\S+/one@1: 2 layers are there, 2 were fetched\n\S+/two@1: 2 layers are there, 1 were fetched\n", warm.stderr)  # fmt: skip
    assert len(layers(node)) == 3 and all(layer["share"] == 1 and not layer["in_use"] for layer in layers(node))
    table = node("cache", "list").ok().splitlines()
    assert table[0].split("  ")[0] == "DIGEST" and len(table) == 1 + len(node.json("cache", "list")["entries"])
    why = node("cache", "why", "one").ok()
    assert re.findall("versions: (.*)", why) == ["base/tiny@1, lab/one@1, lab/two@1", "lab/one@1"]
    assert node("cache", "check").ok() == ""
    node("run", "-e", "one", "--", "true", env=EAGER).ok()
    dropped = node("cache", "drop", "one")
    dropped.ok()
    assert dropped.stderr.startswith("dropped 2 layers and 2 trees: ")
    assert len(layers(node)) == 1
    assert node("run", "-e", "one", "--", "wc", "-c", "/opt/one", env=EAGER).ok() == "300000 /opt/one"


def test_what_is_damaged_is_dropped_and_fetched_again(node):
    node("cache", "warm", "one").ok()
    sums = node("run", "-e", "one", "--", "md5sum", "/opt/one", env=EAGER).ok()
    (own,) = (layer for layer in layers(node) if layer["bytes"] < 1_000_000)
    image = f"{node.root}/cache/layers/{own['digest']}/image"
    with open(image, "r+b") as file:
        file.seek(os.stat(image).st_size - 100_000)
        file.write(b"damage")
    found = node("cache", "check")
    assert found.code == 6
    assert found.out.decode() == f"layer {own['digest'][:12]} was damaged, and is dropped\n"
    assert node("run", "-e", "one", "--", "md5sum", "/opt/one", env=EAGER).ok() == sums


def test_a_quota_evicts_what_is_not_in_use(node):
    node("cache", "warm", "one", "two").ok()
    job = node.start("run", "-e", "one", "--", "sh", "-c", "echo up; sleep 60")
    try:
        read_until(job.stdout, b"up")
        for layer in layers(node):
            os.utime(f"{node.root}/cache/layers/{layer['digest']}/used", (1, 1))
        assert sorted(layer["in_use"] for layer in layers(node)) == [False, True, True]
        env = {"ENVKIT_CACHE_QUOTA": "1K"}
        would = json.loads(node("cache", "gc", "--dry-run", "--json", env=env).ok())
        assert sum(item["kind"] == "layer" for item in would["evicted"]) == 1
        assert len(layers(node)) == 3
        node("cache", "gc", env=env).ok()
        assert [layer["in_use"] for layer in layers(node)] == [True, True]
        kept = node("cache", "drop", "--all")
        kept.ok()
        assert re.search(r"kept 2 layers and \d trees: .*: in use", kept.stderr)
    finally:
        job.terminate()
        job.communicate(timeout=60)
    node("cache", "drop", "--all").ok()
    assert layers(node) == []


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["drop"], 2, "say what to drop: names, or --all"),
        (["drop", "--all", "one"], 2, "say what to drop: names, or --all"),
        (["why", "nobody"], 3, "nobody"),
        (["warm", "nobody"], 3, "nobody"),
        (["warm"], 2, "Missing argument"),
    ],
)
def test_mistakes_are_told(envkit, words, code, text):
    done = envkit("cache", *words)
    assert done.code == code and text in done.stderr and done.out == b""


def test_a_quota_that_is_none_is_told(envkit):
    done = envkit("cache", "list", env={"ENVKIT_CACHE_QUOTA": "hunter2"})
    done.fails(2, "ENVKIT_CACHE_QUOTA must be a size or a share of the file system")
    assert "hunter2" not in done.stderr
