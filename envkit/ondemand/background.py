"""Owns what is fetched of layers when nobody asks: so that a node that had a quiet minute needs the store no more.

Two ways. *Filling*: five seconds after the last demand miss of the node, one layer after the other, in the order of
packs, with a quarter of the bandwidth, as `Priority.BACKGROUND` (4 connections); it pauses at once when a demand miss
comes. *Streaming*: a layer of which much is read, 30 per cent of it or 64 MiB in a row, is fetched whole as fast as
it comes, as `Priority.AHEAD` (8 connections), pauses for nobody, and goes before filling: there, fetching what is asked
for is slower than fetching everything.

How it is connected: `Background(layers=..., drop=..., bandwidth=...)` with the `Layer`s in use, `fetcher.drop` for
`Priority.BACKGROUND`, and `link.bandwidth`; `demand()` for each demand miss; and a thread for `run(stop)`. What was
asked of a layer is watched through `is_asked` and `is_ready`, so nobody has to report what came. `drop` and the
layers' methods are called without any lock of this module; a chunk that cannot be had is left out for ten minutes.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from envkit.errors import EnvkitError
from envkit.model.tree import Chunk
from envkit.ondemand.log import complain
from envkit.ondemand.waiting import Priority

QUIET = 5.0
SHARE = 0.25  # of the bandwidth, for filling
STREAM_TOUCHED = 0.3
STREAM_SEQUENTIAL = 64 << 20
_ROUND = 0.1  # seconds between two looks while something is fetched
_IDLE = 1.0  # and while nothing is
_LOOKS = 5.0  # seconds between two searches for what a layer lacks
_BURST = 0.5  # seconds' worth of bandwidth that filling may catch up on after a pause between two looks
_LEAST = 1 << 20
_FILLING = 8 << 20  # bytes asked for and not there, at most
_STREAMING = (16 << 20, 64 << 20)  # the same: a second's worth within these
_FAILED_FOR = 600.0


class Layer(Protocol):
    """A layer in use, as this module sees it; the image server's has it all. Safe in several threads."""

    @property
    def digest(self) -> str:
        """What it is known by."""

    @property
    def chunks(self) -> Sequence[Chunk]:
        """Its chunk table."""

    @property
    def total(self) -> int:
        """Bytes of its image that come from chunks."""

    @property
    def touched(self) -> int:
        """How many of those were read, each counted once or at least not often."""

    @property
    def sequential(self) -> int:
        """The most bytes that were read in a row, as `ReadAhead.sequential`."""

    def missing(self) -> Iterable[int]:
        """Return the numbers of the chunks that are not in the cache, in any order."""

    def is_ready(self, number: int) -> bool:
        """Tell whether a chunk is in the cache."""

    def is_asked(self, number: int) -> bool:
        """Tell whether a chunk was asked of the fetcher and has neither come nor failed."""

    def fetch(self, numbers: list[int], priority: Priority) -> None:
        """Ask the fetcher for chunks; those that were asked for already come sooner if this is more urgent."""


class _Work:
    """What is to be done for one layer."""

    def __init__(self) -> None:
        self.left: deque[int] = deque()
        self.asked: dict[int, int] = {}
        self.failed: dict[int, float] = {}
        self.streaming = False
        self.looked = float("-inf")

    @property
    def under_way(self) -> int:
        return sum(self.asked.values())

    def forget(self) -> None:
        """Begin anew: what was asked for was given up, or comes without being watched."""
        self.left.clear()
        self.asked.clear()
        self.looked = float("-inf")

    def settle(self, layer: Layer, now: float) -> None:
        """Note what has come and what cannot be had."""
        for number in [number for number in self.asked if not layer.is_asked(number)]:
            del self.asked[number]
            if not layer.is_ready(number):
                self.failed[number] = now

    def look(self, layer: Layer, now: float) -> None:
        """Find out what is missing, unless there is work left, or that was done just now."""
        if self.left or now - self.looked < _LOOKS:
            return
        self.looked = now
        self.failed = {number: when for number, when in self.failed.items() if now - when < _FAILED_FOR}
        chunks = layer.chunks
        wanted = [number for number in layer.missing() if number not in self.failed and number not in self.asked]
        self.left.extend(sorted(wanted, key=lambda number: (chunks[number].pack, chunks[number].offset)))

    def next(self, layer: Layer, budget: float) -> list[int]:
        """Take the next chunks, with so many stored bytes, or just over."""
        numbers: list[int] = []
        while self.left and budget > 0:
            number = self.left.popleft()
            # In this order: what comes between the two questions is ready.
            if not layer.is_asked(number) and not layer.is_ready(number):
                self.asked[number] = layer.chunks[number].stored
                budget -= self.asked[number]
                numbers.append(number)
        return numbers


