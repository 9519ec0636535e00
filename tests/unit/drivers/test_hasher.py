"""Ranges of files have the digests that they have, whoever computes them; no process is left."""

import hashlib
import os
import random
import select
import signal
import threading

import pytest

from envkit.drivers import hasher
from envkit.drivers.hasher import Hasher

DATA = random.Random(1).randbytes(3 << 20)
RANGES = [(0, 10), (10, 0), (7, 1 << 20), (1 << 20, 1 << 20), *((place, 4096) for place in range(0, 1 << 20, 4096))]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    yield fd
    os.close(fd)


def expected(ranges):
    return [hashlib.sha256(DATA[start : start + length]).digest() for start, length in ranges]


@pytest.mark.parametrize("processors", [{0}, {0, 1, 2, 3}])
def test_digests_of_ranges(file, monkeypatch, processors):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: processors)
    assert hasher.digests(file, RANGES) == expected(RANGES)
    with hasher._mapped() as each:
        assert list(each(file, RANGES)) == expected(RANGES)
    with Hasher() as process:
        for ranges in (RANGES, [], RANGES[:1], RANGES):
            assert process.digests(file, ranges) == expected(ranges)


def test_what_is_behind_the_end_of_a_file_is_not_there(file):
    ranges = [(len(DATA) - 5, 10), (len(DATA), 10), (1 << 40, 10)]
    assert hasher.digests(file, ranges) == expected(ranges)
    with Hasher() as process:
        assert process.digests(file, ranges) == expected(ranges)


def test_it_does_without_its_process(file, monkeypatch):
    with Hasher() as process:
        process.digests(file, [])
        os.kill(process._pid, signal.SIGKILL)
        assert process.digests(file, RANGES) == expected(RANGES)
    monkeypatch.setattr(hasher.sys, "executable", "/nonexistent")
    with Hasher() as process:
        assert process.digests(file, RANGES) == expected(RANGES)


def test_what_cannot_be_read_is_an_error(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    with Hasher() as process, pytest.raises(IsADirectoryError):
        process.digests(fd, RANGES)
    os.close(fd)


def test_one_that_is_stopped_while_it_works_says_so(file):
    with Hasher() as process:
        process.digests(file, [])
        os.kill(process._pid, signal.SIGSTOP)
        stopping = threading.Timer(0.2, process.stop)
        stopping.start()
        with pytest.raises(OSError, match="stopped"):
            process.digests(file, RANGES)
        stopping.join()
        with pytest.raises(OSError, match="stopped"):
            process.digests(file, RANGES)


def test_its_process_ends_with_the_one_that_asks(file):
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        process = Hasher()
        process.digests(file, RANGES)
        os.write(tell, str(process._pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    left = os.pidfd_open(int(os.read(told, 100)))
    assert select.select([left], [], [], 30)[0], "it goes on"
    for fd in (told, tell, left):
        os.close(fd)
