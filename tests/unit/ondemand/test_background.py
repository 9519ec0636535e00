"""What is fetched when nobody asks: after a quiet time, slowly, in order; and a layer that is read anyway, at once."""

import random
import threading
import time

import pytest

from envkit.content.pack import PackWriter
from envkit.errors import EnvkitError
from envkit.model.tree import Chunk
from envkit.ondemand.background import QUIET, STREAM_SEQUENTIAL, Background
from envkit.ondemand.fetcher import Fetcher, Source
from envkit.ondemand.waiting import Priority
from envkit.store.directory import DirectoryStore
from envkit.store.layout import pack_key

AHEAD, BACKGROUND = Priority.AHEAD, Priority.BACKGROUND
MIB = 1 << 20


class FakeLayer:
    """A layer whose chunks come when a test says so."""

    def __init__(self, name, count, size=MIB, packs=None):
        self.digest = name
        packs = packs or [0] * count
        self.chunks = [Chunk(bytes(32), size, bytes([pack] * 32), i * size, size) for i, pack in enumerate(packs)]
        self.total = count * size
        self.touched = self.sequential = 0
        self.ready = set()
        self.asked = {}
        self.fetched = []
        self.while_fetching = lambda: None

    def missing(self):
        return sorted(set(range(len(self.chunks))) - self.ready, reverse=True)

    def is_ready(self, number):
        return number in self.ready

    def is_asked(self, number):
        return number in self.asked

    def fetch(self, numbers, priority):
        for number in numbers:
            if self.asked.get(number, 9) > priority:
                self.asked[number] = priority
                self.fetched.append(number)
        self.while_fetching()

    def arrive(self, count=10_000):
        for number in [*self.asked][:count]:
            del self.asked[number]
            self.ready.add(number)


class World:
    def __init__(self, *layers, bandwidth=16 * MIB):
        self.layers = [*layers]
        self.bandwidth = bandwidth
        self.now = 1000.0
        self.drops = 0
        self.background = Background(
            layers=lambda: self.layers, drop=self.drop, bandwidth=lambda: self.bandwidth, clock=lambda: self.now
        )

    def drop(self):
        self.drops += 1
        for layer in self.layers:
            layer.asked = {number: priority for number, priority in layer.asked.items() if priority < BACKGROUND}

    def run(self, seconds, *, arrives=True):
        """Tick as often as asked to; the last tick is at the end of the time."""
        end = self.now + seconds
        while True:
            pause = self.background.tick()
            assert 0.05 <= pause <= 5
            if arrives:
                for layer in self.layers:
                    layer.arrive()
            if self.now >= end:
                return
            self.now = min(end, self.now + pause)


def test_it_begins_after_a_quiet_time():
    layer = FakeLayer("a", 100)
    world = World(layer)
    world.run(QUIET - 0.01)
    assert layer.fetched == []
    world.background.demand()
    world.run(QUIET - 0.01)
    assert layer.fetched == []
    assert world.drops == 0
    world.run(1)
    assert layer.fetched


def test_it_takes_a_quarter_of_the_bandwidth():
    for bandwidth in (16 * MIB, 200 * MIB):
        layer = FakeLayer("a", 4000)
        world = World(layer, bandwidth=bandwidth)
        world.run(QUIET)
        world.run(20)
        assert len(layer.fetched) * MIB == pytest.approx(20 * bandwidth / 4, rel=0.1)


def test_a_chunk_that_is_more_than_the_allowance_is_paid_for_afterwards():
    layer = FakeLayer("a", 1000)
    world = World(layer, bandwidth=MIB)
    world.run(QUIET)
    world.run(40)
    assert len(layer.fetched) == pytest.approx(10, abs=1)


def test_time_in_which_nobody_looked_is_not_made_up_for():
    layer = FakeLayer("a", 1000)
    world = World(layer)
    world.run(QUIET + 1)
    layer.fetched.clear()
    world.now += 100
    world.background.tick()
    assert len(layer.fetched) <= 2


