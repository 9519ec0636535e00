"""The structures of linux/fuse.h, and requests that are none."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.drivers import fuse
from envkit.drivers.errors import KernelRefused

_HEADER = struct.Struct("<IIQQIIIHH")


def request(opcode, *, unique=2, node=1, body=b"", pid=0, total=None):
    """Return a request as the kernel writes it."""
    length = _HEADER.size + len(body) if total is None else total
    return _HEADER.pack(length, opcode, unique, node, 0, 0, pid, 0, 0) + body


def init(major=7, minor=45, flags=0xFFFFFFFF):
    return fuse.read_request(bytearray(request(fuse.INIT, body=struct.pack("<IIII", major, minor, 1 << 17, flags))), 56)


def test_sizes_are_those_of_the_kernels_header():
    assert fuse.HEADER == _HEADER.size == 40
    assert len(fuse.negotiated(init())) == 64
    assert len(fuse.attributes(2, 5)) == 16 + 88
    assert len(fuse.entry(2, 5)) == 40 + 88
    assert len(fuse.opened()) == 16
    assert len(fuse.statistics_of(1 << 40, 3)) == 80


def test_the_kernel_is_offered_large_reads():
    values = struct.unpack("<IIIIHHIIHHII", fuse.negotiated(init())[:40])
    assert values[:2] == (7, 31)
    assert values[6] == 4096  # max_write; a kernel refuses less
    assert values[8] * 4096 == fuse.MAX_READ


def test_flags_that_the_kernel_does_not_have_are_not_asked_for():
    assert struct.unpack_from("<IIII", fuse.negotiated(init(flags=0)))[3] == 0


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (6, 99), (8, 0)])
def test_an_older_protocol_is_refused(major, minor):
    with pytest.raises(KernelRefused, match=f"{major}.{minor}"):
        fuse.negotiated(init(major, minor))


def test_a_request_is_taken_apart():
    body = struct.pack("<QQII", 7, 1 << 40, 4096, 0) + bytes(16)
    data = bytearray(request(fuse.READ, unique=88, node=5, body=body, pid=1234)) + b"left of an earlier one"
    found = fuse.read_request(data, len(data))
    assert (found.opcode, found.unique, found.node, found.pid) == (fuse.READ, 88, 5, 1234)
    assert found.range == (1 << 40, 4096)
    assert found.body == body
    name = fuse.read_request(bytearray(request(fuse.LOOKUP, body=b"name\0")), 45)
    assert name.name == b"name"
    interrupt = fuse.read_request(bytearray(request(fuse.INTERRUPT, body=struct.pack("<Q", 88))), 48)
    assert interrupt.interrupted == 88


@pytest.mark.parametrize("total", [0, 39, 41, 1 << 31])
def test_a_length_that_cannot_be_is_no_request(total):
    data = bytearray(request(fuse.GETATTR, total=total))
    assert fuse.read_request(data, len(data)) is None


@given(st.binary(max_size=300), st.integers(0, 300))
def test_bytes_that_are_no_request_are_none(data, length):
    buffer = bytearray(data.ljust(300, b"\0"))
    found = fuse.read_request(buffer, length)
    assert found is None or fuse.HEADER + len(found.body) <= length
    fuse.request_in(memoryview(buffer))


def test_a_cleared_buffer_holds_no_request():
    buffer = memoryview(bytearray(request(fuse.GETATTR).ljust(8192, b"\0")))
    assert fuse.request_in(buffer).unique == 2
    fuse.clear_request(buffer)
    assert fuse.request_in(buffer) is None


def test_directories_are_listed_in_pages():
    names = [(number, b"n" * (number % 20 + 1)) for number in range(2, 60)]
    found, offset = [], 0
    while page := fuse.directory_entries(names, offset, 200):
        assert len(page) <= 200
        while page:
            node, offset, length, kind = struct.unpack_from("<QQII", page)
            found.append((node, page[24 : 24 + length]))
            assert kind == 8
            page = page[24 + length + -length % 8 :]
    assert found == names


def test_the_root_is_a_directory_and_all_else_a_file():
    for node, kind in ((fuse.ROOT, 0o040500), (2, 0o100400)):
        assert struct.unpack_from("<I", fuse.attributes(node, 5), 16 + 60)[0] == kind


def test_answers_that_nobody_waits_for_are_no_error():
    null = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC) if os.access("/dev/fuse", os.W_OK) else None
    if null is None:
        pytest.skip("/dev/fuse cannot be opened")
    try:
        with pytest.raises(OSError, match="not permitted"):  # it is not mounted
            fuse.answer(null, 2)
    finally:
        os.close(null)


def test_who_lives_is_not_being_killed():
    assert not fuse.is_being_killed(os.getpid())
    assert not fuse.is_being_killed(0)
    assert not fuse.is_being_killed(1 << 30)
