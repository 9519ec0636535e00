"""What outlives a killed server: the whole old state or the whole new one, and every request that has no answer."""

import os
import struct

import pytest

from envkit.drivers import fuse
from envkit.ondemand.journal import SLOTS, STATE_BYTES, Journal, create_journal

_AREAS = 4096


@pytest.fixture
def memory():
    descriptor = create_journal()
    yield descriptor
    os.close(descriptor)


def request(unique, *, opcode=fuse.GETATTR, total=40):
    return struct.pack("<IIQQIIIHH", total, opcode, unique, 1, 0, 0, 0, 0, 0)


def test_a_new_one_is_empty(memory):
    new = Journal(memory)
    assert new.load() == {}
    assert list(new.left()) == []
    assert not new.ended
    assert not new.kept
    assert len(new.slots) == SLOTS
    assert all(len(slot) >= fuse.MIN_READ_BUFFER for slot in new.slots)


def test_the_next_server_finds_the_state_that_was_stored_last(memory):
    first = Journal(memory)
    for number in range(5):
        first.store({"number": number, "names": ["a"] * number})
        assert Journal(memory).load() == {"number": number, "names": ["a"] * number}


@pytest.mark.parametrize("written", [1, 6, 12, 500])
def test_a_state_that_is_half_written_leaves_the_one_before(memory, written):
    """Storing changes one byte last; killed before, it has written some of the other area."""
    first = Journal(memory)
    first.store({"number": 1})
    before = os.pread(memory, 1, 0)
    first.store({"number": 2, "text": "x" * 1000})
    other = os.pread(memory, 1, 0)[0] & 1
    os.pwrite(memory, b"\xff" * written, _AREAS + other * STATE_BYTES)
    os.pwrite(memory, before, 0)
    assert Journal(memory).load() == {"number": 1}


def test_a_damaged_state_is_none(memory):
    first = Journal(memory)
    first.store({"number": 1})
    area = os.pread(memory, 1, 0)[0] & 1
    os.pwrite(memory, b"?", _AREAS + area * STATE_BYTES + 10)
    assert Journal(memory).load() == {}
    os.pwrite(memory, b"\xff" * 8, _AREAS + area * STATE_BYTES)
    assert Journal(memory).load() == {}


def test_a_state_that_is_too_large_leaves_the_one_before(memory):
    first = Journal(memory)
    first.store({"number": 1})
    with pytest.raises(ValueError, match=f"has {STATE_BYTES - 7} bytes"):
        first.store({"text": "x" * (STATE_BYTES - 18)})
    assert Journal(memory).load() == {"number": 1}


def test_requests_without_an_answer_are_found(memory):
    first = Journal(memory)
    for slot in (0, 7, SLOTS - 1):
        first.slots[slot][:40] = request(100 + slot)
    first.clear(7)
    left = [(slot, found.unique) for slot, found in Journal(memory).left()]
    assert left == [(0, 100), (SLOTS - 1, 100 + SLOTS - 1)]


def test_what_is_no_request_is_forgotten(memory):
    first = Journal(memory)
    first.slots[3][:40] = request(5, total=3)
    first.slots[4][:40] = request(6, total=1 << 30)
    assert list(first.left()) == []
    assert bytes(first.slots[3][8:16]) == bytes(8)


def test_that_it_ends_or_stays_is_known_to_the_other_process(memory):
    first, second = Journal(memory), Journal(memory)
    first.keep()
    assert (second.kept, second.ended) == (True, False)
    first.end()
    assert second.ended
