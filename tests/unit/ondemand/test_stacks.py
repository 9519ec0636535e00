"""Stacks in use: which is recorded, what helps it, what it has cost; and messages that are none."""

import types

import pytest
from cache_support import plain_sample

from envkit.drivers import mount
from envkit.errors import EnvkitError
from envkit.model.paths import Paths
from envkit.ondemand import stacks as stacks_module
from envkit.ondemand.fetcher import Fetcher
from envkit.ondemand.refusals import Refusals
from envkit.ondemand.sources import Stores
from envkit.ondemand.stacks import Stacks
from envkit.store.open import init_store

ONE, TWO = "1" * 64, "2" * 64


class FakeLayers:
    """Layers that are open; `fetched_bytes` grow when the test says so."""

    room_for_names = True

    def __init__(self, directory):
        sample = plain_sample()
        self._layers = {
            digest: types.SimpleNamespace(
                cached=sample.open(f"{directory}/{digest}"),
                fetched_bytes=0,
                stalled=0.0,
                waits=7,
                fetch=lambda *_: None,
                refusals=Refusals(),
            )
            for digest in (ONE, TWO)
        }

    def layer(self, digest):
        return self._layers[digest]

    def close(self):
        for layer in self._layers.values():
            layer.cached.close()


class FakeStream:
    """A stream that expects a granule."""

    def __init__(self, *granules):
        self.granules = set(granules)
        self.active = True
        self.expired = 0
        self.done = 1
        self.waiters = []

    def expected(self, layer, granule):
        return (layer, granule) in self.granules

    def wait(self, layer, granule, waiter):
        if (layer, granule) in self.granules:
            self.waiters.append(waiter)
        return (layer, granule) in self.granules

    def expire(self):
        self.expired += 1

    def progress(self):
        return types.SimpleNamespace(bytes=1000, done=self.done)


@pytest.fixture
def stacks(tmp_path):
    init_store(str(tmp_path / "store"))
    stores = Stores()
    fetcher = Fetcher()
    found = Stacks(Paths.at(str(tmp_path / "root")), fetcher, stores)
    found.layers = FakeLayers(tmp_path)
    found.store = stores.add({"url": str(tmp_path / "store")})
    yield found
    found.layers.close()
    fetcher.close()


def message(stacks, **changes):
    usual = {
        "layers": [ONE, TWO],
        "served": [TWO],
        "environment": "lab/sci",
        "command": ["true"],
        "store": stacks.store,
        "start_pack": True,
        "trace": False,
    }
    return usual | changes


def begin(stacks, **changes):
    return stacks.begin(message(stacks, **changes))["stack"]


def prepared(stacks, stack):
    return stacks.prepared({"stack": stack})


@pytest.mark.parametrize(
    "changes",
    [{"layers": "x"}, {"layers": ["x"]}, {"served": [5]}, {"layers": [ONE + "0"]}, {"served": None}, {"served": {}}],
)
def test_messages_that_are_none_are_refused(stacks, changes):
    with pytest.raises(EnvkitError, match="malformed"):
        begin(stacks, **changes)
    assert stacks._stacks == {}


def test_a_stack_that_nobody_knows_is_told_from_one_that_has_ended(stacks):
    with pytest.raises(EnvkitError, match="was restarted"):
        prepared(stacks, "0123abcd")
    assert stacks.end("0123abcd", code=0) == {}


def test_the_first_run_is_recorded_and_a_second_one_of_it_is_not(stacks):
    first, second = begin(stacks), begin(stacks)
    assert prepared(stacks, first) == {"recording": first, "whole": True, "streaming": False}
    assert prepared(stacks, second) == {"recording": "", "whole": False, "streaming": False}
    other = begin(stacks, command=["python3", "x.py"])
    assert prepared(stacks, other)["recording"] == other
    stacks.end(first, code=None)
    third = begin(stacks)
    assert prepared(stacks, third)["recording"] == third


@pytest.mark.parametrize("changes", [{"environment": ""}, {"start_pack": False}])
def test_without_a_name_or_where_none_is_wanted_nothing_is_recorded(stacks, changes):
    assert prepared(stacks, begin(stacks, **changes)) == {"recording": "", "whole": False, "streaming": False}


def test_without_room_for_names_nothing_is_recorded(stacks):
    stacks.layers.room_for_names = False
    assert prepared(stacks, begin(stacks))["recording"] == ""


