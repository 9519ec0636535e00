"""Owns what was read of a layer a moment ago: who streams it needs only what follows in the cache's memory.

The kernel keeps what it has read of the mounted image; the same bytes of the cache's file would be in memory twice.
"""

import threading


class Recent:
    """Ranges that were read since they were asked for last; for any thread."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def note(self, offset: int, length: int) -> None:
        """Note a read; those that follow one another become one range."""
        with self._lock:
            last = self._ranges[-1] if self._ranges else (0, 0)
            if self._ranges and sum(last) == offset:
                self._ranges[-1] = (last[0], last[1] + length)
            else:
                self._ranges.append((offset, length))

    def take(self) -> list[tuple[int, int]]:
        """Return the ranges, (offset, length), and forget them."""
        with self._lock:
            ranges, self._ranges = self._ranges, []
        return ranges