class Background:
    """Decides what is fetched next; `demand` is for any thread, `tick` (or `run`) for one."""

    def __init__(
        self,
        *,
        layers: Callable[[], Iterable[Layer]],
        drop: Callable[[], object],
        bandwidth: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layers = layers
        self._drop = drop
        self._bandwidth = bandwidth
        self._clock = clock
        self._work: dict[str, _Work] = {}
        self._last_demand = self._last_tick = clock()
        self._allowance = 0.0
        self._demands = 0
        self._filling = False
        self._paused = False

    def demand(self) -> None:
        """Note a demand miss; what waits of filling is given up."""
        self._last_demand = self._clock()
        self._demands += 1
        if self._filling:
            self._pause()

    def run(self, stop: threading.Event) -> None:
        """Do what is due until `stop` is set."""
        pause = _ROUND
        while not stop.wait(pause):
            try:
                pause = self.tick()
            except Exception as error:  # noqa: BLE001  # it is only about the future
                complain(f"fetching in the background: {type(error).__name__}: {error}")
                pause = _IDLE

    def tick(self) -> float:
        """Ask for what is due now; return in how many seconds to call again."""
        now, demands = self._clock(), self._demands
        layers = {layer.digest: layer for layer in self._layers()}
        self._work = {digest: self._work.get(digest) or _Work() for digest in layers}
        paused, self._paused = self._paused, False
        for digest, work in self._work.items():
            if paused and not work.streaming:
                work.forget()
            work.settle(layers[digest], now)
        elapsed, self._last_tick = now - self._last_tick, now
        if self._stream(layers, now):
            return _ROUND
        quiet = now - self._last_demand
        if quiet < QUIET:
            self._allowance = 0.0
            return max(_ROUND, min(_IDLE, QUIET - quiet))
        self._filling = self._fill(layers, now, elapsed)
        if self._demands != demands:
            self._pause()  # the miss came while this asked for more
        return _ROUND if self._filling else _IDLE

    def _pause(self) -> None:
        self._filling = False
        self._paused = True
        self._drop()

    def _stream(self, layers: dict[str, Layer], now: float) -> bool:
        """Ask for the next of the layers that are streamed; return whether there is any work."""
        for digest, layer in layers.items():
            work = self._work[digest]
            if not work.streaming and is_worth_streaming(layer):
                work.streaming = True
                layer.fetch([*work.asked], Priority.AHEAD)  # what filling has asked for comes sooner now
        streamed = {digest: work for digest, work in self._work.items() if work.streaming}
        lowest, highest = _STREAMING
        budget = min(highest, max(lowest, self._bandwidth()))
        budget -= sum(work.under_way for work in streamed.values())
        for digest, work in streamed.items():
            budget -= self._ask(layers[digest], work, now, budget, Priority.AHEAD)
        return any(work.asked or work.left for work in streamed.values())

    def _fill(self, layers: dict[str, Layer], now: float, elapsed: float) -> bool:
        """Ask for the next of the first layer that lacks something; return whether there is any work."""
        rate = self._bandwidth() * SHARE
        self._allowance = min(self._allowance + rate * elapsed, max(_LEAST, rate * _BURST))
        for digest, layer in layers.items():
            work = self._work[digest]
            budget = min(self._allowance, _FILLING - work.under_way)
            self._allowance -= self._ask(layer, work, now, budget, Priority.BACKGROUND)
            if work.asked or work.left:
                return True
        return False

    def _ask(self, layer: Layer, work: _Work, now: float, budget: float, priority: Priority) -> int:
        """Ask for chunks of a layer; return their stored bytes."""
        numbers: list[int] = []
        try:
            work.look(layer, now)
            numbers = work.next(layer, budget)
            if numbers:
                layer.fetch(numbers, priority)
        except (EnvkitError, OSError) as error:  # one layer that is broken does not stop the others
            complain(f"fetching layer {layer.digest[:12]} in the background: {error}")
        return sum(work.asked[number] for number in numbers)


def is_worth_streaming(layer: Layer) -> bool:
    """Tell whether a layer is read as a whole, by what was read of it."""
    return layer.sequential >= STREAM_SEQUENTIAL or layer.touched > STREAM_TOUCHED * layer.total
