"""Owns what is known of one read of an image that waits for its bytes, and of the start packs that may bring them."""

import time
from collections.abc import Callable
from typing import Protocol

from envkit.ondemand.loop import Waiting


class Read:
    """A read that waits: its range, the chunks and granules that it still needs.

    :ivar by_chunks: a granule that it waited for did not come; it waits for none any more.
    :ivar needs: all chunks that it has waited for.
    :ivar attempts: how often the cache was lost under it.
    """

    __slots__ = ("_began", "attempts", "by_chunks", "chunks", "granules", "length", "needs", "offset", "waiting")

    def __init__(self, offset: int, length: int, waiting: Waiting) -> None:
        self.offset = offset
        self.length = length
        self.waiting = waiting
        self.chunks: set[int] = set()
        self.granules: set[int] = set()
        self.needs: frozenset[int] = frozenset()
        self.by_chunks = False
        self.attempts = 0
        self._began = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self._began


class Streams(Protocol):
    """Start packs that are on their way."""

    def expected(self, digest: str, granule: int) -> bool:
        """Tell whether a granule of a layer will come."""

    def wait(self, digest: str, granule: int, waiter: Callable[[bool], None]) -> bool:
        """Have somebody told when it has come or will not come; False if it is not on its way."""
