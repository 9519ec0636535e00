"""What goes into one request: the oldest of the most urgent, and what lies near it if that is cheap."""

import random

import pytest

from envkit.model.tree import Chunk
from envkit.ondemand.link import Link
from envkit.ondemand.waiting import Item, Priority, Source, Waiting, chunk_item

DEMAND, START, AHEAD, BACKGROUND = Priority
KIB, MIB = 1 << 10, 1 << 20
SOURCE = Source("store", lambda key, start, length: b"")
FAR = Link(0.020, 125e6)  # gap 1.19 MiB, demand 3.6 MiB
NEAR = Link(0.000_5, 125e6)  # gap 64 KiB, demand 512 KiB


class Table:
    """Items by the order in which they were made, all in one pack unless said otherwise."""

    def __init__(self, connections=20):
        self.waiting = Waiting(connections)
        self.items = []

    def add(self, offset, stored, priority=DEMAND, pack=0, source=SOURCE, alone=False):
        number = len(self.items)
        chunk = Chunk(number.to_bytes(32, "big"), 1, bytes([pack] * 32), offset, stored)
        item = chunk_item(number, source, chunk, priority)
        item.alone = alone
        self.items.append(item)
        self.waiting.add(item)
        return item

    def take(self, link=FAR):
        flight = self.waiting.take(link)
        return None if flight is None else ([self.items.index(i) for i in flight.items], flight.start, flight.end)


def test_neighbours_share_a_request_if_the_gap_is_cheaper_than_a_round_trip():
    for link, numbers in ((FAR, [[0, 1], [2]]), (NEAR, [[0], [1], [2]])):
        table = Table()
        for offset in (0, 800 * KIB, 2700 * KIB):
            table.add(offset, 600 * KIB)
        assert [(table.take(link) or [None])[0] for _ in numbers] == numbers
        assert table.take(link) is None
        assert table.waiting.count == 0
        assert table.waiting.flying == len(numbers)


def test_neighbours_on_both_sides_join_the_oldest():
    table = Table()
    for offset in (500, 100, 900, 300, 700):
        table.add(offset, 200)
    assert table.take() == ([1, 3, 0, 4, 2], 100, 1100)


@pytest.mark.parametrize("odd", ["pack", "source", "alone", "range"])
def test_what_cannot_go_along_does_not(odd):
    table = Table()
    table.add(0, 1000)
    if odd == "pack":
        table.add(1000, 1000, pack=1)
    elif odd == "source":
        table.add(1000, 1000, source=Source("other", SOURCE.get_range))
    elif odd == "alone":
        table.add(1000, 1000, alone=True)
    else:
        table.items.append(Item(7, 7, SOURCE, table.items[0].key, 1000, 2000, DEMAND))
        table.waiting.add(table.items[1])
    table.add(2000, 1000)
    assert [table.take()[0] for _ in range(2)] == [[0, 2], [1]]
    assert table.take() is None


