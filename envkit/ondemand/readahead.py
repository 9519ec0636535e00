"""Owns the guess what of a layer is read next: who reads on from where a read ended is given what follows in advance.

A few streams at once, each known by where it has come to. A stream begins with a miss; a second one right behind it
asks for what follows, and from then on the stream stays ahead: whenever less than half of what it asked for last is
left before the reader, it asks for twice as much. Reads elsewhere are other streams. Plain arithmetic.
"""

import threading

FIRST = 512 << 10
LONGEST = 16 << 20
STREAMS = 8
NEAR = 128 << 10
"""A read this close to where a stream has come to belongs to it: requests of one reader come out of order."""


class _Stream:
    """A reader: where it began and has come to, what was asked for in advance, `window` bytes the last time."""

    __slots__ = ("ahead", "begin", "position", "window")

    def __init__(self, offset: int, length: int) -> None:
        self.begin = offset
        self.position = offset + length
        self.ahead = self.position
        self.window = 0


class ReadAhead:
    """The streams of one layer; for any thread. `sequential` is the most bytes that one of them has read so far."""

    def __init__(self) -> None:
        self.sequential = 0
        self._streams: list[_Stream] = []  # the one that was used last at the end
        self._lock = threading.Lock()

    def observe(self, offset: int, length: int, missed: bool) -> tuple[int, int] | None:  # noqa: FBT001
        """Note a read; return the range (offset, length) to be fetched in advance, or None.

        :param missed: some of what was read was not there yet.
        """
        with self._lock:
            return self._observe(offset, length, missed=missed)

    def _observe(self, offset: int, length: int, *, missed: bool) -> tuple[int, int] | None:
        stream = self._find(offset)
        if stream is None:
            if missed:
                self._streams = [*self._streams[1 - STREAMS :], _Stream(offset, length)]
            return None
        if offset + length <= stream.position:
            return None
        stream.position = offset + length
        self.sequential = max(self.sequential, stream.position - stream.begin)
        if stream.window == 0 and not missed:
            return None
        left = stream.ahead - stream.position
        if stream.window and left > stream.window // 2:
            return None
        start = max(stream.ahead, stream.position)
        stream.window = min(LONGEST, stream.window * 2) if stream.window else FIRST
        stream.ahead = start + stream.window
        return start, stream.window

    def _find(self, offset: int) -> _Stream | None:
        """Return the stream that a read continues, as the one that was used last."""
        near = [stream for stream in self._streams if abs(offset - stream.position) <= NEAR]
        if not near:
            return None
        stream = min(near, key=lambda stream: abs(offset - stream.position))
        self._streams.remove(stream)
        self._streams.append(stream)
        return stream
