"""A start pack on its way: in order, what is waited for first, verified, and never anybody left waiting."""

import threading

import pytest
from start_support import Images

from envkit.content.startpack import Granule, read_head
from envkit.errors import Damaged, EnvkitError
from envkit.model.ids import EnvName
from envkit.model.startpack import GRANULE
from envkit.ondemand import streaming
from envkit.ondemand.fetcher import Fetcher, Priority, Source
from envkit.ondemand.streaming import MAX_WAITERS, RANGES, Stream
from envkit.store import starts
from envkit.store.directory import DirectoryStore
from envkit.store.errors import ObjectNotFound

MIB = 1 << 20
KEY = "starts/some"


class Requests:
    """Stands for a fetcher: keeps what is asked for until the test answers."""

    def __init__(self, data):
        self._data = data
        self.open = []
        self.asked = []

    def range(self, source, key, start, length, priority, done):
        assert (source.name, key) == ("store", KEY)
        self.open.append((start, length, done))
        self.asked.append((start, length, priority))

    def answer(self, number=0, data=None, error=None):
        start, length, done = self.open.pop(number)
        done(None if error else self._data[start : start + length] if data is None else data, error)

    def answer_all(self):
        while self.open:
            self.answer()


class Setup:
    """A stream of a start pack of `images`, and what came of it."""

    def __init__(self, images, granules=None, *, head=0, fetcher=None, **options):
        self.images = images
        self.pack, self.data = images.pack(granules)
        self.requests = Requests(self.data)
        self.put = {}
        self.told = []
        self.ends = 0
        options = {"layers": range(len(images.layers)), "put": self._put, "ended": self._end} | options
        source = Source("store", None)
        head = self.data[: head or self.pack.frames[0].offset]
        self.stream = Stream(self.pack, fetcher or self.requests, source, KEY, head=head, **options)

    def _put(self, layer, number, data):
        assert (layer, number) not in self.put
        self.put[layer, number] = bytes(data)

    def _end(self):
        self.ends += 1

    def wait(self, layer, number):
        return self.stream.wait(layer, number, lambda arrived: self.told.append((layer, number, arrived)))

    def granules_of(self, frame):
        return [(piece.layer, piece.number) for piece in self.pack.pieces(frame)]

    def check(self, places):
        assert self.put == {place: self.images.read(*place) for place in places}


@pytest.fixture(scope="module")
def large():
    """24 MiB in 27 frames of which each but the first has half a megabyte."""
    return Images(20 * MIB, 4 * MIB + 5)


def places(granules):
    return [(granule.layer, granule.number) for granule in granules]


def test_everything_comes_in_order_and_once(large):
    setup = Setup(large)
    setup.stream.start()
    assert setup.stream.active
    setup.requests.answer_all()
    setup.check(places(large.all_granules()))
    assert list(setup.put) == places(large.all_granules())
    assert setup.ends == 1
    assert not setup.stream.active
    asked = setup.requests.asked
    assert [start for start, _, _ in asked] == sorted(start for start, _, _ in asked)
    assert sum(length for _, length, _ in asked) == len(setup.data) - setup.pack.frames[0].offset
    assert {priority for _, _, priority in asked} == {Priority.START}
    progress = setup.stream.progress()
    assert (progress.frames, progress.done, progress.gone, progress.skipped) == (
        len(setup.pack.frames),
        len(setup.pack.frames),
        0,
        0,
    )
    assert progress.granules == len(setup.put)
    assert progress.bytes == len(setup.data) - setup.pack.frames[0].offset


def test_ranges_are_of_whole_frames_and_few_are_on_their_way(large):
    setup = Setup(large)
    setup.stream.start()
    frames = setup.pack.frames
    assert len(setup.requests.open) == RANGES
    assert setup.requests.asked[:2] == [(f.offset, f.stored, Priority.START) for f in frames[:2]]
    borders = {frame.offset for frame in frames} | {setup.pack.size}
    while setup.requests.open:
        assert len(setup.requests.open) <= RANGES
        setup.requests.answer()
    assert all({start, start + length} <= borders for start, length, _ in setup.requests.asked)
    lengths = [length for _, length, _ in setup.requests.asked]
    assert max(lengths) <= MIB
    assert min(lengths[2:-1]) >= MIB // 2


