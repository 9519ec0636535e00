"""One layer that is served: who waits for what, and that everybody gets the right bytes or an error, once."""

import errno
import os
import random
from types import SimpleNamespace

import pytest
from cache_support import GRANULE, make_sample, plain_sample

from envkit.cache.layer import CachedLayer, CacheLost
from envkit.content.errors import DamagedChunk
from envkit.drivers.files import DiskFull
from envkit.errors import EnvkitError
from envkit.ondemand import served as served_module
from envkit.ondemand.fetch_errors import FetchTimeout, Forgotten
from envkit.ondemand.fetcher import Priority, Source
from envkit.ondemand.refusals import Refusals
from envkit.ondemand.served import ServedLayer
from envkit.store.errors import ObjectNotFound

_DATA = GRANULE


class FakeFetcher:
    """Keeps what was asked for until the test answers it."""

    def __init__(self, sample):
        self._numbers = {chunk.digest: number for number, chunk in enumerate(sample.map.chunks)}
        self.asked = []
        self.raised = []
        self.link = SimpleNamespace(gap=0)
        self._open = []

    def chunks(self, source, wanted, priority):
        for chunk, done in wanted:
            number = self._numbers[chunk.digest]
            self.asked.append((source.name, number, priority))
            self._open.append((number, done))

    def raise_priority(self, digest, priority):
        self.raised.append((self._numbers[digest], priority))

    def answer(self, number, plain=None, error=None):
        """Answer the oldest request for a chunk."""
        position = [open_number for open_number, _ in self._open].index(number)
        self._open.pop(position)[1](plain, error)

    @property
    def open(self):
        return [number for number, _ in self._open]


class FakeStreams:
    """Start packs on their way: `coming` are granules, `before_wait` is called when somebody is about to wait."""

    def __init__(self):
        self.coming = set()
        self.waiters = {}
        self.before_expected = lambda: None
        self.before_wait = lambda: None

    def expected(self, digest, granule):
        before, self.before_expected = self.before_expected, lambda: None
        before()
        return granule in self.coming

    def wait(self, digest, granule, waiter):
        before, self.before_wait = self.before_wait, lambda: None
        before()
        if granule not in self.coming:
            return False
        self.waiters.setdefault(granule, []).append(waiter)
        return True

    def tell(self, granule, *, arrived):
        self.coming.discard(granule)
        for waiter in self.waiters.pop(granule, ()):
            waiter(arrived)


class Reader:
    """A read that the kernel waits for: what it was answered."""

    def __init__(self):
        self.answers = []

    def answer(self, *data):
        self.answers.append(b"".join(data))

    def refuse(self, number):
        self.answers.append(number)


class Setup:
    """A served layer of a sample, with fakes around it."""

    def __init__(self, directory, sample):
        self.sample = sample
        self.directory = str(directory)
        self.fetcher = FakeFetcher(sample)
        self.streams = FakeStreams()
        self.reopened = 0
        cached = sample.open(directory)
        self.layer = ServedLayer("ab" * 32, cached, self.reopen, self.fetcher, self.streams)
        self.layer.come_from([Source("first", None)])

    def reopen(self):
        self.reopened += 1
        return self.sample.open(self.directory)

    def read(self, offset, length):
        reader = Reader()
        self.layer.read(offset, length, reader)
        return reader

    def arrive(self, *numbers):
        for number in numbers:
            self.fetcher.answer(number, self.sample.plains[number])

    def right(self, reader, offset, length):
        assert reader.answers == [self.sample.image[offset : offset + length]]


@pytest.fixture
def setup(tmp_path):
    return Setup(tmp_path / "layer", plain_sample(count=6))


def chunk_at(number):
    """Where a chunk of the plain sample begins."""
    return _DATA + number * GRANULE


def test_after_many_misses_what_lies_behind_comes_along(tmp_path):
    setup = Setup(tmp_path / "layer", plain_sample(count=60))
    setup.fetcher.link.gap = setup.sample.map.chunks[1].stored
    places = random.Random(1).sample(range(0, 60, 3), 20)  # in no order that read-ahead could follow
    for first in places:
        setup.read(chunk_at(first), 10)
    asked = {number: priority for _, number, priority in setup.fetcher.asked}
    assert places[0] + 1 not in asked
    assert asked[places[-1] + 1] is Priority.AHEAD


