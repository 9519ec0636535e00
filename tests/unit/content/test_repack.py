"""Ready frames in new packs: each chunk comes back from its new place, and nothing damaged gets that far."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from envkit.content.errors import DamagedChunk
from envkit.content.pack import HEADER_SIZE, PackWriter, header
from envkit.content.reader import ChunkReader
from envkit.content.repack import DamagedPack, FramePacker, check_pack, frames_of, is_whole, pack_epoch


def packed(chunks, **options):
    packs = {}
    with PackWriter(lambda digest, frames: packs.__setitem__(digest, b"".join(frames)), **options) as writer:
        for plain in chunks:
            writer.add(plain)
        return packs, writer.finish().chunks


def repacked(packs, chunks, **options):
    made = {}
    packer = FramePacker(lambda digest, frames: made.__setitem__(digest, b"".join(frames)), **options)
    for chunk in chunks:
        packer.add(chunk, packs[chunk.pack.hex()][chunk.offset : chunk.offset + chunk.stored])
    return made, packer.finish()


@pytest.fixture(scope="module")
def two_packs():
    source = random.Random(1)
    return packed([source.randbytes(source.randint(1, 900)) for _ in range(60)], target=20_000)


@given(st.lists(st.binary(min_size=1, max_size=80), unique=True, max_size=25), st.integers(1, 300), st.data())
@settings(deadline=None, max_examples=60)
def test_every_frame_comes_back_from_its_new_place(plains, target, data):
    packs, chunks = packed(plains, target=200)
    some = data.draw(st.permutations(chunks))[: data.draw(st.integers(0, len(chunks)))]
    made, places = repacked(packs, some, target=target, epoch=3)
    assert set(places) == {chunk.digest for chunk in some}
    read = ChunkReader(lambda digest, start, length: made[digest][start : start + length])
    before = ChunkReader(lambda digest, start, length: packs[digest][start : start + length])
    for chunk in some:
        assert read.read(places[chunk.digest]) == before.read(chunk)
        assert places[chunk.digest].stored == chunk.stored
    for digest, pack in made.items():
        assert hashlib.sha256(pack).hexdigest() == digest
        assert pack_epoch(pack) == 3
        inside = [(place.offset, place.stored) for place in places.values() if place.pack.hex() == digest]
        assert is_whole(inside, len(pack))


def test_all_frames_of_a_pack_in_their_order_give_the_same_pack(two_packs):
    packs, chunks = two_packs
    made, places = repacked(packs, chunks, target=20_000)
    assert made == packs
    assert list(places.values()) == chunks


def test_nothing_gives_no_pack():
    assert repacked({}, []) == ({}, {})


def test_a_pack_is_whole_if_no_byte_of_it_is_left(two_packs):
    packs, chunks = two_packs
    for digest, data in packs.items():
        places = [(chunk.offset, chunk.stored) for chunk in chunks if chunk.pack.hex() == digest]
        assert is_whole(places, len(data))
        assert is_whole(places[::-1], len(data))
        assert not is_whole(places, len(data) + 1)
        assert not is_whole(places[1:], len(data))
        assert not is_whole(places[:-1], len(data))
        assert not is_whole([*places[:3], *places[4:]], len(data))
        assert not is_whole([*places, places[0]], len(data))
    assert not is_whole([], 100)


@pytest.mark.parametrize("data", [b"", header(1)[:-1], b"\0" * HEADER_SIZE, b"\x28\xb5\x2f\xfd" * 4])
def test_what_has_no_header_has_no_epoch(data):
    assert pack_epoch(data) is None


def test_the_epoch_is_that_of_the_header():
    assert pack_epoch(header(7) + b"frames") == 7
    assert pack_epoch(header((1 << 64) - 1)) == (1 << 64) - 1


def test_frames_are_verified_before_they_are_handed_on(two_packs):
    packs, chunks = two_packs
    digest = chunks[0].pack.hex()
    here = [chunk for chunk in chunks if chunk.pack.hex() == digest]
    data = packs[digest]
    assert b"".join(frames_of(data, 0, here)) == data[HEADER_SIZE:]
    for chunk in here:
        damaged = bytearray(data)
        damaged[chunk.offset + chunk.stored // 2] ^= 1
        with pytest.raises(DamagedChunk) as caught:
            frames_of(bytes(damaged), 0, here)
        assert caught.value.digest == chunk.digest
    with pytest.raises(DamagedChunk, match="cut short"):
        frames_of(data[:-1], 0, here)
    with pytest.raises(DamagedChunk, match="another digest"):
        frames_of(data, 0, [replace(here[0], digest=here[1].digest)])


def test_a_pack_is_known_by_its_digest(two_packs):
    for digest, data in two_packs[0].items():
        check_pack(bytes.fromhex(digest), data)
        with pytest.raises(DamagedPack, match=digest):
            check_pack(bytes.fromhex(digest), data + b"x")
