"""The conversation with the kernel: each request one answer, whatever happens; a socket stands for the kernel."""

import errno
import os
import random
import socket
import struct
import threading
import time

import pytest

from envkit.drivers import fuse
from envkit.ondemand.journal import SLOTS, Journal, create_journal
from envkit.ondemand.loop import READERS, Files, Loop

_HEADER = struct.Struct("<IIQQIIIHH")
_PATIENCE = 10.0


class Kernel:
    """The other end of /dev/fuse."""

    def __init__(self):
        self._socket, self.server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_PATIENCE)
        self._unique = 0

    def send(self, opcode, body=b"", *, node=1, pid=0):
        """Send a request; return its number."""
        self._unique += 2
        data = _HEADER.pack(_HEADER.size + len(body), opcode, self._unique, node, 0, 0, pid, 0, 0) + body
        self._socket.send(data)
        return self._unique

    def read(self, offset, length, **options):
        return self.send(fuse.READ, struct.pack("<QQIIQII", 0, offset, length, 0, 0, 0, 0), node=2, **options)

    def send_bytes(self, data):
        self._socket.send(data)

    def answer(self):
        """Return the next answer: its number, its error, its payload."""
        data = self._socket.recv(2 << 20)
        length, error, unique = struct.unpack_from("<IiQ", data)
        assert length == len(data)
        return unique, -error, data[16:]

    def silent(self):
        """Tell whether there is no answer now, after all that was sent before was worked off."""
        probe = self.send(fuse.GETATTR)
        return self.answer()[0] == probe

    def close(self):
        self._socket.close()
        self.server.close()


class FakeFiles(Files):
    """One file; reads wait until the test answers them, or raise `error`."""

    def __init__(self):
        self.waiting = []
        self.error = None

    def lookup(self, name):
        if name == "file":
            return 2, 1000
        if name == "mistake":
            raise ZeroDivisionError
        raise OSError(errno.ENOENT, "no such file")

    def size(self, node):
        if node != 2:
            raise OSError(errno.ESTALE, "stale")
        return 1000

    def names(self):
        return [(2, b"file")]

    def read(self, node, offset, length, waiting):
        if self.error is not None:
            raise self.error
        self.waiting.append((offset, length, waiting))


class Served:
    """A loop over a kernel and files, with a journal."""

    def __init__(self):
        self.kernel = Kernel()
        self.files = FakeFiles()
        self.memory = create_journal()
        self.journal = Journal(self.memory)
        self.loop = Loop(self.kernel.server.fileno(), self.journal, self.files)

    def end(self):
        self.loop._ended.set()
        for _, _, waiting in self.files.waiting:
            waiting.refuse(errno.EIO)
        for _ in range(READERS):
            self.kernel.send_bytes(b"nothing")
        for thread in self.loop_threads():
            thread.join(_PATIENCE)
            assert not thread.is_alive()
        self.kernel.close()
        os.close(self.memory)

    @staticmethod
    def loop_threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("reader ")]


@pytest.fixture
def new():
    """A loop that has not begun."""
    served = Served()
    yield served
    served.end()


@pytest.fixture
def served(new):
    """A loop at work."""
    new.loop.start()
    return new


def waiting_reads(served, count):
    """Return the reads that wait, once there are so many."""
    until = time.monotonic() + _PATIENCE
    while len(served.files.waiting) < count and time.monotonic() < until:
        time.sleep(0.001)
    assert served.kernel.silent()
    assert len(served.files.waiting) == count
    return served.files.waiting


def test_files_are_found_and_described(served):
    kernel = served.kernel
    for opcode, body, node, length in (
        (fuse.LOOKUP, b"file\0", 1, 128),
        (fuse.GETATTR, bytes(16), 1, 104),
        (fuse.GETATTR, bytes(16), 2, 104),
        (fuse.OPEN, bytes(8), 2, 16),
        (fuse.STATFS, b"", 1, 80),
        (fuse.RELEASE, bytes(24), 2, 0),
    ):
        unique = kernel.send(opcode, body, node=node)
        answer = kernel.answer()
        assert answer[:2] == (unique, 0)
        assert len(answer[2]) == length
    kernel.send(fuse.READDIR, struct.pack("<QQIIQII", 0, 0, 4096, 0, 0, 0, 0))
    assert b"file" in kernel.answer()[2]


@pytest.mark.parametrize(
    ("opcode", "body", "node", "error"),
    [
        (fuse.LOOKUP, b"other\0", 1, errno.ENOENT),
        (fuse.LOOKUP, b"\xff\xfe\0", 1, errno.ENOENT),
        (fuse.LOOKUP, b"x\0", 2, errno.ENOTDIR),
        (fuse.LOOKUP, b"mistake\0", 1, errno.EIO),
        (fuse.GETATTR, bytes(16), 9, errno.ESTALE),
        (fuse.READDIR, b"short", 1, errno.EIO),
        (fuse.READ, b"", 2, errno.EIO),
        (999, b"", 1, errno.ENOSYS),
        (fuse.INIT, struct.pack("<IIII", 7, 8, 0, 0), 0, errno.EIO),
    ],
)
def test_errors_are_told(served, opcode, body, node, error):
    unique = served.kernel.send(opcode, body, node=node)
    assert served.kernel.answer() == (unique, error, b"")


