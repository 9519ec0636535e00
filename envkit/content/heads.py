"""Owns the heads of compiled Python files: their first 16 bytes, which hold the time of their source.

What follows them is the same wherever the same source was compiled, so the heads are kept apart, together in chunks of
their own: an environment that somebody else builds again shares the rest. A third of a scientific environment is such
files, and without this each copy of one would differ.
"""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from envkit.model.tree import Entry, Segment

HEAD = 16
_SUFFIX = b".pyc"

Reuse = Callable[[int], int]
"""Takes the number of a chunk that recalled segments name; returns what segments name it by now."""


class Heads:
    """Takes heads from contents, and puts them in front of the segments of the rest.

    :param put: takes a chunk; returns what segments name it by.
    :param most: bytes of a chunk of heads at most.
    """

    def __init__(self, put: Callable[[bytes], int], *, most: int) -> None:
        self._put = put
        self._most = most
        self._taken: dict[bytes, bytes] = {}
        self._recalled: dict[bytes, Segment] = {}
        self._chunk = b""
        self._waiting: list[tuple[Entry, int | None]] = []

    @staticmethod
    def has_one(entry: Entry) -> bool:
        """Tell whether a file may have a head."""
        return entry.path.endswith(_SUFFIX)

    def cut(self, entry: Entry, content: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        """Return a content without its head, which is noted when the content is read."""
        return self._without(entry.path, content) if self.has_one(entry) else content

    def _without(self, path: bytes, content: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        for start, data in content:
            if start == 0 and len(data) >= HEAD:
                self._taken[path] = data[:HEAD]
                if len(data) > HEAD:
                    yield HEAD, data[HEAD:]
            else:
                yield start, data

    def recall(self, entry: Entry, segments: tuple[Segment, ...], reuse: Reuse) -> tuple[Segment, ...]:
        """Return the segments of an unchanged file without its head, which stays where it is."""
        if segments and entry.path.endswith(_SUFFIX) and (segments[0].start, segments[0].length) == (0, HEAD):
            head = segments[0]
            self._recalled[entry.path] = Segment(0, HEAD, reuse(head.chunk), head.offset)
            return segments[1:]
        return segments

    def attach(self, entry: Entry) -> Iterable[Entry]:
        """Take an entry with the segments of the rest; return those whose heads have a place, in order."""
        if entry.path.endswith(_SUFFIX):
            head = self._recalled.pop(entry.path, None)
            taken = self._taken.pop(entry.path, None)
            if head is not None:
                entry = _with_head(entry, head)
            elif taken is not None:
                self._waiting.append((entry, len(self._chunk)))
                self._chunk += taken
                return self.flush() if len(self._chunk) + HEAD > self._most else ()
        if not self._waiting:
            return (entry,)
        self._waiting.append((entry, None))
        return ()

    def flush(self) -> Iterator[Entry]:
        """Give the heads that wait a chunk; yield the entries that waited for it."""
        if self._waiting:
            chunk = self._put(self._chunk)
            for entry, offset in self._waiting:
                yield entry if offset is None else _with_head(entry, Segment(0, HEAD, chunk, offset))
        self._chunk, self._waiting = b"", []


def _with_head(entry: Entry, head: Segment) -> Entry:
    return msgspec.structs.replace(entry, segments=(head, *entry.segments))