def test_small_frames_share_a_range():
    images = Images(4 * MIB)
    images.data = [bytes(4 * MIB)]
    setup = Setup(images)
    setup.stream.start()
    first, second, *others = setup.pack.frames
    assert [length for _, length, _ in setup.requests.asked] == [
        first.stored,
        second.stored,
        sum(f.stored for f in others),
    ]
    setup.requests.answer_all()
    setup.check(places(images.all_granules()))


def test_what_came_with_the_header_is_not_asked_for_again(large):
    size = Setup(large).pack.frames[1].offset + 1000
    setup = Setup(large, head=size)
    setup.stream.start()
    assert setup.requests.asked[0][0] == size
    assert list(setup.put) == setup.granules_of(0)
    setup.requests.answer_all()
    setup.check(places(large.all_granules()))
    assert sum(length for _, length, _ in setup.requests.asked) == len(setup.data) - size
    assert setup.ends == 1


def test_a_pack_that_came_whole_needs_no_request():
    images = Images(10 * GRANULE)
    setup = Setup(images, head=1 << 20)
    setup.stream.start()
    assert setup.requests.asked == []
    setup.check(places(images.all_granules()))
    assert setup.ends == 1


def test_what_came_with_the_header_is_waited_for_and_not_asked_for():
    setup = Setup(Images(10 * GRANULE), head=1 << 20)
    assert setup.wait(0, 3)
    setup.stream.start()
    assert setup.told == [(0, 3, True)]
    assert setup.requests.asked == []


def test_what_somebody_waits_for_comes_first_and_nothing_comes_twice(large):
    setup = Setup(large)
    setup.stream.start()
    last = len(setup.pack.frames) - 1
    assert setup.wait(*setup.granules_of(last)[3])
    assert setup.requests.asked[-1] == (setup.pack.frames[last].offset, setup.pack.frames[last].stored, Priority.DEMAND)
    assert setup.told == []
    setup.requests.answer(-1)
    assert setup.told == [(*setup.granules_of(last)[3], True)]
    assert list(setup.put) == setup.granules_of(last)
    setup.requests.answer_all()
    setup.check(places(large.all_granules()))
    assert sum(length for _, length, _ in setup.requests.asked) == len(setup.data) - setup.pack.frames[0].offset
    assert setup.stream.progress().hurried == 1


def test_what_is_on_its_way_is_not_asked_for_again(large):
    setup = Setup(large)
    setup.stream.start()
    before = list(setup.requests.asked)
    assert setup.wait(*setup.granules_of(0)[0])
    assert setup.wait(*setup.granules_of(0)[0])
    assert setup.requests.asked == before
    setup.requests.answer()
    assert setup.told == [(*setup.granules_of(0)[0], True)] * 2


def test_only_what_is_coming_is_expected(large):
    setup = Setup(large, [Granule(0, n) for n in range(40)])
    assert setup.stream.expected(0, 0)
    assert not setup.stream.expected(0, 40)
    assert not setup.stream.expected(1, 0)
    assert not setup.wait(0, 40)
    setup.stream.start()
    setup.requests.answer_all()
    assert not setup.stream.expected(0, 0)
    assert not setup.wait(0, 0)
    assert setup.told == []


def test_layers_that_look_otherwise_here_are_passed_over(large):
    setup = Setup(large, layers={1})
    setup.stream.start()
    setup.requests.answer_all()
    assert setup.put
    setup.check([place for place in places(large.all_granules()) if place[0] == 1])
    assert not setup.stream.expected(0, 0)
    assert sum(length for _, length, _ in setup.requests.asked) < 3.5 * MIB


def test_frames_of_which_nothing_is_wanted_are_not_fetched(large):
    setup = Setup(large, wanted=lambda layer, number: (layer, number) == (0, 100))
    setup.stream.start()
    setup.requests.answer_all()
    assert len(setup.requests.asked) == 1
    assert (0, 100) in setup.put
    assert setup.stream.progress().skipped == len(setup.pack.frames) - 1
    nothing = Setup(large, wanted=lambda layer, number: False)
    nothing.stream.start()
    assert nothing.requests.asked == []
    assert nothing.ends == 1


