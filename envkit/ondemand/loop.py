"""Owns the conversation with the kernel: threads that read requests, and who gets which answer.

What can be answered at once is answered by the thread that read it. A READ that has to wait for the store keeps its
slot in the journal and lets the thread go on; whoever gets its bytes answers it. So a few threads are enough for any
number of waiting readers, and a slow store never keeps those from reading who need it not.
"""

import errno
import os
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from queue import SimpleQueue

from envkit.drivers import fuse
from envkit.ondemand.journal import SLOTS, Journal

READERS = 4


class Files(ABC):
    """What is served: a directory of read-only files, by node numbers that stay the same when the server is restarted.

    Errors are OSError with the number that the reader shall see.
    """

    @abstractmethod
    def lookup(self, name: str) -> tuple[int, int]:
        """Return (node, size) of a file."""

    @abstractmethod
    def size(self, node: int) -> int:
        """Return the size of a file in bytes."""

    @abstractmethod
    def names(self) -> list[tuple[int, bytes]]:
        """Return (node, name) of all files, in an order that does not change."""

    @abstractmethod
    def read(self, node: int, offset: int, length: int, waiting: "Waiting") -> None:
        """Answer `waiting` with bytes of a file, now or later, once."""


class Waiting:
    """A READ that the kernel waits for. Whoever answers first has answered; all else does nothing."""

    __slots__ = ("_loop", "_slot", "pid", "unique")

    def __init__(self, loop: "Loop", request: fuse.Request, slot: int) -> None:
        self._loop = loop
        self._slot = slot
        self.unique = request.unique
        self.pid = request.pid

    def answer(self, *data: "bytes | memoryview") -> None:
        """Give the reader its bytes."""
        if self._loop.take(self):
            try:
                fuse.answer(self._loop.descriptor, self.unique, *data)
            except OSError:
                traceback.print_exc(file=sys.stderr)
                fuse.refuse(self._loop.descriptor, self.unique, errno.EIO)
            finally:
                self._loop.release(self._slot)

    def refuse(self, number: int) -> None:
        """Give the reader an error."""
        if self._loop.take(self):
            try:
                fuse.refuse(self._loop.descriptor, self.unique, number)
            finally:
                self._loop.release(self._slot)


class Loop:
    """Serves `files` on a descriptor of /dev/fuse until the file system is unmounted."""

    def __init__(self, descriptor: int, journal: Journal, files: Files) -> None:
        self.descriptor = descriptor
        self._journal = journal
        self._files = files
        self._free: SimpleQueue[int] = SimpleQueue()
        self._waiting: dict[int, Waiting] = {}
        self._ended = threading.Event()

    def start(self) -> None:
        """Answer what a killed server left, and begin to read."""
        left = dict(self._journal.left())
        for slot in range(SLOTS):
            if slot not in left:
                self._free.put(slot)
        for slot, request in left.items():
            self._handle(request, slot)
        for number in range(READERS):
            threading.Thread(target=self._read, name=f"reader {number}", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until the file system is unmounted, at most so long; tell whether it is."""
        return self._ended.wait(seconds)

    @property
    def waiting(self) -> int:
        """How many reads wait for the store."""
        return len(self._waiting)

    def let_killed_go(self) -> None:
        """Answer those readers that were killed and wait for nothing but their answer; to be called every second."""
        for waiting in list(self._waiting.values()):
            self._let_go(waiting)

    def take(self, waiting: Waiting) -> bool:
        """Tell one of several who would answer that it may; for `Waiting`."""
        return self._waiting.pop(waiting.unique, None) is not None

    def release(self, slot: int) -> None:
        """Let a slot be used again: its request is answered; for `Waiting`."""
        self._journal.clear(slot)
        self._free.put(slot)

    @staticmethod
    def _let_go(waiting: Waiting | None) -> None:
        # The kernel tells of every signal. One that the reader survives must not cost it its bytes: the file system
        # above would make an EIO of it.
        if waiting is not None and fuse.is_being_killed(waiting.pid):
            waiting.refuse(errno.EINTR)

    def _read(self) -> None:
        while not self._ended.is_set():
            slot = self._free.get()
            buffer = self._journal.slots[slot]
            try:
                length = os.readv(self.descriptor, [buffer])
            except OSError as error:
                self.release(slot)
                if error.errno == errno.ENODEV:  # unmounted
                    self._ended.set()
                elif error.errno not in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    raise
                continue
            request = fuse.read_request(buffer, length)
            if request is None:
                self.release(slot)
            else:
                self._handle(request, slot)

    def _handle(self, request: fuse.Request, slot: int) -> None:
        if request.opcode == fuse.READ:
            self._begin(request, slot)
            return
        try:
            payload = self._answer(request)
            if request.opcode not in fuse.UNANSWERED:
                fuse.answer(self.descriptor, request.unique, payload)
        except OSError as error:
            fuse.refuse(self.descriptor, request.unique, error.errno or errno.EIO)
        except Exception:  # noqa: BLE001  # a mistake here must not cost a thread, nor leave anybody waiting
            traceback.print_exc(file=sys.stderr)
            fuse.refuse(self.descriptor, request.unique, errno.EIO)
        self.release(slot)

    def _begin(self, request: fuse.Request, slot: int) -> None:
        waiting = Waiting(self, request, slot)
        self._waiting[request.unique] = waiting
        try:
            offset, length = request.range
            self._files.read(request.node, offset, min(length, fuse.MAX_READ), waiting)
        except OSError as error:
            waiting.refuse(error.errno or errno.EIO)
        except Exception:  # noqa: BLE001  # a mistake here must not leave a reader waiting for ever
            traceback.print_exc(file=sys.stderr)
            waiting.refuse(errno.EIO)

    def _answer(self, request: fuse.Request) -> bytes:
        match request.opcode:
            case fuse.INIT:
                return fuse.negotiated(request)
            case fuse.LOOKUP:
                if request.node != fuse.ROOT:
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                return fuse.entry(*self._files.lookup(request.name.decode("ascii", "replace")))
            case fuse.GETATTR:
                size = 0 if request.node == fuse.ROOT else self._files.size(request.node)
                return fuse.attributes(request.node, size)
            case fuse.OPEN | fuse.OPENDIR:
                return fuse.opened()
            case fuse.READDIR:
                offset, limit = request.range
                return fuse.directory_entries(self._files.names(), offset, limit)
            case fuse.STATFS:
                names = self._files.names()
                return fuse.statistics_of(sum(self._files.size(node) for node, _ in names), len(names))
            case fuse.RELEASE | fuse.RELEASEDIR | fuse.FLUSH | fuse.DESTROY | fuse.FORGET | fuse.BATCH_FORGET:
                return b""
            case fuse.INTERRUPT:
                self._let_go(self._waiting.get(request.interrupted))
                return b""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
