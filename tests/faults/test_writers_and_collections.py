"""Writers and collections at the same time, as processes: whatever was acknowledged and not deleted is whole.

Time is made by hand: all objects are set back by a day again and again, so that collections become due, and leases of
writers that are at work expire under their hands.
"""

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest
from commandline import CHECKOUT
from faults.busy import content
from faults.scenarios import SEED
from faults.second_reader import SecondReader, Unreadable
from torture_support import World

pytestmark = pytest.mark.root

_WRITERS = 3
_SECONDS = 8
_DAY = 86_400


def _grow_older(store, *, leases):
    """Set everything back by two days; leases too, or only what is not one."""
    for place, folders, names in os.walk(store):
        if not leases and "leases" in folders:
            folders.remove("leases")
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                then = os.stat(f"{place}/{name}").st_mtime - 2 * _DAY
                os.utime(f"{place}/{name}", (then, then))


def _play(world, *, seconds, broken=None):
    """Run writers and collections; return what the writers said, by environment, and how many collections deleted."""
    environment = world.envkit.environment(more={"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/tests"})
    writers = {}
    for number in range(_WRITERS):
        name = f"busy{number}"
        argv = [sys.executable, f"{CHECKOUT}/tests/faults/busy.py", world.store, f"{world.directory}/{name}", name]
        argv += [str(SEED * 100 + number), str(seconds)]
        writers[name] = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    deleted, turn, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end or any(process.poll() is None for process in writers.values()):
        turn += 1
        _grow_older(world.store, leases=turn % 4 == 0)
        outcome = world.run("gc", "--grace", "1d", "--json", broken=broken)
        assert "Traceback" not in outcome.stderr, outcome.stderr
        if outcome.code == 0:
            done = json.loads(outcome.stdout)
            deleted += bool(done["deleted"] and done["deleted"]["packs"])
    said = {
        name: [json.loads(line) for line in process.communicate(timeout=60)[0].splitlines()]
        for name, process in writers.items()
    }
    assert [process.returncode for process in writers.values()] == [0] * _WRITERS
    return said, deleted


def _check(world, said):
    """Whatever was acknowledged and not deleted is there, byte by byte."""
    there = SecondReader(world.store).versions(deleted=False)
    reader, checked = SecondReader(world.store), 0
    for name, lines in said.items():
        deleted = {line["deleted"] for line in lines if "deleted" in line}
        for line in lines:
            if line.get("saved") in {None, *deleted}:
                continue
            items = reader.layer(there[f"lab/{name}"][line["saved"]]["layers"][-1]["tree"])
            for file, seed in line["files"].items():
                assert items[file.encode()].content == content(file, seed)
            checked += 1
    return checked


def test_no_version_that_was_acknowledged_loses_anything_to_a_collection(zygote, scratch):
    world = World(scratch, zygote, seed=SEED)
    world.make_store()
    said, deleted = _play(world, seconds=_SECONDS)
    saved = sum("saved" in line for lines in said.values() for line in lines)
    assert saved > 20
    assert deleted > 1, "no collection deleted anything"
    assert _check(world, said) >= _WRITERS


def test_a_collection_that_deletes_too_much_is_noticed_by_this(zygote, scratch):
    world = World(scratch, zygote, seed=SEED)
    world.make_store()
    said, _ = _play(world, seconds=4, broken="collects-too-much")
    with pytest.raises(Unreadable):
        _check(world, said)