def damaged(data, at=100):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_frame_that_is_damaged_on_its_way_is_fetched_again(large):
    setup = Setup(large)
    setup.stream.start()
    setup.wait(*setup.granules_of(0)[0])
    start, length, _ = setup.requests.open[0]
    setup.requests.answer(0, damaged(setup.data[start : start + length]))
    assert setup.put == {}
    assert setup.told == []
    setup.requests.answer_all()
    setup.check(places(large.all_granules()))
    assert setup.told == [(*setup.granules_of(0)[0], True)]


def test_a_frame_that_is_damaged_in_the_store_is_given_up(large):
    setup = Setup(large)
    setup.requests._data = damaged(setup.data, setup.pack.frames[0].offset + 100)
    setup.stream.start()
    setup.wait(*setup.granules_of(0)[5])
    setup.requests.answer_all()
    assert setup.told == [(*setup.granules_of(0)[5], False)]
    lost = set(setup.granules_of(0))
    setup.check([place for place in places(large.all_granules()) if place not in lost])
    assert not setup.stream.expected(*setup.granules_of(0)[0])
    assert setup.ends == 1
    assert setup.stream.progress().gone == 1


def test_an_object_that_is_gone_ends_it_at_once(large):
    setup = Setup(large)
    setup.stream.start()
    waited = [setup.granules_of(number)[0] for number in (0, 5, len(setup.pack.frames) - 1)]
    for place in waited:
        setup.wait(*place)
    setup.requests.answer(3, error=ObjectNotFound("store", KEY))
    assert sorted(setup.told) == sorted((*place, False) for place in waited)
    assert setup.ends == 1
    before = len(setup.requests.asked)
    setup.requests.answer_all()
    assert setup.put == {}
    assert len(setup.requests.asked) == before
    assert setup.ends == 1


def test_after_a_few_failures_the_rest_is_given_up(large):
    setup = Setup(large)
    setup.stream.start()
    last = setup.granules_of(len(setup.pack.frames) - 1)[0]
    for number in range(3):
        assert setup.stream.expected(*last), number
        setup.requests.answer(0, error=EnvkitError("no answer"))
    assert not setup.stream.expected(*last)
    assert setup.ends == 1


def test_a_cache_that_takes_nothing_ends_it(large):
    def refuse(layer, number, data):
        raise OSError("no room")

    setup = Setup(large, put=refuse)
    setup.stream.start()
    setup.wait(0, 0)
    setup.wait(*setup.granules_of(9)[0])
    setup.requests.answer()
    assert sorted(setup.told) == [(0, 0, False), (*setup.granules_of(9)[0], False)]
    assert setup.ends == 1


def test_who_waits_too_long_is_sent_away_and_nobody_waits_for_that_frame_again(large, monkeypatch):
    setup = Setup(large)
    setup.stream.start()
    setup.wait(0, 0)
    setup.stream.expire()
    assert setup.told == []
    monkeypatch.setattr(streaming, "PATIENCE", -1.0)
    setup.stream.expire()
    assert setup.told == [(0, 0, False)]
    assert not setup.stream.expected(0, 1)
    assert setup.stream.expected(*setup.granules_of(1)[0])
    setup.requests.answer_all()
    setup.check(places(large.all_granules()))
    assert len(setup.told) == 1


def test_stopping_tells_everybody_and_nothing_comes_after_it(large):
    setup = Setup(large)
    setup.stream.start()
    setup.wait(0, 0)
    setup.stream.stop()
    assert setup.told == [(0, 0, False)]
    setup.requests.answer_all()
    assert setup.put == {}
    assert setup.ends == 1
    setup.stream.stop()
    assert setup.ends == 1


def test_there_is_a_limit_to_how_many_may_wait(large, monkeypatch):
    setup = Setup(large)
    setup.stream.start()
    assert all(setup.wait(0, 0) for _ in range(MAX_WAITERS))
    assert not setup.wait(0, 0)
    setup.requests.answer()
    assert setup.told == [(0, 0, True)] * MAX_WAITERS
    assert setup.wait(*setup.granules_of(1)[0])


