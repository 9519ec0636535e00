"""Owns a process that hashes ranges of open files beside this one, whose threads would take turns with its Python.

It is a program of its own, this file, and knows nothing but what comes through its socket: a descriptor and ranges.
It ends when its socket does, however this process has ended.
"""

import contextlib
import hashlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

Ranges = Sequence[tuple[int, int]]
"""Of a file: (start, length) each, in bytes."""

_HEAD = struct.Struct("=Q")
_RANGE = struct.Struct("=QQ")
_DIGEST = 32
_THREADS = 8
_NOT_ITS_BUSINESS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Hasher:
    """The process, as a context manager; it starts with the first question. For one thread at a time."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._pid = 0
        self._stopped = False

    def __enter__(self) -> "Hasher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def stop(self) -> None:
        """End the process; for any thread. Who waits for an answer, or asks from now on, gets an OSError."""
        self._stopped = True
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process, when nobody asks any more."""
        self.stop()
        if self._socket is not None:
            self._socket.close()
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0

    def digests(self, fd: int, ranges: Ranges) -> list[bytes]:
        """Return the SHA-256 of each range of an open file, of less than asked for where the file ends in it.

        :raises OSError: the file cannot be read, or this was stopped.
        """
        try:
            if not self._stopped:
                return self._answer(fd, ranges)
        except (OSError, EOFError):
            pass  # if it is the file, reading it here says so
        if self._stopped:
            raise OSError("the process that compares files was stopped")
        return digests(fd, ranges)

    def _answer(self, fd: int, ranges: Ranges) -> list[bytes]:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._pid = _start(theirs)
        socket.send_fds(self._socket, [_HEAD.pack(len(ranges))], [fd])
        self._socket.sendall(b"".join([_RANGE.pack(start, length) for start, length in ranges]))
        data = _receive(self._socket, _DIGEST * len(ranges))
        return [data[place : place + _DIGEST] for place in range(0, len(data), _DIGEST)]


def _start(connection: socket.socket) -> int:
    argv = [sys.executable, "-IS", __file__]
    actions = [(os.POSIX_SPAWN_DUP2, connection.fileno(), 0)]
    return os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions, setsigmask=_NOT_ITS_BUSINESS)


def digests(fd: int, ranges: Ranges) -> list[bytes]:
    """Return the SHA-256 of each range of an open file, as `Hasher.digests` does, in this process."""
    buffer = memoryview(bytearray(max((length for _, length in ranges), default=0)))
    return [hashlib.sha256(_read(fd, buffer[:length], start)).digest() for start, length in ranges]


def _read(fd: int, buffer: memoryview, start: int) -> memoryview:
    size = 0
    while size < len(buffer) and (count := os.preadv(fd, [buffer[size:]], start + size)):
        size += count
    return buffer[:size]


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _serve(connection: socket.socket) -> None:
    """Answer until nobody asks any more."""
    with _mapped() as each:
        while True:
            head, (fd, *_), _, _ = socket.recv_fds(connection, _HEAD.size, 1)
            (count,) = _HEAD.unpack(head)
            ranges = list(_RANGE.iter_unpack(_receive(connection, count * _RANGE.size)))
            connection.sendall(b"".join(each(fd, ranges)))
            os.close(fd)


@contextlib.contextmanager
def _mapped() -> Iterator[Callable[[int, Ranges], Iterable[bytes]]]:
    """Give a `digests` that leaves one processor to the process that asks."""
    threads = min(_THREADS, len(os.sched_getaffinity(0)) - 1)
    if threads < 2:
        yield digests
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:

        def each(fd: int, ranges: Ranges) -> Iterable[bytes]:
            parts = [ranges[first : first + 32] for first in range(0, len(ranges), 32)]
            for found in pool.map(lambda part: digests(fd, part), parts):
                yield from found

        yield each


if __name__ == "__main__":
    with contextlib.suppress(OSError, EOFError, ValueError):
        _serve(socket.socket(fileno=0))