def test_little_is_asked_for_at_a_time():
    """What has been asked for and is on its way cannot be paused."""
    layer = FakeLayer("a", 1000)
    world = World(layer, bandwidth=1000 * MIB)
    world.run(QUIET + 10, arrives=False)
    assert len(layer.asked) == 8


def test_it_goes_in_the_order_of_packs_and_of_layers():
    first, second = FakeLayer("a", 6, packs=[2, 1, 2, 1, 3, 1]), FakeLayer("b", 3)
    first.ready = {2}
    world = World(first, second)
    world.run(QUIET + 1)
    assert first.fetched == [1, 3, 5, 0, 4]
    assert not second.fetched or first.missing() == []
    world.run(30)
    assert second.fetched == [0, 1, 2]
    assert all(set(layer.asked.values()) <= {BACKGROUND} for layer in world.layers)


def test_what_came_otherwise_is_not_asked_for():
    layer = FakeLayer("a", 50)
    world = World(layer, bandwidth=4 * MIB)
    world.run(QUIET + 3)
    assert 0 < len(layer.fetched) < 10
    layer.ready |= set(range(20, 40))
    layer.fetch([45], Priority.DEMAND)
    world.run(60)
    assert sorted(layer.fetched) == [*range(20), *range(40, 50)]


def test_a_miss_pauses_it_at_once_and_nothing_is_forgotten():
    layer = FakeLayer("a", 60)
    world = World(layer)
    world.run(QUIET + 2, arrives=False)
    assert layer.asked
    world.background.demand()
    assert (world.drops, layer.asked) == (1, {})
    world.background.demand()
    assert world.drops == 1
    world.run(QUIET - 0.01)
    assert layer.asked == {}
    world.run(60)
    assert layer.missing() == []


def test_a_miss_while_it_asks_pauses_it_too():
    layer = FakeLayer("a", 60)
    world = World(layer)
    layer.while_fetching = world.background.demand
    world.run(QUIET + 0.2, arrives=False)
    assert layer.fetched
    assert layer.asked == {}
    layer.while_fetching = lambda: None
    world.run(60)
    assert layer.missing() == []


def test_what_cannot_be_had_is_left_out_and_tried_again_later():
    layer = FakeLayer("a", 10)
    world = World(layer)
    tries = []

    def fail():
        tries.extend(number for number in layer.asked if number in (3, 4))
        layer.asked.pop(3, None)
        layer.asked.pop(4, None)

    layer.while_fetching = fail
    world.run(QUIET + 300)
    assert layer.missing() == [4, 3]
    assert tries == [3, 4]
    layer.while_fetching = lambda: None
    world.run(600)
    assert layer.missing() == []


@pytest.mark.parametrize("why", ["touched", "sequential"])
def test_a_layer_that_is_read_anyway_is_fetched_as_fast_as_it_comes(why):
    layer, other = FakeLayer("a", 400), FakeLayer("b", 400)
    world = World(layer, other)
    world.background.demand()
    layer.touched, other.touched = 0.29 * layer.total, 0.29 * other.total
    layer.sequential = STREAM_SEQUENTIAL - 1
    world.run(0.1)
    assert layer.fetched == []
    if why == "touched":
        layer.touched = 0.31 * layer.total
    else:
        layer.sequential = STREAM_SEQUENTIAL
    world.run(0, arrives=False)
    assert len(layer.asked) == 16
    assert set(layer.asked.values()) == {AHEAD}
    world.background.demand()  # pauses only what goes slowly
    assert len(layer.asked) == 16
    assert world.drops == 0
    world.run(3)
    assert layer.missing() == []
    assert layer.fetched == [*range(400)]
    assert other.fetched == []


def test_a_fast_link_is_kept_busy_with_more():
    layer = FakeLayer("a", 400)
    layer.sequential = STREAM_SEQUENTIAL
    world = World(layer, bandwidth=50 * MIB)
    world.run(0, arrives=False)
    assert len(layer.asked) == 50
    world.bandwidth = 10_000 * MIB
    world.run(0, arrives=False)
    assert len(layer.asked) == 64
    layer.arrive(5)
    world.run(0, arrives=False)
    assert len(layer.asked) == 64
    assert len(layer.fetched) == 69


