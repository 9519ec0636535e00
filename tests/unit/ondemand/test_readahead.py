"""Read-ahead: what is read in order comes in advance, ever more of it; what is read at random does not."""

import random
import sys
import threading

from envkit.ondemand.readahead import FIRST, LONGEST, NEAR, STREAMS, ReadAhead

KIB, MIB = 1 << 10, 1 << 20
STEP = 128 * KIB


class Cache:
    """What is there: a read of anything else is a miss, and it is there afterwards, as what was asked for is."""

    def __init__(self):
        self.ahead = ReadAhead()
        self.there = set()
        self.asked = []
        self.misses = 0

    def read(self, offset, length=STEP):
        blocks = range(offset // 4096, (offset + length) // 4096)
        missed = not self.there.issuperset(blocks)
        self.misses += missed
        self.there.update(blocks)
        asked = self.ahead.observe(offset, length, missed)
        if asked is not None:
            self.asked.append(asked)
            self.there.update(range(asked[0] // 4096, (asked[0] + asked[1]) // 4096))
        return asked


def test_the_second_miss_in_a_row_asks_for_what_follows():
    cache = Cache()
    assert cache.read(10 * MIB) is None
    assert cache.read(10 * MIB + STEP) == (10 * MIB + 2 * STEP, FIRST)


def test_a_sequential_reader_misses_twice_and_then_never():
    cache = Cache()
    for number in range(1600):
        cache.read(MIB + number * STEP)
    assert cache.misses == 2
    lengths = [length for _, length in cache.asked]
    assert lengths[:6] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, 16 * FIRST, 32 * FIRST]
    assert set(lengths[5:]) == {LONGEST}
    position = MIB + 2 * STEP
    for offset, length in cache.asked:
        assert offset == position  # nothing twice, nothing left out
        position += length
    # It never asks for much more than half of it ahead of time.
    assert position - (MIB + 1600 * STEP) <= LONGEST * 3 // 2
    assert cache.ahead.sequential == 1600 * STEP


def test_reads_at_random_ask_for_nothing():
    cache = Cache()
    luck = random.Random(1)
    for number in luck.sample(range(2000), 1000):
        cache.read(number * 10 * NEAR)
    assert cache.asked == []
    assert cache.ahead.sequential == 0


def test_what_is_there_already_asks_for_nothing():
    ahead = ReadAhead()
    assert [ahead.observe(number * STEP, STEP, False) for number in range(100)] == [None] * 100


def test_one_miss_is_not_enough():
    ahead = ReadAhead()
    assert ahead.observe(0, STEP, False) is None
    assert ahead.observe(STEP, STEP, True) is None  # what comes before it was there
    assert ahead.observe(2 * STEP, STEP, False) is None  # and so is this
    assert ahead.observe(3 * STEP, STEP, True) == (4 * STEP, FIRST)
    again = ReadAhead()
    assert [again.observe(0, STEP, True) for _ in range(5)] == [None] * 5  # one place, time and again


def test_a_jump_begins_anew():
    cache = Cache()
    for number in range(100):
        cache.read(number * STEP)
    cache.asked.clear()
    assert cache.read(900 * MIB) is None
    assert cache.read(900 * MIB + STEP) == (900 * MIB + 2 * STEP, FIRST)


def test_several_readers_do_not_disturb_each_other():
    cache = Cache()
    for number in range(100):
        for reader in range(STREAMS):
            cache.read(reader * 1000 * MIB + number * STEP)
    assert cache.misses == 2 * STREAMS


def test_more_readers_than_streams_push_out_those_that_read_longest_ago():
    cache = Cache()
    for number in range(2):
        cache.read(number * STEP)
    for reader in range(1, STREAMS):
        cache.read(reader * 1000 * MIB)
    cache.read(2 * STEP)
    cache.read(STREAMS * 1000 * MIB)  # pushes out 1, not 0
    cache.asked.clear()
    assert cache.read(1000 * MIB + STEP) is None
    assert cache.read(3 * STEP) is not None or cache.read(4 * STEP) is not None


def test_reads_out_of_order_are_one_stream():
    cache = Cache()
    for number in range(0, 400, 2):
        cache.read((number + 1) * 64 * KIB, 64 * KIB)
        cache.read(number * 64 * KIB, 64 * KIB)
    assert sum(length for _, length in cache.asked) >= 400 * 64 * KIB
    assert [length for _, length in cache.asked] == sorted(length for _, length in cache.asked)
    assert cache.misses <= 4


def test_a_reader_that_is_faster_than_the_link_does_not_ask_twice():
    """What was asked for has not come yet: every read is a miss."""
    ahead = ReadAhead()
    asked = [got for number in range(800) if (got := ahead.observe(number * STEP, STEP, True))]
    position = 2 * STEP
    for offset, length in asked:
        assert offset == position
        position += length
    assert position <= 800 * STEP + 3 * LONGEST


def test_reads_that_are_answered_in_several_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        ahead = ReadAhead()
        asked, problems = [], []

        def read(luck):
            try:
                for _ in range(1500):
                    asked.append(ahead.observe(luck.randint(0, 20) * 64 * KIB, STEP, True))
            except (ValueError, IndexError) as error:
                problems.append(error)

        threads = [threading.Thread(target=read, args=(random.Random(seed),)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(before)
    assert problems == []
    assert len(asked) == 6000
    assert len({id(stream) for stream in ahead._streams}) == len(ahead._streams) <= STREAMS