def test_what_is_there_is_answered_at_once(setup):
    setup.right(setup.read(0, 4096), 0, 4096)  # metadata
    assert setup.fetcher.asked == []
    assert setup.read(setup.layer.size, 100).answers == [b""]
    assert setup.read(setup.layer.size + 5000, 100).answers == [b""]
    setup.sample.put(setup.layer.cached, *range(6))
    end = setup.layer.size - 100
    setup.right(setup.read(end, 4096), end, 100)


def test_what_is_missing_is_waited_for_and_fetched_once(setup):
    readers = [setup.read(chunk_at(1) + 5, GRANULE) for _ in range(3)]
    assert setup.fetcher.open == [1, 2]
    setup.arrive(2)
    assert [reader.answers for reader in readers] == [[], [], []]
    assert not setup.layer.idle
    setup.arrive(1)
    for reader in readers:
        setup.right(reader, chunk_at(1) + 5, GRANULE)
    assert setup.layer.idle
    assert setup.layer.fetched_bytes == 2 * GRANULE


def test_what_is_asked_for_in_advance_comes_sooner_when_somebody_waits(setup):
    setup.layer.fetch([3], Priority.BACKGROUND)
    reader = setup.read(chunk_at(3), 10)
    assert setup.fetcher.open == [3]
    assert setup.fetcher.raised == [(3, Priority.DEMAND)]
    setup.arrive(3)
    setup.right(reader, chunk_at(3), 10)


def test_what_arrives_while_somebody_looks_is_not_waited_for_in_vain(setup):
    """The chunk comes after it was found missing, and before the read waits for it."""
    setup.layer.fetch([1], Priority.AHEAD)
    setup.streams.before_expected = lambda: setup.arrive(1)
    reader = setup.read(chunk_at(1), 10)
    setup.right(reader, chunk_at(1), 10)
    assert setup.fetcher.asked == [("first", 1, Priority.AHEAD)]


def test_what_goes_to_memory_while_somebody_looks_is_not_waited_for_in_vain(setup, monkeypatch):
    full(setup, monkeypatch)
    test_what_arrives_while_somebody_looks_is_not_waited_for_in_vain(setup)


def test_who_cannot_be_given_bytes_gets_an_error(setup):
    readers = [setup.read(chunk_at(0), 10), setup.read(chunk_at(0), 2 * GRANULE)]
    setup.fetcher.answer(0, error=EnvkitError("gone"))
    assert [reader.answers for reader in readers] == [[errno.EIO], [errno.EIO]]
    setup.arrive(1)
    assert [reader.answers for reader in readers] == [[errno.EIO], [errno.EIO]]
    again = setup.read(chunk_at(0), 10)
    setup.arrive(0)
    setup.right(again, chunk_at(0), 10)


def test_another_store_is_asked_for_what_the_first_cannot_give(setup):
    setup.layer.come_from([Source("first", None), Source("second", None)])
    reader = setup.read(chunk_at(0), 10)
    setup.fetcher.answer(0, error=EnvkitError("gone"))
    assert reader.answers == []
    assert [name for name, *_ in setup.fetcher.asked] == ["first", "second"]
    setup.arrive(0)
    setup.right(reader, chunk_at(0), 10)


def test_without_a_store_there_is_an_error(setup):
    setup.layer.come_from([])
    assert setup.read(chunk_at(0), 10).answers == [errno.EIO]


def test_what_no_store_has_is_not_asked_for_again_for_a_while(setup, monkeypatch):
    chunk = setup.sample.map.chunks[0]
    setup.read(chunk_at(0), 10)
    setup.fetcher.answer(0, error=DamagedChunk(chunk.digest, chunk.pack, "it is"))
    assert setup.read(chunk_at(0), 10).answers == [errno.EIO]
    assert setup.fetcher.open == []
    setup.layer.come_from([Source("second", None)])
    reader = setup.read(chunk_at(0), 10)
    setup.arrive(0)
    setup.right(reader, chunk_at(0), 10)
    setup.read(chunk_at(1), 10)
    setup.fetcher.answer(1, error=DamagedChunk(chunk.digest, chunk.pack, "it is"))
    monkeypatch.setattr(served_module, "_HOPELESS", 0.0)
    setup.read(chunk_at(1), 10)
    assert 1 in setup.fetcher.open