def test_filling_becomes_streaming():
    layer = FakeLayer("a", 100)
    world = World(layer)
    world.run(QUIET + 1, arrives=False)
    filling = [*layer.asked]
    assert filling
    assert set(layer.asked.values()) == {BACKGROUND}
    layer.touched = layer.total // 2
    world.run(0, arrives=False)
    assert set(layer.asked.values()) == {AHEAD}
    world.background.demand()
    assert len(layer.asked) == 16
    world.run(10)
    assert sorted(layer.fetched) == sorted([*filling, *range(100)])


def test_layers_that_are_not_used_any_more_are_left_alone():
    first, second = FakeLayer("a", 100), FakeLayer("b", 10)
    world = World(first, second)
    world.run(QUIET + 1)
    got = len(first.fetched)
    assert got < 100
    world.layers = [second]
    world.run(60)
    assert len(first.fetched) == got
    assert second.missing() == []
    assert set(world.background._work) == {"b"}


def test_a_layer_that_is_broken_does_not_stop_the_others(capsys):
    first, second = FakeLayer("a", 10), FakeLayer("b", 10)

    def broken():
        raise EnvkitError("lost")

    first.missing = broken
    world = World(first, second)
    world.run(QUIET + 60)
    assert second.missing() == []
    assert "layer a" in capsys.readouterr().err


def test_run_goes_on_after_a_mistake_and_stops_when_told(monkeypatch, capsys):
    monkeypatch.setattr("envkit.ondemand.background._IDLE", 0.001)
    monkeypatch.setattr("envkit.ondemand.background._ROUND", 0.001)
    calls = []
    stop = threading.Event()

    def layers():
        calls.append(1)
        if len(calls) == 3:
            stop.set()
        raise ValueError("mistake")

    Background(layers=layers, drop=int, bandwidth=lambda: 1.0).run(stop)
    assert len(calls) == 3
    assert "mistake" in capsys.readouterr().err


class FetchedLayer(FakeLayer):
    """A layer whose chunks come from a store, through the fetcher."""

    def __init__(self, chunks, source, fetcher):
        super().__init__("a", len(chunks))
        self.chunks = chunks
        self.total = sum(chunk.size for chunk in chunks)
        self._source = source
        self._fetcher = fetcher
        self.errors = []

    def fetch(self, numbers, priority):
        new = [number for number in numbers if number not in self.asked]
        self.asked |= dict.fromkeys(new, priority)
        for number in set(numbers) - set(new):
            self._fetcher.raise_priority(self.chunks[number].digest, priority)
        wanted = [(self.chunks[number], lambda *got, n=number: self.take(n, *got)) for number in new]
        self._fetcher.chunks(self._source, wanted, priority)

    def take(self, number, plain, error):
        if error is None:
            self.ready.add(number)
        else:
            self.errors.append(error)
        self.asked.pop(number, None)


@pytest.mark.parametrize("streamed", [False, True])
def test_with_the_fetcher_everything_comes_in_few_requests(tmp_path, streamed):
    store = DirectoryStore(str(tmp_path))
    with PackWriter(lambda digest, frames: store.put_if_absent(pack_key(digest), frames), target=MIB) as writer:
        luck = random.Random(1)
        for _ in range(200):
            writer.add(luck.randbytes(20_000))
        chunks = writer.finish().chunks
    fetcher = Fetcher()
    layer = FetchedLayer(chunks, Source("store", store.get_range), fetcher)
    world = World(layer)
    world.background._drop = lambda: fetcher.drop(BACKGROUND)
    if streamed:
        layer.sequential = STREAM_SEQUENTIAL
    end = time.monotonic() + 30
    demands = 0
    while layer.missing() and time.monotonic() < end:
        world.now += world.background.tick()
        time.sleep(0.001)
        if len(layer.ready) > 60 and demands < 3:
            world.background.demand()
            demands += 1
    counters = fetcher.counters()
    fetcher.close()
    assert layer.missing() == []
    assert counters.chunks[AHEAD if streamed else BACKGROUND] == 200
    assert sum(counters.requests) < 60