def test_what_needs_no_answer_gets_none(served):
    for opcode in (fuse.FORGET, fuse.BATCH_FORGET):
        served.kernel.send(opcode, bytes(16))
    served.kernel.send(fuse.INTERRUPT, struct.pack("<Q", 77))
    assert served.kernel.silent()


def test_a_read_is_answered_once(served):
    unique = served.kernel.read(10, 20)
    offset, length, waiting = waiting_reads(served, 1)[0]
    assert (offset, length) == (10, 20)
    waiting.answer(b"first ", memoryview(b"bytes"))
    waiting.answer(b"second")
    waiting.refuse(errno.EIO)
    assert served.kernel.answer() == (unique, 0, b"first bytes")
    assert served.kernel.silent()
    assert served.loop.waiting == 0


@pytest.mark.parametrize(
    ("error", "number"),
    [(OSError(errno.ESTALE, ""), errno.ESTALE), (OSError("?"), errno.EIO), (KeyError(1), errno.EIO)],
)
def test_a_read_that_cannot_begin_is_refused(served, error, number):
    served.files.error = error
    unique = served.kernel.read(0, 10)
    assert served.kernel.answer() == (unique, number, b"")
    assert served.loop.waiting == 0


def test_a_signal_that_the_reader_survives_costs_it_nothing(served):
    unique = served.kernel.read(0, 10, pid=os.getpid())
    waiting_reads(served, 1)
    served.kernel.send(fuse.INTERRUPT, struct.pack("<Q", unique))
    served.loop.let_killed_go()
    assert served.kernel.silent()
    served.files.waiting[0][2].answer(b"bytes")
    assert served.kernel.answer() == (unique, 0, b"bytes")


@pytest.mark.parametrize("told", [True, False])
def test_a_killed_reader_is_let_go(served, monkeypatch, told):
    killed = served.kernel.read(0, 10, pid=77)
    other = served.kernel.read(0, 10, pid=78)
    waiting_reads(served, 2)
    monkeypatch.setattr(fuse, "is_being_killed", lambda pid: pid == 77)
    if told:
        served.kernel.send(fuse.INTERRUPT, struct.pack("<Q", killed))
    else:
        served.loop.let_killed_go()
    assert served.kernel.answer() == (killed, errno.EINTR, b"")
    for _, _, waiting in served.files.waiting:
        waiting.answer(b"bytes")
    assert served.kernel.answer() == (other, 0, b"bytes")
    assert served.kernel.silent()


def test_more_reads_than_slots_wait_their_turn(served):
    numbers = [served.kernel.read(0, 10) for _ in range(SLOTS + 20)]
    until = time.monotonic() + _PATIENCE
    answered = []
    while len(answered) < len(numbers):
        assert time.monotonic() < until
        # All slots are taken before the first answer; then each answer lets one more in.
        if (answered or len(served.files.waiting) == SLOTS) and served.files.waiting:
            served.files.waiting.pop(0)[2].answer(b"x")
            answered.append(served.kernel.answer()[0])
    assert sorted(answered) == numbers
    assert served.kernel.silent()


def test_what_a_killed_server_left_is_answered(new):
    slot = new.journal.slots[9]
    body = struct.pack("<QQIIQII", 0, 5, 6, 0, 0, 0, 0)
    data = _HEADER.pack(_HEADER.size + len(body), fuse.READ, 4242, 2, 0, 0, 0, 0, 0) + body
    slot[: len(data)] = data
    new.journal.slots[10][:40] = _HEADER.pack(40, fuse.GETATTR, 4244, 1, 0, 0, 0, 0, 0)
    new.loop.start()
    assert new.kernel.answer()[:2] == (4244, 0)
    assert [request.unique for _, request in new.journal.left()] == [4242]
    new.files.waiting[0][2].answer(b"as ever")
    assert new.kernel.answer() == (4242, 0, b"as ever")
    assert list(new.journal.left()) == []


def test_a_request_stays_in_the_journal_until_it_is_answered(served):
    unique = served.kernel.read(0, 10)
    waiting = waiting_reads(served, 1)[0][2]
    assert unique in [request.unique for _, request in served.journal.left()]
    waiting.answer(b"")
    served.kernel.answer()
    assert served.kernel.silent()
    assert unique not in [request.unique for _, request in served.journal.left()]


def test_garbage_costs_no_thread(served):
    rng = random.Random(7)
    served.files.read = lambda node, offset, length, waiting: waiting.answer(b"")
    opcodes = [fuse.LOOKUP, fuse.GETATTR, fuse.READ, fuse.READDIR, fuse.INIT, fuse.STATFS, fuse.OPEN, fuse.FLUSH, 77]
    for number in range(400):
        if number % 3:
            served.kernel.send(rng.choice(opcodes), rng.randbytes(rng.randrange(40)), node=rng.randrange(4))
            served.kernel.answer()
        else:
            served.kernel.send_bytes(rng.randbytes(rng.randrange(1, 40)))
    assert len(served.loop_threads()) == READERS
    assert served.kernel.silent()
