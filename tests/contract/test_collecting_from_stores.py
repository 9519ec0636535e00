"""Collecting, verifying and repairing on every kind of store. Time passes by moving the clocks that gc reads."""

import shutil

import pytest
from aging import DAY, HOUR
from stored_support import Lab

from envkit.services import collecting
from envkit.services.publishing import writing
from envkit.services.repairing import repair
from envkit.services.verifying import verify
from envkit.store import layout
from envkit.store.open import init_store


@pytest.fixture(params=["directory", "s3"])
def lab(request, tmp_path, monkeypatch):
    url = str(tmp_path / "store")
    if request.param == "s3":
        server = request.getfixturevalue("s3")
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        url = server.new_url()
    init_store(url)
    return Lab(tmp_path, store=url)


@pytest.fixture
def later(monkeypatch):
    """A function that lets time pass for collections."""
    passed = 0.0
    now = collecting._Clock.now

    def move(seconds):
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(collecting._Clock, "now", lambda self: now(self) + passed)
    return move


def _objects(lab):
    return {key for key in lab.store.list() if key.startswith(("packs/", "trees/", "envs/"))}


def test_what_nothing_needs_goes_after_two_steps(lab, later):
    lab.save("kept", {"a": b"kept" * 10_000})
    kept = _objects(lab)
    lab.delete(lab.save("gone", {"a": b"gone" * 10_000}))
    assert collecting.collect(lab.fresh_context()).condemned.objects == 0
    later(8 * DAY)
    assert collecting.collect(lab.fresh_context()).condemned.objects == 3
    assert collecting.collect(lab.fresh_context()).deleted.objects == 3
    assert _objects(lab) == kept | {"envs/lab/gone/00000002.json"}
    assert verify(lab.fresh_context(), data=True).damages == []
    assert collecting.collect(lab.fresh_context()).condemned.objects == 0


def test_a_dead_writer_expires(lab, later):
    dead = writing(lab.context)
    dead.__enter__()
    later(11 * HOUR)
    assert collecting.collect(lab.fresh_context()).expired_leases == 0
    later(2 * HOUR)
    assert collecting.collect(lab.fresh_context()).expired_leases == 1
    assert list(lab.store.list("leases/")) == []
    dead.__exit__(None, None, None)


@pytest.mark.root
def test_damage_is_found_and_mended(lab, tmp_path):
    version = lab.save("sci", {"a": b"text" * 10_000, "b": b"more" * 70_000})
    mirror = Lab(tmp_path / "mirror")
    for key in _objects(lab):
        mirror.store.put_if_absent(key, lab.store.get(key, limit=1 << 30))
    shutil.rmtree(f"{lab.root}/cache", ignore_errors=True)
    (pack,) = (key for key in _objects(lab) if key.startswith("packs/"))
    data = lab.store.get(pack, limit=1 << 30)
    tree = layout.tree_key(version.layers[0].tree)
    lab.store.delete(tree)
    lab.store.delete(pack)
    lab.store.put_if_absent(pack, data[:20] + bytes([data[20] ^ 1]) + data[21:])
    assert [damage.key for damage in verify(lab.fresh_context(), data=True).damages] == [tree]
    done = repair(lab.fresh_context(), mirror.store_path)
    assert [damage.key for damage in done.mended] == [tree, pack]
    assert verify(lab.fresh_context(), data=True).damages == []
