"""Frames are unpacked to what was expected, or not at all, and never to more."""

import random
import struct
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.content import frame
from envkit.content.errors import DamagedFrame

_MAGIC = b"\x28\xb5\x2f\xfd"


def declaring(size, *blocks):
    """A frame by hand: one segment, a content size of 8 bytes, blocks of one repeated byte `(last, length)`."""
    body = b"".join(struct.pack("<I", last | 1 << 1 | length << 3)[:3] + b"\0" for last, length in blocks)
    return _MAGIC + b"\xe0" + struct.pack("<Q", size) + body


@given(st.binary(max_size=2000), st.integers(1, 200))
def test_what_was_compressed_is_unpacked(data, times):
    plain = data * times
    stored = frame.compressor().compress(plain)
    assert frame.content_size(stored) == len(plain)
    assert frame.unpack(stored, size=len(plain)) == plain


@given(st.binary(min_size=1, max_size=300).map(lambda data: data * 20), st.data())
@settings(deadline=None)
def test_a_frame_that_is_cut_short_is_refused_at_every_byte(plain, data):
    stored = frame.compressor().compress(plain)
    with pytest.raises(DamagedFrame):
        frame.unpack(stored[: data.draw(st.integers(0, len(stored) - 1))], size=len(plain))


def test_what_follows_a_frame_is_refused():
    stored = frame.compressor().compress(b"plain")
    for extra in (b"\0", stored, b"x" * 100):
        with pytest.raises(DamagedFrame, match="the frame is cut short or broken"):
            frame.unpack(stored + extra, size=5)


@pytest.mark.parametrize("size", [0, 4, 6, 1 << 40])
def test_another_size_than_expected_is_refused_before_anything_is_unpacked(size):
    with pytest.raises(DamagedFrame, match=f"the frame declares 5 bytes instead of {size}"):
        frame.unpack(frame.compressor().compress(b"plain"), size=size)


def test_a_frame_that_declares_nothing_is_refused():
    stored = zstandard.ZstdCompressor(write_content_size=False).compress(b"plain")
    with pytest.raises(DamagedFrame, match="the frame does not declare its content size"):
        frame.unpack(stored, size=5)


@pytest.mark.parametrize("data", [b"", b"\x28", b"plain text", _MAGIC, b"\0" * 100, b"\x1f\x8b\x08" + b"\0" * 20])
def test_what_is_no_frame_is_refused(data):
    with pytest.raises(DamagedFrame):
        frame.unpack(data, size=5)


def test_a_skippable_frame_has_no_content():
    with pytest.raises(DamagedFrame):
        frame.unpack(b"\x50\x2a\x4d\x18" + struct.pack("<I", 5) + b"plain", size=5)


@pytest.mark.parametrize(
    ("stored", "size"),
    [
        (declaring(1000, *[(0, 1 << 17)] * 5000, (1, 1 << 17)), 1000),
        (declaring(10 << 30, (1, 1 << 17)), 4 << 20),
        (declaring(4 << 20, (1, 1000)), 4 << 20),
        (_MAGIC + b"\x80" + b"\xf8" + struct.pack("<I", 5) + b"\x03\0\0", 5),
    ],
    ids=["more than declared", "declares 10 GiB", "less than declared", "window of 2 TiB"],
)
def test_bombs_are_refused_in_little_memory(stored, size):
    tracemalloc.start()
    try:
        with pytest.raises(DamagedFrame):
            frame.unpack(stored, size=size)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_what_is_written_fits_the_window_that_readers_allow():
    plain = random.Random(1).randbytes(12 << 20)
    stored = frame.compressor().compress(plain)
    assert zstandard.get_frame_parameters(stored).window_size <= frame.MAX_WINDOW
    assert frame.unpack(stored, size=len(plain)) == plain


def test_a_chunk_can_be_made_again_as_this_release_or_an_earlier_one_stored_it():
    plain = b"".join(number.to_bytes(3, "big") * (number % 7) for number in range(20_000))
    frames = list(frame.chunk_frames(plain))
    assert frames == [frame.chunk_compressor().compress(plain), frame.compressor().compress(plain)]
    assert frames[0] != frames[1]
    assert [frame.unpack(stored, size=len(plain)) for stored in frames] == [plain, plain]


def test_a_chunk_says_its_size_whatever_that_is():
    for size in (0, 1, 100_000, 512 << 10, 4 << 20):
        stored = frame.chunk_compressor().compress(bytes(size))
        assert frame.content_size(stored) == size
        assert frame.unpack(stored, size=size) == bytes(size)
