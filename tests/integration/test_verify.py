"""`envkit verify` and `envkit repair` through the command line: bit rot in every class of object.

Never wrong bytes: a run gives what was saved, or fails and names the object. Everything else goes on working, `verify`
names what is affected, and `repair` heals it.
"""

import itertools
import json
import os
import signal
import subprocess

import pytest
from commandline import wait_until

pytestmark = [pytest.mark.root, pytest.mark.lxc]

_numbers = itertools.count()
SUM = "sha256sum -c /opt/sum"


@pytest.fixture(scope="module")
def prepared(new_root, tiny_root):
    """A store with the environments `sick` and `well`."""
    envkit = new_root(place="rot-prepared")
    envkit("base", "import", "tiny", tiny_root).ok()
    for name in ("sick", "well"):
        script = f"head -c 600000 /dev/urandom >/opt/{name}; cat /opt/{name} /usr/share/old >/opt/again; cd /opt"
        envkit.saved(name, f"{script}; sha256sum /opt/{name} /opt/again >/opt/sum")
    return f"{envkit.root}/store"


@pytest.fixture
def node(new_root, prepared):
    """A node with a copy of the store, and with empty caches."""
    envkit = new_root(place=f"rot-{next(_numbers)}")
    os.mkdir(envkit.root, 0o700)
    subprocess.run(["cp", "-a", "-T", prepared, f"{envkit.root}/store"], check=True)
    return envkit


def layer(node, name):
    return node.json("info", name)["layers"][-1]["tree"]


def key_of(node, kind, name="sick"):
    """Return the key of an object of an environment's own layer."""
    if kind == "record":
        return f"envs/lab/{name}/00000001.json"
    if kind == "tree":
        tree = layer(node, name)
        return f"trees/{tree[:2]}/{tree}"
    others = set(packs_of(node, "well" if name == "sick" else "sick"))
    (pack,) = [pack for pack in packs_of(node, name) if pack not in others]
    return pack


def packs_of(node, name):
    """Return the keys of the packs that an environment needs, by asking what is missing when nothing is there."""
    store, away = f"{node.root}/store", f"{node.root}/away"
    os.rename(f"{store}/packs", away)
    found = json.loads(node("verify", name, "--json").stdout)
    os.rename(away, f"{store}/packs")
    return [damage["object"] for damage in found["damages"]]


def flip(data):
    place = len(data) * 2 // 3
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


