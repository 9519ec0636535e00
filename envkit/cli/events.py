"""Owns what programs read on standard error: one JSON object a line for progress, messages and errors."""

import _thread
import contextlib
import json
import sys
import time

from envkit.cli.meter import Clock, Meter
from envkit.model.progress import Progress, Step

PAUSE = 0.5
"""Seconds between two lines of a step, but for its first and its last."""


def write_event(event: str, **fields: object) -> None:
    """Write one line. A reader that went away does not end the work."""
    with contextlib.suppress(OSError):
        # One write a line, so that lines of several threads do not mix.
        sys.stderr.write(json.dumps({"event": event} | fields) + "\n")
        sys.stderr.flush()


class EventProgress(Progress):
    """Writes lines for each step: when it begins, while it goes on, when it ends."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock

    def step(self, text: str, *, total: int | None = None, unit: str = "files") -> Step:
        """Begin a piece of work."""
        return _EventStep(Meter(text, total, unit, self._clock))


class _EventStep(Step):
    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = _thread.allocate_lock()
        self._next = PAUSE

    def __enter__(self) -> Step:
        self._write("progress", 0.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._write("done" if kind is None else "stopped", self._meter.average)

    def advance(self, amount: int) -> None:
        """Count it, and write a line if the last one is old enough."""
        with self._lock:
            self._meter.add(amount)
            seconds = self._meter.seconds
            if seconds < self._next:
                return
            self._next = seconds + PAUSE
            self._meter.sample()
            self._write("progress", self._meter.rate)

    def _write(self, event: str, rate: float) -> None:
        meter = self._meter
        write_event(
            event,
            step=meter.text,
            done=meter.done,
            total=meter.total,
            unit=meter.unit,
            seconds=round(meter.seconds, 3),
            rate=round(rate),
        )
