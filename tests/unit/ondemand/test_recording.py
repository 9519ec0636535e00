"""What a run touches first: in order, without metadata, bounded; and what becomes of it over several runs."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from start_support import Images

from envkit.content.startpack import MAX_UNSEEN, Granule
from envkit.model.startpack import GRANULE
from envkit.ondemand import recording as module
from envkit.ondemand.recording import MAX_BYTES, SECONDS, Recording, build, is_worthwhile, joined, plain_limit

MIB = 1 << 20


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def images():
    return Images(20 * GRANULE, 20 * GRANULE - 5)


def record(images, *touched):
    recording = Recording(images.layers)
    for layer, number in touched:
        recording.touch(layer, number * GRANULE, GRANULE)
    return recording


def test_granules_come_in_the_order_of_their_first_touch(images, clock):
    recording = Recording(images.layers, clock=clock)
    recording.touch(1, 3 * GRANULE + 5, 10)
    clock.now += 0.25
    recording.touch(0, GRANULE - 1, 2)
    recording.touch(1, 3 * GRANULE, GRANULE)
    assert recording.granules() == [(1, 3), (0, 0), (0, 1)]
    assert [touch.after for touch in recording.touches()] == [0, 250, 250]


def test_metadata_and_what_lies_behind_the_end_are_left_out(images):
    first = images.layers[0].replace(data=2 * GRANULE + 4096)
    recording = Recording([first, images.layers[1]])
    recording.touch(0, 0, 2 * GRANULE + 4096)
    assert recording.granules() == []
    recording.touch(0, 0, 2 * GRANULE + 4097)
    assert recording.granules() == [(0, 2)]
    recording.touch(1, 19 * GRANULE, 5 * GRANULE)
    recording.touch(1, 20 * GRANULE - 5, 4096)
    assert recording.granules() == [(0, 2), (1, 19)]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30 * GRANULE), st.integers(0, 3 * GRANULE)), max_size=30))
def test_every_byte_that_was_touched_is_in_a_granule_that_exists(touches):
    images = Images(20 * GRANULE, 20 * GRANULE - 5)
    recording = Recording(images.layers)
    expected = {}
    for layer, offset, length in touches:
        recording.touch(layer, offset, length)
        end = min(offset + length, images.layers[layer].size)
        for granule in range(20):
            if max(offset, granule * GRANULE) < min(end, (granule + 1) * GRANULE):
                expected.setdefault((layer, granule))
    assert sorted(recording.granules()) == sorted(expected)


def test_it_ends_after_a_minute(images, clock):
    recording = Recording(images.layers, clock=clock)
    clock.now += SECONDS
    recording.touch(0, 0, 1)
    assert not recording.ended
    clock.now += 0.001
    assert recording.ended
    recording.touch(0, GRANULE, 1)
    assert recording.granules() == [(0, 0)]


def test_it_ends_with_the_job(images):
    recording = record(images, (0, 0))
    recording.end()
    recording.touch(0, GRANULE, 1)
    assert recording.ended
    assert recording.granules() == [(0, 0)]


def test_it_ends_when_it_is_full():
    image = Images(4096).layers[0]
    recording = Recording([image.replace(size=100 * MIB)])
    for start in range(0, 100 * MIB, MIB):
        recording.touch(0, start, MIB)
    assert recording.ended
    assert len(recording.granules()) * GRANULE == 25 * MIB


def test_room_is_a_quarter_within_bounds():
    image = Images(4096).layers[0]
    assert plain_limit([image]) == 4 * MIB
    assert plain_limit([image.replace(size=60 * MIB), image.replace(size=40 * MIB)]) == 25 * MIB
    assert plain_limit([image.replace(size=1 << 40)]) == MAX_BYTES


def test_threads_lose_nothing():
    images = Images(4 * MIB)
    recording = Recording(images.layers)
    ready = threading.Barrier(4)

    def touch(first):
        ready.wait()
        for number in range(first, 256, 4):
            recording.touch(0, number * GRANULE, GRANULE)
            recording.granules()

    threads = [threading.Thread(target=touch, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = recording.granules()
    assert sorted(found) == [(0, number) for number in range(256)]
    for first in range(4):
        own = [number for _, number in found if number % 4 == first]
        assert own == sorted(own)


def test_what_somebody_waited_for_is_counted(images):
    recording = Recording([images.layers[0].replace(data=GRANULE), images.layers[1]])
    recording.touch(1, 0, 5000)
    recording.touch(1, 0, 5000, missed=True)
    recording.touch(0, 0, GRANULE + 7, missed=True)
    assert recording.missed == 5007


def test_one_is_made_of_the_first_recording_unless_it_failed_at_once(images):
    recording = record(images, (0, 0))
    assert is_worthwhile(recording, "true", None, code=0, seconds=0.1)
    assert is_worthwhile(recording, "true", None, code=1, seconds=6)
    assert not is_worthwhile(recording, "true", None, code=1, seconds=4)
    assert not is_worthwhile(record(images), "true", None, code=0, seconds=9)


def test_another_one_is_made_where_the_one_that_was_used_missed_a_tenth(images):
    used, _ = images.pack([Granule(0, number) for number in range(10)])
    recording = record(images, *[(0, number) for number in range(10)])
    recording.touch(1, 0, GRANULE, missed=True)
    assert not is_worthwhile(recording, "true", used, code=0, seconds=1)
    recording.touch(1, GRANULE, 1, missed=True)
    assert is_worthwhile(recording, "true", used, code=0, seconds=1)
    assert not is_worthwhile(recording, "true", used, code=1, seconds=1)


def test_another_one_is_made_where_more_was_touched_than_it_holds_although_nobody_waited(images):
    used, _ = images.pack([Granule(0, number) for number in range(10)])
    recording = record(images, *[(0, number) for number in range(11)])
    assert not is_worthwhile(recording, "true", used, code=0, seconds=1)
    recording = record(images, *[(0, number) for number in range(12)])
    assert is_worthwhile(recording, "true", used, code=0, seconds=1)


def test_that_of_another_entry_point_will_do_if_it_is_not_twice_as_large(images):
    used, _ = images.pack([Granule(0, number) for number in range(10)], entry_point="make")
    half = record(images, *[(0, number) for number in range(5)])
    less = record(images, *[(0, number) for number in range(4)])
    assert not is_worthwhile(half, "true", used, code=0, seconds=1)
    assert is_worthwhile(less, "true", used, code=0, seconds=1)
    assert not is_worthwhile(less, "make", used, code=0, seconds=1)


def test_what_was_seen_before_keeps_its_place_and_new_ones_follow(images):
    earlier, _ = images.pack([Granule(1, 5), Granule(0, 3), Granule(0, 1, 2)])
    recording = record(images, (0, 9), (0, 1), (1, 5))
    assert joined(recording, earlier) == [Granule(1, 5), Granule(0, 3, 1), Granule(0, 1), Granule(0, 9)]


def test_what_was_not_touched_three_times_is_left_out(images):
    earlier, _ = images.pack([Granule(0, 0), Granule(0, 1)])
    kept = []
    for _ in range(MAX_UNSEEN):
        made = build(record(images, (0, 0)), "true", images.read, earlier=earlier)
        earlier = made.pack
        kept.append([granule.number for granule in earlier.granules])
    assert kept == [[0, 1], [0, 1], [0]]


def test_layers_that_were_not_watched_do_not_count_as_untouched(images):
    earlier, _ = images.pack([Granule(0, 0, 2), Granule(1, 0, 2)])
    assert joined(record(images, (0, 7)), earlier, unwatched={1}) == [Granule(1, 0, 2), Granule(0, 7)]


def test_what_is_of_another_image_or_stack_is_left_out(images):
    earlier, _ = images.pack([Granule(0, 0), Granule(1, 0)])
    rebuilt = (images.layers[0].replace(uuid=bytes(16)), images.layers[1])
    assert joined(Recording(rebuilt), earlier) == [Granule(1, 0, 1)]
    assert joined(Recording(images.layers[:1]), earlier) == []
    assert module.same_images(earlier, images.layers) == {0, 1}


def test_where_there_is_no_room_the_untouched_go_first(images, monkeypatch):
    earlier, _ = images.pack([Granule(0, 0, 1), Granule(0, 1), Granule(0, 2)])
    recording = record(images, (0, 2), (0, 3), (0, 4))
    monkeypatch.setattr(module, "plain_limit", lambda layers: 4 * GRANULE)
    assert [granule.number for granule in joined(recording, earlier)] == [1, 2, 3, 4]
    monkeypatch.setattr(module, "plain_limit", lambda layers: 2 * GRANULE)
    assert [granule.number for granule in joined(recording, earlier)] == [2, 3]


def test_a_start_pack_holds_what_was_touched(images):
    made = build(record(images, (1, 2), (0, 7)), "python3 -m pip", images.read)
    assert made.pack.granules == (Granule(1, 2), Granule(0, 7))
    assert (made.pack.entry_point, made.pack.layers) == ("python3 -m pip", images.layers)


def test_one_of_another_entry_point_is_not_joined(images):
    earlier, _ = images.pack([Granule(0, 0)], entry_point="make")
    assert build(record(images, (1, 2)), "true", images.read, earlier=earlier).pack.granules == (Granule(1, 2),)
    assert len(build(record(images, (1, 2)), "make", images.read, earlier=earlier).pack.granules) == 2


def test_where_too_much_cannot_be_read_none_is_made(images):
    recording = record(images, *[(0, number) for number in range(20)])

    def without(*lost):
        return build(recording, "true", lambda layer, number: None if number in lost else images.read(layer, number))

    assert [granule.number for granule in without(3, 7).pack.granules] == [n for n in range(20) if n not in (3, 7)]
    assert without(3, 7, 19) is None
    assert without(0, 1, 2) is None


def test_making_one_can_be_stopped(images):
    recording = record(images, (0, 1), (0, 2))
    assert build(recording, "true", images.read, stopped=lambda: True) is None
