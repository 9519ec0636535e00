"""`services/startpacks`: what the first run of a version costs, as `info` shows it."""

import json
from pathlib import Path

import pytest
from start_support import Images
from stored_support import Lab

from envkit.cli.commands.info import _rows
from envkit.model.startpack import GRANULE
from envkit.services.repairing import repair
from envkit.services.sizes import info, info_json
from envkit.services.startpacks import START
from envkit.services.verifying import verify
from envkit.store import layout, starts


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def put(lab, version, entry_point, size=4 * GRANULE):
    images = Images(*[size] * len(version.layers))
    images.layers = tuple(
        image.replace(digest=layer.tree) for image, layer in zip(images.layers, version.layers, strict=True)
    )
    pack, data = images.pack(entry_point=entry_point)
    return starts.put(
        lab.store, version.env, stack=pack.stack, entry_point=entry_point, digest=pack.digest, pieces=[data]
    )


def row(found):
    return dict(_rows(found))["cold start"]


def test_a_first_run_costs_its_file_lists_and_its_start_pack(lab):
    base = lab.save("a", {"x": b"x" * 1000})
    version = lab.save("b", {"y": b"y" * 1000}, below=base)
    trees = sum(lab.store.size(layout.tree_key(layer.tree)) for layer in version.layers)
    before = info(lab.fresh_context(), "b")
    assert info_json(before)["cold_start"] == {"metadata": trees, "start_packs": []}
    assert row(before).endswith("of file lists, start packs: none yet")
    put(lab, base, "of another stack")
    put(lab, version, "make", size=GRANULE)
    size = put(lab, version, "make").size
    found = info(lab.fresh_context(), "b")
    assert json.loads(json.dumps(info_json(found)))["cold_start"] == {
        "metadata": trees,
        "start_packs": [{"entry_point": "make", "number": 2, "bytes": size}],
    }
    assert "start packs: make 6" in row(found)


def test_of_many_entry_points_a_few_are_shown(lab):
    version = lab.save("b", {"y": b"y" * 1000})
    for number in range(5):
        put(lab, version, f"e{number}")
    found = info(lab.fresh_context(), "b")
    assert len(found.cold.entries) == 5
    assert row(found).endswith(", 2 more")


def test_one_that_is_damaged_is_left_out(lab):
    version = lab.save("b", {"y": b"y" * 1000})
    start = put(lab, version, "make")
    lab.store.delete(start.key)
    lab.store.put_if_absent(start.key, b"nonsense")
    assert info(lab.fresh_context(), "b").cold.entries == ()


def test_a_damaged_one_is_found_and_removed_by_repair(lab):
    version = lab.save("b", {"y": b"y" * 1000})
    start = put(lab, version, "make", size=GRANULE)
    path = Path(lab.store_path, start.key)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    (damage,) = verify(lab.fresh_context(), None, data=True).damages
    assert (damage.key, damage.kind) == (start.key, START)
    done = repair(lab.fresh_context())
    assert ([mended.key for mended in done.mended], done.left) == ([start.key], [])
    assert not path.exists()
    assert verify(lab.fresh_context(), None, data=True).damages == []
