"""Owns what is remembered of reads that got an error: how many, and why, for whoever started what they broke."""

import threading
from collections.abc import Mapping

_MOST = 32
_OTHERS = "other objects cannot be had either"


class Refusals:
    """Counts of reads that got an error, by the reason; safe in any number of threads."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def note(self, why: str, reads: int = 1) -> None:
        """Count reads; beyond 32 reasons, all others are one."""
        with self._lock:
            key = why if why in self._counts or len(self._counts) < _MOST else _OTHERS
            self._counts[key] = self._counts.get(key, 0) + reads

    def counts(self) -> dict[str, int]:
        """Return all counts until now."""
        with self._lock:
            return dict(self._counts)

    def since(self, before: Mapping[str, int]) -> dict[str, int]:
        """Return the counts since `counts` returned those."""
        return {why: count - before.get(why, 0) for why, count in self.counts().items() if count > before.get(why, 0)}
