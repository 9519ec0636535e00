"""Owns measuring one piece of work: how much of it is done, since when, how fast."""

import _thread
from collections import deque
from collections.abc import Callable

WINDOW = 10.0
"""Seconds that a rate looks back."""

Clock = Callable[[], float]
"""Returns seconds since some moment; never goes back."""


class Meter:
    """How far a step is. Threads may add to it at the same time; one thread samples it."""

    def __init__(self, text: str, total: int | None, unit: str, clock: Clock) -> None:
        self.text = text
        self.total = total
        self.unit = unit
        self._clock = clock
        self._began = clock()
        self._lock = _thread.allocate_lock()
        self._done = 0
        self._samples: deque[tuple[float, int]] = deque([(self._began, 0)])

    def add(self, amount: int) -> None:
        """Count more of the work as done."""
        with self._lock:
            self._done += amount

    @property
    def done(self) -> int:
        return self._done

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    def sample(self) -> None:
        """Take note of how much is done now; forget what was long ago."""
        now = self._clock()
        self._samples.append((now, self._done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= WINDOW:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """What was done a second, in the last ten seconds before the last sample."""
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        return (after - before) / (now - then) if now > then else 0.0

    @property
    def average(self) -> float:
        """What was done a second since the beginning."""
        seconds = self.seconds
        return self._done / seconds if seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds until all is done, as the rate is; None where nobody can know."""
        if self.total is None or self.rate <= 0:
            return None
        return max(0, self.total - self._done) / self.rate
