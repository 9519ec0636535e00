"""Owns what comes along with a chunk that somebody waits for: those that lie behind it in its pack.

Files that are read one after the other often lie one behind the other, since a save packs them in the order of their
paths; each would cost a round trip. Whoever misses now and then, as with a start pack, gets only what was asked for;
whoever misses all the time, as without one, gets what comes in half a round trip along with it, and more and more.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from envkit.model.tree import Chunk

_MOST_CHUNKS = 256
_MISSES = 6
"""Misses in a second for which something comes along; twice as many are worth twice as much."""
_MOST = 8


class Neighbours:
    """The chunks of one layer, by their places. For one thread at a time, or any number that can live with a race."""

    def __init__(self, chunks: Sequence[Chunk], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._chunks = chunks
        self._clock = clock
        self._misses: deque[float] = deque(maxlen=_MOST * _MISSES)
        self._order: list[int] = []
        self._ranks: list[int] = []

    def of(self, numbers: Iterable[int], gap: int) -> list[int]:
        """Return what is to come along with some chunks, by number.

        :param gap: bytes that come in half a round trip.
        """
        if not self._ranks:
            self._sort()
        now = self._clock()
        self._misses.append(now)
        recent = sum(when > now - 1.0 for when in tuple(self._misses))
        budget = gap * min(_MOST, recent // _MISSES)
        chunks = self._chunks
        found: list[int] = []
        for number in numbers:
            left = budget
            behind = self._ranks[number] + 1
            for other in self._order[behind : behind + _MOST_CHUNKS]:
                left -= chunks[other].stored
                if left < 0 or chunks[other].pack != chunks[number].pack:
                    break
                found.append(other)
        return found

    def _sort(self) -> None:
        chunks = self._chunks
        order = sorted(range(len(chunks)), key=lambda number: (chunks[number].pack, chunks[number].offset))
        ranks = [0] * len(chunks)
        for rank, number in enumerate(order):
            ranks[number] = rank
        self._order, self._ranks = order, ranks