def test_a_request_for_a_reader_has_what_arrives_in_one_and_a_half_round_trips():
    for link, bound in ((FAR, 3_750_000), (NEAR, 512 * KIB)):
        table = Table()
        for number in range(1000):
            table.add(number * 10_000, 10_000)
        numbers, start, end = table.take(link)
        assert bound - 10_000 < end - start <= bound
        assert numbers == list(range(bound // 10_000))


def test_a_request_of_the_background_is_large_but_does_not_hold_up_a_reader():
    for link, bound in ((FAR, 8 * MIB), (Link(0.020, 4e6), 2_000_000)):
        table = Table()
        for number in range(1000):
            table.add(number * 10_000, 10_000, BACKGROUND)
        _, start, end = table.take(link)
        assert bound - 10_000 < end - start <= bound


def test_a_chunk_that_is_larger_than_any_bound_is_fetched():
    table = Table()
    table.add(0, 8 * MIB)
    table.add(8 * MIB, 10)
    assert table.take(NEAR) == ([0], 0, 8 * MIB)
    assert table.take(NEAR) == ([1], 8 * MIB, 8 * MIB + 10)


def test_half_of_a_request_at_least_is_wanted():
    table = Table()
    for number in range(6):
        table.add(number * 101_000, 1000)
    assert table.take(FAR)[0] == [0]
    table = Table()
    for number in range(6):
        table.add(number * 2000, 1000)
    assert table.take(FAR)[0] == [0, 1, 2, 3, 4, 5]


def test_what_is_not_urgent_rides_along_only_if_it_costs_little():
    """A quarter of a round trip of a reader's time, at most; what starts a container rides as it likes."""
    for priority, riders in ((AHEAD, 6), (BACKGROUND, 6), (START, 20)):
        table = Table()
        table.add(0, 100_000)
        for number in range(20):
            table.add(100_000 * (number + 1), 100_000, priority)
        assert table.take(FAR)[0] == list(range(riders + 1))


def test_chunks_that_overlap_are_no_trouble():
    table = Table()
    for offset, stored in ((100, 500), (100, 500), (0, 1000), (300, 100), (999, 1)):
        table.add(offset, stored)
    numbers, start, end = table.take()
    assert (sorted(numbers), start, end) == ([0, 1, 2, 3, 4], 0, 1000)


def test_small_numbers_of_connections_still_serve_every_class():
    for connections in (1, 2, 3, 5):
        for priority in Priority:
            table = Table(connections)
            table.add(0, 10, priority)
            assert table.take() is not None
    table = Table(4)
    for priority in reversed(Priority):
        for pack in range(5):
            table.add(0, 10, priority, pack=pack + 10 * priority)
    taken = [table.waiting.take(FAR).priority for _ in range(4)]
    assert taken == [DEMAND] * 4
    assert not table.waiting.ready()


def test_the_limits_count_what_is_less_urgent_too():
    table = Table()
    flights = []
    for priority, limit in ((BACKGROUND, 4), (AHEAD, 8), (START, 16), (DEMAND, 20)):
        for pack in range(20):
            table.add(0, 10, priority, pack=pack + 20 * priority)
        while table.waiting.ready():
            flights.append(table.waiting.take(FAR))
        assert len(flights) == limit
    table.waiting.landed(flights[0])
    assert table.waiting.take(FAR).priority is DEMAND


def test_everything_is_taken_once_whatever_happens_meanwhile():
    for seed in range(200):
        luck = random.Random(seed)
        table = Table(luck.randint(1, 20))
        removed, taken, flights = [], [], []
        for _ in range(150):
            act = luck.random()
            waits = [item for item in table.items if item.waiting]
            if act < 0.5:
                offset = luck.randint(0, 50) * 5000
                table.add(offset, luck.randint(1, 9000), luck.choice([*Priority]), pack=luck.randint(0, 2))
            elif act < 0.6 and waits:
                item = luck.choice(waits)
                item.priority = max(item.priority, START)
                table.waiting.hasten(item, Priority(item.priority - 1))
            elif act < 0.7 and waits:
                removed.append(luck.choice(waits))
                table.waiting.remove(removed[-1])
            elif act < 0.8 and flights:
                table.waiting.landed(flights.pop())
            else:
                flights += _checked(table, luck, taken)
        assert table.waiting.count == sum(item.waiting for item in table.items)
        while any(item.waiting for item in table.items):
            while flights:
                table.waiting.landed(flights.pop())
            flights += _checked(table, luck, taken)
        assert sorted(map(id, taken + removed)) == sorted(map(id, table.items))
        assert table.waiting._objects == {}


def _checked(table, luck, taken):
    """Take a request and look at it; return it in a list, if there is one."""
    link = luck.choice([FAR, NEAR])
    most = min((item.priority for item in table.items if item.waiting), default=None)
    flight = table.waiting.take(link)
    if flight is None:
        return []
    assert most == flight.priority == min(item.priority for item in flight.items)
    for item in flight.items:
        assert flight.start <= item.start < item.end <= flight.end
        assert item.key == flight.key
    ends = sorted((item.start, item.end) for item in flight.items)
    assert ends[0][0] == flight.start
    assert max(end for _, end in ends) == flight.end
    taken += flight.items
    return [flight]