def test_touches_go_to_the_recording_that_they_belong_to(stacks):
    stack = begin(stacks)
    prepared(stacks, stack)
    known = stacks.layers.layer(TWO).cached.map
    stacks.touched(stack, TWO, known.metadata, 4096, missed=True)
    stacks.touched(stack, "3" * 64, known.metadata, 4096, missed=True)
    stacks.touched("0123abcd", TWO, known.metadata, 4096, missed=True)
    recording = stacks._stacks[stack].recording
    assert recording.granules() == [(1, known.metadata // 16384)]
    assert recording.missed == 4096


def test_what_a_stack_has_cost_begins_when_it_is_prepared(stacks):
    layer = stacks.layers.layer(TWO)
    layer.fetched_bytes = 500
    layer.refusals.note("earlier", 7)
    stack = begin(stacks, start_pack=False)
    prepared(stacks, stack)
    layer.fetched_bytes, layer.stalled = 700, 1.5
    layer.refusals.note("packs/ab is gone", 2)
    cost = stacks.end(stack, code=0)
    assert (cost["bytes"], cost["chunk_bytes"], cost["start_pack_bytes"]) == (200, 200, 0)
    assert (cost["stalled"], cost["ready"], cost["size"]) == (1.5, 0, layer.cached.total_bytes)
    assert (cost["refused_reads"], cost["refused_because"]) == (2, ["packs/ab is gone"])


def test_a_start_pack_helps_those_layers_that_are_served(stacks):
    stack = begin(stacks, start_pack=False)
    stream = FakeStream((0, 5), (1, 5))
    help_with(stacks, stack, stream)
    assert stacks.expected(TWO, 5)
    assert not stacks.expected(TWO, 6)
    assert not stacks.expected(ONE, 5)  # it is complete, and not served
    assert stacks.wait(TWO, 5, lambda arrived: None)
    assert not stacks.wait(TWO, 6, lambda arrived: None)
    assert len(stream.waiters) == 1


def test_a_start_pack_that_is_still_coming_outlives_its_stack(stacks):
    stack = begin(stacks, start_pack=False)
    stream = FakeStream((1, 5))
    help_with(stacks, stack, stream)
    assert stacks.end(stack, code=0)["start_pack_bytes"] == 1000
    assert stacks.expected(TWO, 5)
    stacks.round()
    assert stream.expired == 1
    stream.active = False
    stacks.round()
    stacks.round()
    assert stream.expired == 2
    assert not stacks.expected(TWO, 5)


@pytest.fixture
def devices(tmp_path, monkeypatch):
    """Stands for the kernel's devices: a function that tells how far ahead of one it reads, in KiB."""
    for name in ("erofs-7", "7:0"):
        (tmp_path / "devices" / name).mkdir(parents=True)
        (tmp_path / "devices" / name / "read_ahead_kb").write_text("16")
    monkeypatch.setattr(mount, "_DEVICES", str(tmp_path / "devices"))
    return lambda name: int((tmp_path / "devices" / name / "read_ahead_kb").read_text())


@pytest.fixture
def helped(stacks, devices):
    """The stream of a stack for which the kernel reads ahead only a little."""
    stack, stream = begin(stacks, start_pack=False), FakeStream((1, 5))
    prepared(stacks, stack)
    help_with(stacks, stack, stream)
    stacks.mounted(stack, ["erofs-7", "7:0", "../erofs-7", "erofs-8"])
    stacks.round()
    assert devices("erofs-7") == 16
    stream.active = False
    return stream


def test_the_kernel_reads_ahead_again_when_readers_wait_for_what_no_start_pack_brings(stacks, devices, helped):
    layer = stacks.layers.layer(TWO)
    for more, ahead in ((0, 16), (2, 16), (1, 128)):
        layer.waits += more
        stacks.round()
        assert devices("erofs-7") == ahead
    assert devices("7:0") == 16


def test_the_kernel_reads_ahead_again_some_time_after_a_start_pack(stacks, devices, helped, monkeypatch):
    stacks.round()
    assert devices("erofs-7") == 16
    monkeypatch.setattr(stacks_module, "_AT_WORK", 0.0)
    stacks.round()
    assert devices("erofs-7") == 128


def test_the_kernel_reads_ahead_again_at_once_where_all_was_here(stacks, devices, helped):
    helped.done = 0
    stacks.round()
    assert devices("erofs-7") == 128


def test_the_kernel_reads_ahead_again_when_a_recording_takes_no_more(stacks, devices):
    stack = begin(stacks)
    assert prepared(stacks, stack)["recording"] == stack
    stacks.mounted(stack, ["erofs-7"])
    stacks.round()
    assert devices("erofs-7") == 16
    stacks._stacks[stack].recording.end()
    stacks.round()
    assert devices("erofs-7") == 128


def help_with(stacks, stack, stream):
    """Have a stream help a stack."""
    stacks._stacks[stack].stream = stream
    stacks._helped[stack] = stacks._stacks[stack]
