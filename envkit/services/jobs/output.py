"""Owns what a task prints on its way to a store: spooled on this machine, stored in segments while the task runs.

A store that is away holds nobody up: the spool is bounded, and what it holds is stored when the store is back. Of a
stream that is longer than that, the first part and the very end are kept, with a line between them.
"""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Iterator

from envkit.errors import Damaged, EnvkitError
from envkit.model.record import Record
from envkit.model.task import MAX_ATTEMPTS
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound
from envkit.store.layout import task_key
from envkit.store.orders import MAX_SEGMENT, get_part, seal

STREAMS = ("out", "err")
_SEGMENT = 1 << 20
_PAUSE = 2.0
_LONGEST_PAUSE = 20.0
_OFTEN = 200
"""A task that runs for long is stored less often: `1 / _OFTEN` of its age so far, within these two."""
_LOOK = 0.2
_LAST_WAIT = 60.0
"""Seconds between two tries at a store that is away, at most."""


class Limits(Record):
    """How many bytes of a stream are kept: from its beginning, and from its end if it is longer than that."""

    head: int = 60 << 20
    tail: int = 4 << 20


class Output:
    """The output of one attempt at a task. Used by one thread; another one, its own, stores.

    `attempt` is the number under which it is stored: the given one, or the next that nobody else has written to.
    """

    def __init__(
        self,
        store: Store,
        owner: str,
        token: str,
        key: bytes,
        *,
        index: int,
        attempt: int,
        directory: str,
        limits: Limits = Limits(),  # noqa: B008  # frozen
    ) -> None:
        self.attempt = attempt
        self.problem = ""
        """Why the last try to store something failed; empty if it did not."""
        self.taken = False
        self._store, self._owner, self._token, self._key, self._index = store, owner, token, key, index
        self._streams = {name: _Stream(directory, limits) for name in STREAMS}
        self._began = time.monotonic()
        self._deadline: float | None = None
        self._at_most = float("inf")
        self._wake = threading.Condition()
        self._thread = self._worker()

    def write(self, stream: str, data: bytes) -> None:
        """Take what the task has printed; never waits for the store."""
        self._streams[stream].write(data)
        if self._streams[stream].waiting >= _SEGMENT:
            with self._wake:
                self._wake.notify()

    def finish(self, patience: float) -> bool:
        """Store the rest, trying for so many seconds at most; tell whether all of it is stored."""
        for stream in self._streams.values():
            stream.end()
        with self._wake:
            self._deadline = time.monotonic() + patience
            self._wake.notify()
        if not self._thread.is_alive():  # called again, after `start_again`
            self._thread = self._worker()
        while self._thread.is_alive() and time.monotonic() < self._end:
            self._thread.join(_LOOK)
        return not any(stream.waiting for stream in self._streams.values())

    def put(self, part: str, data: bytes, patience: float) -> bool:
        """Store something else of this attempt, such as its result; call it after `finish`.

        :returns: False where the store stayed away, or has another one of this attempt: then `taken` is True.
        """
        self._deadline = time.monotonic() + patience
        for wait in _waits():
            try:
                self.taken = not self._stored(part, data)
                return not self.taken
            except EnvkitError as error:
                self.problem = error.brief
            over = time.monotonic() + wait
            while time.monotonic() < over:
                if time.monotonic() > self._end:
                    return False
                time.sleep(_LOOK)
        return False

    def start_again(self) -> None:
        """Store under the next number: this attempt was begun before, and whoever did that died without a result.

        :raises EnvkitError: there is no next number.
        """
        if self.attempt >= MAX_ATTEMPTS:
            raise EnvkitError(f"task {self._index} was started more than {MAX_ATTEMPTS} times")
        self.attempt += 1
        self.taken = False
        for stream in self._streams.values():
            stream.rewind()

    def close(self) -> None:
        """Let the spool go, unless something still waits in it for a store that does not answer."""
        self._thread.join(1.0)
        if not self._thread.is_alive():
            for stream in self._streams.values():
                stream.close()

    def hurry(self, patience: float) -> None:
        """Give `finish` and `put` only so many more seconds, also where they are called later. For signal handlers."""
        self._at_most = min(self._at_most, time.monotonic() + patience)

    @property
    def _end(self) -> float:
        return self._at_most if self._deadline is None else min(self._at_most, self._deadline)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes that were printed, by stream; those that were left out count."""
        return {name: stream.printed for name, stream in self._streams.items()}

    @property
    def segments(self) -> int:
        """How many objects hold the output, of both streams."""
        return sum(stream.segments for stream in self._streams.values())

    def _worker(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="output", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        waits = _waits()
        while True:
            with self._wake:
                if self._deadline is None and not self._full():
                    self._wake.wait(self._pause())
                ending = self._deadline is not None
            try:
                self._store_waiting(all_of_it=ending)
            except (EnvkitError, OSError) as error:
                self.problem = str(error)
                if not self._wait(next(waits)):
                    return
            else:
                waits = _waits()
                self.problem = ""
                if ending:
                    return

    def _full(self) -> bool:
        return any(stream.waiting >= _SEGMENT for stream in self._streams.values())

    def _pause(self) -> float:
        return min(_LONGEST_PAUSE, max(_PAUSE, (time.monotonic() - self._began) / _OFTEN))

    def _wait(self, seconds: float) -> bool:
        """Wait before the next try, less if `finish` is called meanwhile; tell whether there is time for one."""
        with self._wake:
            before, over = self._deadline, time.monotonic() + seconds
            while self._deadline is before and time.monotonic() < min(over, self._end):
                self._wake.wait(_LOOK)
            return time.monotonic() < self._end

    def _store_waiting(self, *, all_of_it: bool) -> None:
        """Store what waits, in segments: of each stream one, and more only of whole ones or if it is to be all."""
        more = True
        while more:
            for name, stream in self._streams.items():
                data = stream.next(_SEGMENT)
                if not data:
                    continue
                if self._stored(f"{name}.{stream.segments:06}", data):
                    stream.stored()
                else:
                    self.start_again()
                    break
            more = any(stream.waiting >= (1 if all_of_it else _SEGMENT) for stream in self._streams.values())

    def _stored(self, part: str, data: bytes) -> bool:
        """Store a part of this attempt; False if another one is there, which was not written by this process.

        A store whose answer was lost has it, though it says that it had it before.
        """
        name = task_key(self._owner, self._token, self._index, self.attempt, part)
        sealed = seal(self._key, name, data)
        if self._store.put_if_absent(name, sealed):
            return True
        try:
            return self._store.get(name, limit=len(sealed)) == sealed
        except Damaged:  # it is larger
            return False


class _Stream:
    """What one stream has brought so far: a spool of bounded size, and what it was when it was longer than that."""

    def __init__(self, directory: str, limits: Limits) -> None:
        self.printed = 0
        self.segments = 0
        self._room = limits.head
        self._most = limits.tail
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._directory = directory
        self._spool: int | None = None  # most tasks print nothing, at least on one of the two
        self._spooled = 0
        self._done = 0
        self._offered = 0
        self._ended = False

    @property
    def waiting(self) -> int:
        return self._spooled - self._done

    def write(self, data: bytes) -> None:
        self.printed += len(data)
        head = data[: self._room]
        self._append(head)
        rest = data[len(head) :]
        if rest:
            self._room = 0
            self._tail.append(rest[-self._most :])
            self._tail_size += len(self._tail[-1])
            while self._tail_size - len(self._tail[0]) >= self._most:
                self._tail_size -= len(self._tail.popleft())

    def end(self) -> None:
        """Add the tail to the spool; nothing is written any more."""
        if self._ended:
            return
        self._ended = True
        tail = b"".join(self._tail)[-self._most :]
        left_out = self.printed - self._spooled - len(tail)
        if left_out:
            tail = f"\n... {left_out} bytes left out ...\n".encode() + tail
        self._tail.clear()
        self._room = len(tail)
        self._append(tail)

    def next(self, most: int) -> bytes:
        """Return the next segment; the same again until it is stored, as a store may have it and not have said so."""
        self._offered = self._offered or min(most, self.waiting)
        return b"" if self._spool is None else os.pread(self._spool, self._offered, self._done)

    def stored(self) -> None:
        self._done += self._offered
        self._offered = 0
        self.segments += 1

    def rewind(self) -> None:
        self._done = self._offered = self.segments = 0

    def close(self) -> None:
        if self._spool is not None:
            os.close(self._spool)
            self._spool = None

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                if self._spool is None:
                    self._spool = _nameless_file(self._directory)
                written = os.pwrite(self._spool, view, self._spooled)
                self._spooled += written
                self._room -= written
                view = view[written:]
        except OSError:  # the disk is full; what did not fit counts as left out
            self._room = 0


def _nameless_file(directory: str) -> int:
    """Return a descriptor of a new file that goes when it is closed."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # what file systems say that have none
            raise
    path = f"{directory}/.spool-{os.urandom(8).hex()}"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return descriptor


def _waits() -> Iterator[float]:
    """Yield the seconds to wait between tries at a store that is away."""
    wait = 1.0
    while True:
        yield wait * (0.7 + os.urandom(1)[0] / 425)  # 0.7 to 1.3: a thousand tasks do not come back at once
        wait = min(2 * wait, _LAST_WAIT)


def read_output(
    store: Store, owner: str, token: str, key: bytes, index: int, attempt: int, stream: str, first: int = 0
) -> Iterator[bytes]:
    """Yield the segments of a stream that are stored by now, from the `first` on.

    :raises Damaged: one was not written by that task.
    """
    number = first
    while True:
        try:
            segment = get_part(store, owner, token, key, index, attempt, f"{stream}.{number:06}", limit=MAX_SEGMENT)
        except ObjectNotFound:
            return
        yield segment
        number += 1
