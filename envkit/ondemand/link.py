"""Owns what is known of the link to the store: its round trip and its bandwidth, learned from requests that ended.

Each request compares the time that it took with what was expected. The surprise is shared out between the two
estimates: the small ones among the requests teach the round trip, the large ones the bandwidth. It works on logarithms,
as a moving average, so that a request that took a hundred times too long moves an estimate by a few per cent.

Where nothing comes any more, patience is for the outage, not for each request: a program that reads a hundred files
must not wait a hundred times until it is over. Not safe for several threads at once.
"""

import time
from math import exp, log

ROUND_TRIP = 0.020
BANDWIDTH = 100e6 / 8
_SURPRISE = log(4)  # more than this in one request is an outlier
_FIRST_GAIN = 0.5
_GAIN = 0.1
_ROUND_TRIPS = (0.000_02, 5.0)
_BANDWIDTHS = (8e3, 100e9)
_MIN_GAP = 64 << 10
_MAX_GAP = 1280 << 10
_LATE = 10.0  # seconds that are waited at least, however long nothing has come


class Link:
    """Estimates: `round_trip`, seconds until the first byte; `bandwidth`, bytes per second of all requests together."""

    def __init__(self, round_trip: float = ROUND_TRIP, bandwidth: float = BANDWIDTH) -> None:
        self.round_trip = round_trip
        self.bandwidth = bandwidth
        self._seen = 0
        self._silent: float | None = None
        self._usual = 0.0  # logarithm of the bytes that a request has, with those that others had meanwhile

    def observe(self, size: int, seconds: float, in_flight: float) -> None:
        """Learn from a request of `size` bytes that shared the link with others, `in_flight` with itself."""
        self._silent = None
        if size <= 0 or seconds <= 0:
            return
        expected = self.expected(size, in_flight)
        surprise = max(-_SURPRISE, min(_SURPRISE, log(seconds / expected)))
        carried = log(size * max(1.0, in_flight))
        self._usual += (carried - self._usual) * max(_GAIN / 4, 1 / (self._seen + 1))
        self._seen += 1
        step = max(_GAIN, _FIRST_GAIN / self._seen**0.5) * surprise
        # By their parts in the expectation alone, an estimate that is far too small would never learn.
        waiting = (self.round_trip / expected + 1 / (1 + exp(carried - self._usual))) / 2
        self.round_trip = _within(self.round_trip * exp(step * waiting), _ROUND_TRIPS)
        self.bandwidth = _within(self.bandwidth * exp(-step * (1 - waiting)), _BANDWIDTHS)

    def failed(self) -> None:
        """Note that a request brought nothing."""
        if self._silent is None:
            self._silent = time.monotonic()

    def patience(self, whole: float) -> float:
        """Return for how many seconds to wait for what is asked for now, `whole` if there is no outage."""
        if self._silent is None:
            return whole
        return min(whole, max(_LATE, self._silent + whole - time.monotonic()))

    def expected(self, size: int, in_flight: float = 1) -> float:
        """Return the seconds that a request should take."""
        return self.round_trip + size * max(1.0, in_flight) / self.bandwidth

    def arriving(self, seconds: float) -> int:
        """Return how many bytes arrive in some seconds."""
        return int(self.bandwidth * seconds)

    @property
    def gap(self) -> int:
        """Bytes that nobody wants and that are still cheaper to fetch than to leave out with another request."""
        return min(_MAX_GAP, max(_MIN_GAP, int(self.bandwidth * self.round_trip / 2)))


def _within(value: float, limits: tuple[float, float]) -> float:
    return max(limits[0], min(limits[1], value))
