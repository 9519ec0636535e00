"""Owns the display of progress on a terminal: one a command, a line for each step under way, gone when all have ended.

A step is shown when it has lasted a while, so that short work does not flicker. One thread draws, and only while there
are steps: what enters namespaces must have no other thread.
"""

import contextlib
import math
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from envkit.cli.meter import Clock, Meter
from envkit.model.amounts import human_bytes, human_time
from envkit.model.progress import Progress, Step

PATIENCE = 0.5
"""Seconds that a step lasts before it is shown."""
_FRAME = 0.1
_JOINED = 1.0
_BAR = 24
_NARROW = 72
"""Columns of a terminal that has no room for bars beside the facts."""


class _Console(Console):
    """A console that leaves the cursor visible: a killed process could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: FBT001, FBT002  # rich's own signature
        del show
        return False


class BarProgress(Progress):
    """Draws the steps of one command."""

    def __init__(self, *, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        self._console = console or _Console(stderr=True)
        self._clock = clock
        self._lock = threading.RLock()
        self._meters: list[Meter] = []
        self._live: Live | None = None
        self._ended = threading.Event()
        self._drawing: threading.Thread | None = None

    def step(self, text: str, *, total: int | None = None, unit: str = "files") -> Step:
        """Begin a piece of work."""
        return _BarStep(self, Meter(text, total, unit, self._clock))

    def begin(self, meter: Meter) -> None:
        """Take a step into the display."""
        with self._lock:
            self._meters.append(meter)
            if self._drawing is None:
                self._ended = threading.Event()
                self._drawing = threading.Thread(target=self._draw_until, args=(self._ended,), daemon=True)
                self._drawing.start()

    def end(self, meter: Meter) -> None:
        """Take a step out of the display; with the last one it is gone, and its thread with it."""
        with self._lock:
            self._meters.remove(meter)
            if self._meters:
                return
            self._hide()
            drawing, self._drawing = self._drawing, None
            self._ended.set()
        if drawing is not None:
            drawing.join(_JOINED)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Keep the display away for a while."""
        with self._lock:
            self._hide()
            yield

    def draw(self) -> None:
        """Show how far the steps are that have lasted a while."""
        with self._lock:
            for meter in self._meters:
                meter.sample()
            shown = [meter for meter in self._meters if meter.seconds >= PATIENCE]
            if not shown:
                self._hide()
                return
            if self._live is None:
                self._live = Live(
                    console=self._console,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start()
            self._live.update(_table(shown, self._console.width, self._clock()), refresh=True)

    def _draw_until(self, ended: threading.Event) -> None:
        while not ended.wait(_FRAME):
            # A terminal that went away is no reason to end the work; the next write of a message tells.
            with contextlib.suppress(OSError):
                self.draw()

    def _hide(self) -> None:
        # A new one each time: an old one would erase as many lines as it once had, whatever they hold now.
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(OSError):
                live.stop()


class _BarStep(Step):
    def __init__(self, bars: BarProgress, meter: Meter) -> None:
        self._bars = bars
        self._meter = meter
        self.advance = meter.add  # type: ignore[method-assign]  # nothing in between: some call it for each file

    def __enter__(self) -> Step:
        self._bars.begin(self._meter)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bars.end(self._meter)


def _table(meters: list[Meter], width: int, now: float) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis")
    if width >= _NARROW:
        table.add_column(width=_BAR)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for meter in meters:
        pulse = meter.total is None
        bar = ProgressBar(total=meter.total, completed=meter.done, width=_BAR, pulse=pulse, animation_time=now)
        table.add_row(meter.text, *([bar] if width >= _NARROW else []), facts(meter))
    return table


def facts(meter: Meter) -> str:
    """Return how far a step is, in words: how much of how much, how fast, and how long it takes."""
    of_bytes = meter.unit == "bytes"
    done = human_bytes(meter.done) if of_bytes else f"{meter.done}"
    if meter.total is not None:
        done += f" of {human_bytes(meter.total) if of_bytes else meter.total}"
    # Work that counts nothing shows at least that it goes on.
    parts = [done if of_bytes else f"{done} {meter.unit}"] if meter.done or meter.total is not None else []
    if meter.rate >= 1:
        parts.append(f"{human_bytes(meter.rate) if of_bytes else f'{meter.rate:.0f}'}/s")
    left = meter.left
    parts.append(human_time(meter.seconds) if left is None else f"{human_time(math.ceil(left))} left")
    return ", ".join(parts)