CHANGES = {
    "a flipped bit": lambda node, kind, data: flip(data),
    "cut short": lambda node, kind, data: data[: len(data) // 2],
    "empty": lambda node, kind, data: b"",
    "missing": lambda node, kind, data: None,
    "another valid object": lambda node, kind, data: read(node, key_of(node, kind, "well")),
}


def read(node, key):
    with open(f"{node.root}/store/{key}", "rb") as file:
        return file.read()


def damage(node, kind, how):
    key = key_of(node, kind)
    data = CHANGES[how](node, kind, read(node, key))
    os.unlink(f"{node.root}/store/{key}")
    if data is not None:
        with open(f"{node.root}/store/{key}", "wb") as file:
            file.write(data)
    forget_caches(node)
    return key


def forget_caches(node):
    def gone():
        return subprocess.run(["rm", "-rf", f"{node.root}/cache"], check=False).returncode == 0

    wait_until(gone, "the image server makes no new files in the cache")


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("kind", ["tree", "pack", "record"])
def test_rot_is_never_run_is_named_and_heals(node, prepared, kind, how):
    key = damage(node, kind, how)
    ran = node.sh("sick", SUM, options=("--eager",))
    assert ran.code == 125
    assert ran.out == b""
    assert "Traceback" not in ran.stderr
    if kind == "pack":  # where it is read as it is needed, the reader gets an error in its place
        served = node.sh("sick", SUM)
        assert served.code not in (0, 125)
        assert served.stdout.count(": OK") < 2
    assert node.sh("well", SUM).ok() == "/opt/well: OK\n/opt/again: OK"
    if (kind, how) != ("record", "missing"):
        said = node("verify", "--data")
        assert said.code == 6
        assert said.stdout.startswith(f"{key}: ")
        assert "\n  needed by lab/sick@1\n" in said.stdout
        if kind == "pack":
            assert {"  /opt/sick", "  /opt/again"} & set(said.stdout.splitlines())
        assert node("verify", "well", "--data").code == 0
        forget_caches(node)
        mended = node("repair", "--from", prepared)
        assert mended.code == 0, mended.stderr
        assert f"mended {key}" in mended.stderr
        assert "everything is there" in node("verify", "--data").stderr
        assert node.sh("sick", SUM).ok() == "/opt/sick: OK\n/opt/again: OK"


def test_a_machine_that_ran_it_heals_the_store_by_itself(node):
    pack, tree = key_of(node, "pack"), key_of(node, "tree")
    node.sh("sick", SUM, options=("--eager",)).ok()
    os.rename(f"{node.root}/cache", f"{node.root}/kept")
    damage(node, "pack", "a flipped bit")
    damage(node, "tree", "missing")
    os.rename(f"{node.root}/kept", f"{node.root}/cache")
    done = node.json("repair")
    assert sorted(item["object"] for item in done["mended"]) == sorted([pack, tree])
    assert done["left"] == []
    forget_caches(node)
    assert node.sh("sick", SUM).ok() == "/opt/sick: OK\n/opt/again: OK"


def test_what_cannot_be_repaired_is_told_with_what_to_do(node):
    key = damage(node, "pack", "cut short")
    done = node("repair")
    assert done.code == 6
    assert done.stderr == "mended 0 objects, 1 stay damaged\n"
    assert done.stdout.startswith(f"{key}: ")
    assert f"restore {key} from a copy of the store" in done.stdout
    assert node("delete", "sick", "--yes").code == 0
    assert node("verify", "--data").code == 0


@pytest.mark.parametrize("how", ["a flipped bit", "empty", "missing"])
def test_a_store_without_its_format_says_so(node, how):
    path = f"{node.root}/store/format.json"
    with open(path, "rb") as file:
        data = {"empty": b"", "a flipped bit": b"[" + file.read()[1:], "missing": None}[how]
    os.unlink(path)
    if data is not None:
        with open(path, "wb") as file:
            file.write(data)
    for words in (["verify"], ["repair"], ["gc"]):
        node(*words).fails(7, "format.json")


@pytest.mark.parametrize("note", ["gc/00000001.condemned", f"leases/{'ab' * 16}-00000001"])
def test_garbage_among_the_notes_harms_nobody(node, note):
    path = f"{node.root}/store/{note}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"garbage\x1b[31m")
    assert node.sh("sick", SUM).ok() == "/opt/sick: OK\n/opt/again: OK"
    if note.startswith("gc/"):
        said = node("verify")
        assert said.code == 6
        assert note in said.stdout
        node("base", "import", "x", f"{node.root}/store").fails(2, "holds no root file system")
        assert "gave up the collection 1" in node("gc").stderr
    assert node("verify").code == 0
    node("gc").ok()


@pytest.mark.parametrize("point", ["repair:found", "repair:removed", "repair:restored"])
def test_a_killed_repair_is_finished_by_the_next(node, prepared, point):
    damage(node, "pack", "a flipped bit")
    assert node("repair", "--from", prepared, env={"ENVKIT_CRASH": point}).code == -signal.SIGKILL
    assert node.sh("well", SUM).code == 0
    node("repair", *(["--from", prepared] if point == "repair:found" else [])).ok()
    assert node("verify", "--data").code == 0
    assert node.sh("sick", SUM).ok() == "/opt/sick: OK\n/opt/again: OK"


def test_verify_counts_and_samples(node):
    whole = node.json("verify", "--data")
    assert (whole["versions"], whole["trees"], whole["damages"]) == (3, 3, [])
    assert whole["checked_chunks"] > 3
    assert node("verify", "--sample", "50%").code == 0
    assert node("verify", "sick@1").stderr.startswith("checked 1 versions, 2 trees")


@pytest.mark.parametrize("share", ["0%", "101%", "5", "x"])
def test_a_share_that_is_none_is_told(node, share):
    node("verify", "--sample", share).fails(2, "invalid share", "as in 5% or 0.5%")


def test_verify_of_what_is_not_there(node):
    node("verify", "nobody").fails(3, "no environment lab/nobody")
    node("verify", "sick@9").fails(3, "lab/sick has no version 9")


def test_repair_of_a_store_from_itself_or_from_no_store(node, place):
    node("repair", "--from", f"{node.root}/store").fails(2, "is the store that is to be repaired")
    node("repair", "--from", str(place)).fails(7, "is not an envkit store")
