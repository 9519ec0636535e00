"""What comes along with a chunk that somebody waits for."""

from envkit.model.tree import Chunk
from envkit.ondemand.neighbours import Neighbours

GAP = 250


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def chunks(count, *, packs=1):
    """Chunks of 100 bytes, in the order of their numbers in each of some packs, one pack's between the others'."""
    return [Chunk(b"", 100, bytes([number % packs]) * 32, number // packs * 100, 100) for number in range(count)]


def test_nothing_comes_along_with_a_miss_now_and_then():
    clock = Clock()
    neighbours = Neighbours(chunks(100), clock=clock)
    for number in range(50):
        clock.now += 0.25
        assert neighbours.of([number], GAP) == []


def test_the_more_misses_the_more_comes_along_up_to_a_limit():
    clock = Clock()
    neighbours = Neighbours(chunks(1000), clock=clock)
    found = []
    for _ in range(100):
        clock.now += 0.001
        found.append(len(neighbours.of([10], GAP)))
    assert found[:5] == [0] * 5
    assert found[5] == GAP // 100
    assert found == sorted(found)
    assert found[-1] == 8 * GAP // 100
    clock.now += 1.5
    assert neighbours.of([10], GAP) == []


def test_only_what_lies_behind_it_in_the_same_pack_comes():
    clock = Clock()
    neighbours = Neighbours(chunks(12, packs=3), clock=clock)
    for _ in range(6):
        neighbours.of([0], GAP)
    assert neighbours.of([0], 10**6) == [3, 6, 9]
    assert neighbours.of([7], 10**6) == [10]
    assert neighbours.of([11, 5], 10**6) == [8, 11]