def test_what_was_dropped_while_somebody_came_is_asked_for_again(setup):
    setup.layer.fetch([2], Priority.BACKGROUND)
    reader = setup.read(chunk_at(2), 10)
    setup.fetcher.answer(2, error=Forgotten("it"))
    assert setup.fetcher.asked[-1] == ("first", 2, Priority.DEMAND)
    setup.arrive(2)
    setup.right(reader, chunk_at(2), 10)


def test_what_was_dropped_and_nobody_needs_is_not_asked_for(setup):
    setup.layer.fetch([2], Priority.BACKGROUND)
    setup.fetcher.answer(2, error=Forgotten("it"))
    assert setup.fetcher.open == []
    assert setup.layer.idle


@pytest.mark.parametrize(("patience", "late"), [(0.0, False), (60.0, True)])
def test_who_came_late_has_more_time(setup, patience, late):
    reader = setup.read(chunk_at(2), 10)
    setup.fetcher.answer(2, error=FetchTimeout("it", patience, None))
    assert reader.answers == ([] if late else [errno.EIO])
    assert setup.fetcher.open == ([2] if late else [])


def test_a_cache_that_is_cut_while_somebody_waits_is_made_anew(setup):
    setup.sample.put(setup.layer.cached, 0)
    reader = setup.read(chunk_at(1), GRANULE)
    os.truncate(f"{setup.directory}/partial", 0)
    setup.arrive(1)
    setup.right(reader, chunk_at(1), GRANULE)
    assert setup.reopened == 1
    again = setup.read(chunk_at(0), 10)
    setup.arrive(0)
    setup.right(again, chunk_at(0), 10)
    setup.layer.flush()
    assert setup.layer.cached.chunk_ready(1)  # it was in memory only


def test_a_cache_that_is_cut_is_made_anew_by_who_reads(setup):
    setup.sample.put(setup.layer.cached, 0)
    os.truncate(f"{setup.directory}/partial", 5000)
    reader = setup.read(chunk_at(0), 10)
    assert reader.answers == []
    setup.arrive(0)
    setup.right(reader, chunk_at(0), 10)


def test_a_cache_that_is_lost_while_granules_are_looked_at_is_made_anew(setup):
    setup.streams.before_expected = lambda: os.truncate(f"{setup.directory}/partial", 5000)
    reader = setup.read(chunk_at(0), 2 * GRANULE)
    setup.arrive(0, 1)
    while setup.fetcher.open:
        setup.arrive(setup.fetcher.open[0])
    setup.right(reader, chunk_at(0), 2 * GRANULE)


def test_a_cache_that_cannot_be_made_anew_is_an_error(setup, monkeypatch):
    def fail():
        raise CacheLost(setup.directory, "for good")

    monkeypatch.setattr(setup.layer, "_reopen", fail)
    waiting = setup.read(chunk_at(0), 10)
    os.truncate(f"{setup.directory}/partial", 0)
    assert setup.read(0, 10).answers == [errno.EIO]
    setup.arrive(0)
    assert waiting.answers == [errno.EIO]


def test_another_image_does_not_take_the_place_of_one_that_is_mounted(setup, tmp_path, monkeypatch):
    other = plain_sample(count=6, seed=2)
    monkeypatch.setattr(setup.layer, "_reopen", lambda: other.open(tmp_path / "other"))
    os.truncate(f"{setup.directory}/partial", 0)
    assert setup.read(0, 10).answers == [errno.EIO]


def full(setup, monkeypatch):
    """Have the disk be full."""

    def put_chunk(self, number, plain):
        raise DiskFull(self.directory)

    monkeypatch.setattr(CachedLayer, "put_chunk", put_chunk)


def test_a_full_disk_keeps_nobody_from_reading(setup, monkeypatch):
    with monkeypatch.context() as patch:
        full(setup, patch)
        reader = setup.read(chunk_at(0), 3 * GRANULE)
        setup.arrive(0, 1, 2)
        setup.right(reader, chunk_at(0), 3 * GRANULE)
        setup.right(setup.read(chunk_at(1), 10), chunk_at(1), 10)
        setup.layer.flush()
        assert setup.layer.missing() == list(range(6))
    setup.layer.flush()
    assert setup.layer.missing() == [3, 4, 5]
    setup.right(setup.read(chunk_at(0), 3 * GRANULE), chunk_at(0), 3 * GRANULE)


def granule_of(number):
    return chunk_at(number) // GRANULE


