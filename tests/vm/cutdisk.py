"""Owns a disk that a power cut hurts: what was written to it is there for good only after a flush.

A disk has a cache. It confirms a write at once, brings it to its place whenever and in whatever order it likes, and
promises that it is there only once it has confirmed a flush that came later. QEMU reaches this one as a network block
device (NBD, the fixed newstyle handshake and simple replies) on a Unix socket. What a cut leaves is decided here and not
by the host's page cache, which outlives QEMU.
"""

import contextlib
import os
import socket
import struct
import threading

from vm.moments import History, copy, lose, put

_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_IHAVEOPT = b"IHAVEOPT"
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REPLY_MAGIC = 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_ABORT, _INFO, _GO = 2, 6, 7
_ACK, _EXPORT, _UNSUPPORTED = 1, 3, 0x80000001
_HAS_FLAGS, _SEND_FLUSH = 1, 4
_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)


class Disk:
    """A disk of so many bytes in a directory, served while the context lasts; one machine at a time uses it."""

    def __init__(self, directory, size):
        self.socket = f"{directory}/socket"
        self.lost = self.kept = 0
        """How many unflushed writes the cuts so far took, in part or whole, and how many they left."""
        self.directory = directory
        self._durable_path = f"{directory}/durable"
        self._seen_path = f"{directory}/seen"
        self._size = size
        self._lock = threading.Lock()
        self._pending = []
        self._countdown = 0
        self._due = None
        self._history = None
        for path in (self._durable_path, self._seen_path):
            with open(path, "wb") as file:
                file.truncate(size)

    def __enter__(self):
        self._durable = os.open(self._durable_path, os.O_RDWR)
        self._seen = os.open(self._seen_path, os.O_RDWR)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        os.close(self._durable)
        os.close(self._seen)

    def arguments(self):
        """Return QEMU's arguments for a machine with this disk: /dev/disk/by-id/virtio-cut."""
        node = f"driver=nbd,node-name=cut,server.type=unix,server.path={self.socket.replace(',', ',,')}"
        return ["-blockdev", node, "-device", "virtio-blk-pci,drive=cut,serial=cut"]

    @property
    def waits(self):
        """Whether what `after` was told is still to be done."""
        return self._due is not None

    def after(self, writes, do):
        """Call `do` in the middle of things: when so many writes have come from now on, the last one not yet confirmed."""
        with self._lock:
            assert self._due is None
            self._countdown = writes
            self._due = do

    def cut(self, rng):
        """Lose the power, after the machine was killed: what the next one sees is what this leaves."""
        with self._lock:
            lost = lose(self._durable, self._pending, rng)
            self.lost += lost
            self.kept += len(self._pending) - lost
            self._pending.clear()
            self._history = None
            copy(self._durable_path, self._seen_path)

    def record(self):
        """Begin to note what is written, until the next cut; return the `History`, which grows meanwhile."""
        with self._lock:
            self._history = History(self._durable_path, self._pending, f"{self.directory}/history")
            return self._history

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # shut down: it is over
                return
            # A machine that is killed goes in the middle of something.
            with connection, contextlib.suppress(ConnectionError):
                if self._negotiate(connection):
                    self._transmit(connection)

    def _negotiate(self, connection):
        """Agree with the client; tell whether it wants the disk."""
        connection.sendall(b"NBDMAGIC" + _IHAVEOPT + struct.pack(">H", _FIXED_NEWSTYLE | _NO_ZEROES))
        _exactly(connection, 4)
        while True:
            magic, option, length = _OPTION.unpack(_exactly(connection, _OPTION.size))
            assert magic == _IHAVEOPT, magic
            _exactly(connection, length)
            if option in (_INFO, _GO):
                export = struct.pack(">HQH", 0, self._size, _HAS_FLAGS | _SEND_FLUSH)
                _answer(connection, option, _EXPORT, export)
            _answer(connection, option, _ACK if option in (_ABORT, _INFO, _GO) else _UNSUPPORTED)
            if option in (_ABORT, _GO):
                return option == _GO

    def _transmit(self, connection):
        while True:
            _, _, kind, handle, offset, length = _REQUEST.unpack(_exactly(connection, _REQUEST.size))
            if kind == _DISCONNECT:
                return
            data = b""
            written = _exactly(connection, length) if kind == _WRITE else b""
            with self._lock:
                if kind == _READ:
                    data = os.pread(self._seen, length, offset)
                elif kind == _WRITE:
                    put(self._seen, written, offset)
                    self._pending.append((offset, written))
                    if self._history is not None:
                        self._history.wrote(offset, written)
                    self._countdown -= 1
                else:
                    assert kind == _FLUSH, kind
                    for place, piece in self._pending:
                        put(self._durable, piece, place)
                    self._pending.clear()
                    if self._history is not None:
                        self._history.flushed()
                now = self._countdown <= 0 and self._due
            if now:
                now()
                self._due = None
            connection.sendall(_REPLY.pack(_REPLY_MAGIC, 0, handle) + data)


def _answer(connection, option, kind, data=b""):
    connection.sendall(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(data)) + data)


def _exactly(connection, count):
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return bytes(data)
