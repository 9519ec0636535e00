"""Owns what a run touches first, and how a start pack is made of that: recorded, joined with earlier runs, built.

A recording takes note of granules in the order in which somebody first reads them. Of a run that was helped by a
start pack it also counts what that did not hold. The bytes come from the node's cache, verified.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence

from envkit.content.startpack import MAX_UNSEEN, Granule, StartPack
from envkit.content.startpacker import Encoded, Read, encode
from envkit.model.record import Record
from envkit.model.startpack import GRANULE, ImageLayer

SECONDS = 60.0
"""How long a recording goes on: what is touched later is no start."""
FIRST_MOMENTS = 5.0
"""A command that fails before this has not shown what it needs."""
MAX_BYTES = 200 << 20
"""What one recording takes; below what a start pack may hold, so that others can be joined with it."""
_MIN_BYTES = 4 << 20
_SHARE = 0.25
_ENOUGH = 0.10


class Touch(Record):
    """The first read of a granule: layer and granule by number, milliseconds since the recording began."""

    layer: int
    granule: int
    after: int


class Recording:
    """First touches of one run on a stack. All methods are for any thread; `touch` costs about a microsecond.

    Metadata is not recorded, since every node makes it itself. It ends by itself after a minute, or when it has as much
    as a start pack may hold: a quarter of the stack, 200 MiB at most.
    """

    def __init__(self, layers: Sequence[ImageLayer], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.layers = tuple(layers)
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        self._room = plain_limit(layers) // GRANULE
        # A dictionary keeps the order, and its setdefault is one step to other threads.
        self._seen: dict[tuple[int, int], int] = {}
        self._missed = 0

    def touch(self, layer: int, offset: int, length: int, *, missed: bool = False) -> None:
        """Take note of a read of a layer's image, by number; `missed`: its bytes had to be fetched for it."""
        if self._ended is not None:
            return
        now = self._clock()
        if now - self._began > SECONDS:
            self._ended = self._began + SECONDS
            return
        image = self.layers[layer]
        start, end = max(offset, image.data), min(offset + length, image.size)
        if start >= end:
            return
        if missed:
            self._missed += end - start
        after = int((now - self._began) * 1000)
        for granule in range(start // GRANULE, (end - 1) // GRANULE + 1):
            self._seen.setdefault((layer, granule), after)
        if len(self._seen) >= self._room:
            self._ended = now

    def end(self) -> None:
        """End it, as the job has ended."""
        if self._ended is None:
            self._ended = min(self._clock(), self._began + SECONDS)

    @property
    def ended(self) -> bool:
        """Whether it takes note of nothing more."""
        return self._ended is not None or self._clock() - self._began > SECONDS

    @property
    def full(self) -> bool:
        """Whether it ended because too much was touched: whoever reads so much is no start, and is better streamed."""
        return len(self._seen) >= self._room

    @property
    def missed(self) -> int:
        """Bytes that readers had to wait for because they were fetched for them."""
        return self._missed

    def touches(self) -> list[Touch]:
        """Return what was touched so far, in order."""
        # One step to other threads, as long as it is a copy of the dictionary itself.
        seen = self._seen.copy()
        return [Touch(layer=layer, granule=granule, after=after) for (layer, granule), after in seen.items()]

    def granules(self) -> list[tuple[int, int]]:
        """Return (layer, granule) of what was touched so far, in order."""
        return list(self._seen.copy())


def plain_limit(layers: Iterable[ImageLayer]) -> int:
    """Return how many bytes of a stack a start pack may hold: a quarter, but 4 MiB of a small one, 200 MiB of all."""
    return min(MAX_BYTES, max(_MIN_BYTES, int(sum(layer.size for layer in layers) * _SHARE)))


def is_worthwhile(recording: Recording, entry_point: str, used: StartPack | None, *, code: int, seconds: float) -> bool:
    """Tell whether a start pack should be made of a recording.

    One of another entry point is good enough if it holds what was needed, and not more than twice as much.

    :param used: the start pack that the run was helped by; None if there was none.
    :param code: the exit code of the command; `seconds`: how long it ran.
    """
    granules = recording.granules()
    if not granules or recording.full or (code and seconds < FIRST_MOMENTS):
        return False
    if used is None or recording.missed > used.plain * _ENOUGH:
        return True
    # What came ahead of its reader was no miss, and yet the pack should have had it.
    if sum(granule not in used.places for granule in granules) > len(used.granules) * _ENOUGH:
        return True
    return used.entry_point != entry_point and 2 * len(granules) < len(used.granules)


def joined(recording: Recording, earlier: StartPack | None, *, unwatched: Collection[int] = ()) -> list[Granule]:
    """Return the granules of the next start pack: those of an earlier one in their places, new ones behind them.

    What was not touched in three recordings in a row is left out, and so is what belongs to another image of a layer.

    :param unwatched: layers of which the recording has seen nothing, since they were mounted past the server.
    """
    touched = dict.fromkeys(recording.granules())
    kept: list[Granule] = []
    if earlier is not None:
        same = same_images(earlier, recording.layers)
        for granule in earlier.granules:
            if granule.layer in same:
                place = (granule.layer, granule.number)
                seen = place in touched
                touched.pop(place, None)
                unseen = 0 if seen else granule.unseen + (granule.layer not in unwatched)
                if unseen < MAX_UNSEEN:
                    kept.append(Granule(granule.layer, granule.number, unseen))
    return _limited([*kept, *(Granule(layer, number) for layer, number in touched)], recording.layers)


def same_images(pack: StartPack, layers: Sequence[ImageLayer]) -> frozenset[int]:
    """Return the numbers of those layers whose images here are the ones that a start pack is of."""
    if [layer.digest for layer in pack.layers] != [layer.digest for layer in layers]:
        return frozenset()
    return frozenset(
        number
        for number, (theirs, ours) in enumerate(zip(pack.layers, layers, strict=True))
        if (theirs.uuid, theirs.size) == (ours.uuid, ours.size)
    )


def _limited(granules: list[Granule], layers: Sequence[ImageLayer]) -> list[Granule]:
    """Return as many granules as there is room for: first without those that were longest not touched."""
    room = plain_limit(layers) // GRANULE
    limit = MAX_UNSEEN
    while len(granules) > room and limit > 1:
        limit -= 1
        granules = [granule for granule in granules if granule.unseen < limit]
    return granules[:room]


def build(
    recording: Recording,
    entry_point: str,
    read: Read,
    *,
    earlier: StartPack | None = None,
    unwatched: Collection[int] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Encoded | None:
    """Make the start pack of a recording, joined with one of earlier runs; None if too little of it can be had.

    An earlier one of another entry point is not joined. Takes a second of a processor for some 4 MB: not for a thread
    that somebody waits for.

    :param read: returns a granule's bytes as its chunks have them. What came from the earlier start pack was never
        compared with those, so they may have to be fetched first. None if they cannot be had.
    :param stopped: asked now and then; if it says so, the result is None.
    """
    own = earlier if earlier is not None and earlier.entry_point == entry_point else None
    granules = joined(recording, own, unwatched=unwatched)
    lost = 0

    def counted(layer: int, granule: int) -> bytes | None:
        nonlocal lost
        data = read(layer, granule)
        lost += data is None
        return data

    # One with holes would take the place of a better one.
    made = encode(
        recording.layers, entry_point, granules, counted, stopped=lambda: lost > len(granules) * _ENOUGH or stopped()
    )
    return None if lost > len(granules) * _ENOUGH else made