def test_granules_that_are_on_their_way_are_waited_for(setup):
    setup.streams.coming = {granule_of(1), granule_of(2)}
    reader = setup.read(chunk_at(1), 2 * GRANULE)
    assert setup.fetcher.open == []
    for number in (1, 2):
        assert reader.answers == []
        setup.layer.cached.put_granule(granule_of(number), setup.sample.granule(granule_of(number)))
        setup.streams.tell(granule_of(number), arrived=True)
    setup.right(reader, chunk_at(1), 2 * GRANULE)
    assert setup.layer.idle


def test_granules_of_which_one_does_not_come_are_fetched_as_chunks(setup):
    setup.streams.coming = {granule_of(1), granule_of(2)}
    reader = setup.read(chunk_at(1), 2 * GRANULE)
    setup.streams.tell(granule_of(2), arrived=False)
    assert setup.fetcher.open == [1, 2]
    setup.arrive(1, 2)
    setup.right(reader, chunk_at(1), 2 * GRANULE)
    setup.streams.tell(granule_of(1), arrived=True)
    assert len(reader.answers) == 1


def test_a_granule_that_comes_while_somebody_looks_is_not_waited_for_in_vain(setup):
    granule = granule_of(1)
    setup.streams.coming = {granule}

    def come():
        setup.layer.cached.put_granule(granule, setup.sample.granule(granule))
        setup.streams.tell(granule, arrived=True)

    setup.streams.before_wait = come
    setup.right(setup.read(chunk_at(1), 10), chunk_at(1), 10)


def test_a_stream_that_takes_nobody_more_is_not_asked_for_ever(setup, monkeypatch):
    """It expects a granule, but has too many who wait."""
    setup.streams.coming = {granule_of(1)}
    monkeypatch.setattr(setup.streams, "wait", lambda digest, granule, waiter: False)
    reader = setup.read(chunk_at(1), 10)
    assert setup.fetcher.open == [1]
    setup.arrive(1)
    setup.right(reader, chunk_at(1), 10)


def test_of_a_start_pack_that_lies_nothing_more_is_given_out(setup):
    for number in (1, 2):
        setup.layer.cached.put_granule(granule_of(number), bytes(GRANULE))
    assert setup.read(chunk_at(1), 10).answers == [bytes(10)]
    setup.layer.fetch([1], Priority.BACKGROUND)
    setup.arrive(1)
    setup.right(setup.read(chunk_at(1), GRANULE), chunk_at(1), GRANULE)
    reader = setup.read(chunk_at(2), 10)
    assert reader.answers == []
    setup.arrive(2)
    setup.right(reader, chunk_at(2), 10)
    setup.layer.cached.put_granule(granule_of(3), bytes(GRANULE))
    assert setup.read(chunk_at(3), 10).answers == []


def test_chunks_that_lie_in_several_places_are_read_right(tmp_path):
    extents = [(0, 4096, 0, 0), (4096, 8192, 1, 100), (0, 4096, 0, 4096), (100, 1000, 1, 0)]
    setup = Setup(tmp_path / "layer", make_sample([10_000, 9000], extents, tail=5000))
    reader = setup.read(0, setup.layer.size)
    setup.arrive(0, 1)
    setup.right(reader, 0, setup.layer.size)


def test_reads_in_a_row_are_followed_by_what_comes_next(tmp_path):
    setup = Setup(tmp_path / "layer", plain_sample(count=80))
    for number in range(2):
        setup.read(chunk_at(number), GRANULE)
        setup.arrive(number)
    ahead = [number for _, number, priority in setup.fetcher.asked if priority == Priority.AHEAD]
    assert ahead
    assert ahead[0] == 2


def test_why_reads_failed_is_remembered_and_counted(setup):
    before = setup.layer.refusals.counts()
    readers = [setup.read(_DATA, 4096) for _ in range(2)]
    setup.fetcher.answer(0, error=ObjectNotFound("the store", "packs/ab"))
    assert [reader.answers for reader in readers] == [[errno.EIO]] * 2
    again = setup.read(_DATA, 4096)
    assert again.answers == [errno.EIO]
    ((why, count),) = setup.layer.refusals.since(before).items()
    assert "packs/ab" in why
    assert count == 3
    assert setup.layer.refusals.since(setup.layer.refusals.counts()) == {}


def test_reasons_are_bounded():
    refusals = Refusals()
    for number in range(100):
        refusals.note(f"reason {number}")
    assert len(refusals.counts()) == 33
    assert sum(refusals.counts().values()) == 100