def test_a_waiter_that_fails_costs_the_others_nothing(large):
    setup = Setup(large)
    setup.stream.start()

    def fail(arrived):
        raise Damaged("mistake")

    assert setup.stream.wait(0, 0, fail)
    setup.wait(0, 0)
    setup.requests.answer_all()
    assert setup.told == [(0, 0, True)]
    setup.check(places(large.all_granules()))


@pytest.fixture
def fetcher():
    fetcher = Fetcher()
    yield fetcher
    fetcher.close()


def stored(tmp_path, images):
    """Put a start pack into a store; return the store, and where the object is."""
    (tmp_path / "store").mkdir()
    store = DirectoryStore(str(tmp_path / "store"))
    pack, data = images.pack()
    env = EnvName(owner="lab", name="sci")
    return store, starts.put(store, env, stack=pack.stack, entry_point="true", digest=pack.digest, pieces=[data])


def test_with_a_real_fetcher_and_readers_in_many_threads(tmp_path, large, fetcher):
    store, start = stored(tmp_path, large)
    pack, head = read_head(lambda at, length: store.get_range(start.key, at, length), start.size, start.digest)
    put, ended, told = {}, threading.Event(), []

    def take(layer, number, data):
        assert (layer, number) not in put
        put[layer, number] = bytes(data)

    source = Source(store.url, store.get_range)
    stream = Stream(pack, fetcher, source, start.key, put=take, layers={0, 1}, head=head, ended=ended.set)

    def read(first):
        for place in places(large.all_granules())[first::8]:
            arrived = threading.Event()
            if stream.wait(*place, lambda there, arrived=arrived: (told.append(there), arrived.set())):
                assert arrived.wait(30)
            assert place in put

    threads = [threading.Thread(target=read, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    stream.start()
    for thread in threads:
        thread.join(60)
    assert ended.wait(30)
    assert all(told)
    assert put == {place: large.read(*place) for place in places(large.all_granules())}
    assert sum(fetcher.counters().bytes) + len(head) == start.size


def test_an_object_that_was_deleted_meanwhile_ends_it(tmp_path, large, fetcher):
    store, start = stored(tmp_path, large)
    pack, head = read_head(lambda at, length: store.get_range(start.key, at, length), start.size, start.digest)
    store.delete(start.key)
    ended = threading.Event()
    source = Source(store.url, store.get_range)
    stream = Stream(pack, fetcher, source, start.key, put=lambda *_: None, layers={0, 1}, head=head, ended=ended.set)
    stream.start()
    assert ended.wait(30)
    assert not stream.expected(1, 100)


def test_what_is_held_is_handed_on_when_it_is_released_and_not_before(large):
    setup = Setup(large, held=True)
    setup.stream.start()
    setup.requests.answer_all()
    assert setup.put == {}
    assert setup.stream.active
    setup.stream.release(range(len(large.layers)))
    setup.check(places(large.all_granules()))
    assert (setup.ends, setup.stream.active) == (1, False)
    setup.stream.release(range(len(large.layers)))
    assert setup.ends == 1


def test_what_was_on_its_way_at_the_release_is_handed_on_as_it_comes(large):
    setup = Setup(large, held=True, head=200_000)
    setup.stream.start()
    setup.requests.answer()
    setup.stream.release(range(len(large.layers)))
    assert 0 < len(setup.put) < len(large.all_granules())
    setup.requests.answer_all()
    setup.check(places(large.all_granules()))


def test_of_layers_that_turn_out_to_be_others_nothing_is_handed_on(large):
    setup = Setup(large, held=True)
    setup.stream.start()
    setup.requests.answer_all()
    setup.stream.release([1])
    setup.check([place for place in places(large.all_granules()) if place[0] == 1])
    assert setup.ends == 1


def test_what_is_held_and_never_released_can_be_given_up(large):
    setup = Setup(large, held=True)
    setup.stream.start()
    setup.requests.answer()
    setup.stream.stop()
    setup.requests.answer_all()
    setup.stream.release(range(len(large.layers)))
    assert setup.put == {}
    assert (setup.ends, setup.stream.active) == (1, False)
