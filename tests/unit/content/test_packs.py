"""Packs: what goes in comes out, once, in order; what is damaged never comes out."""

import hashlib
import random
import threading
import time

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from envkit.content import pack, reader
from envkit.content.errors import DamagedChunk
from envkit.content.pack import HEADER_SIZE, PACK_TARGET, PackWriter
from envkit.content.reader import ChunkReader
from envkit.errors import EXIT_DAMAGED
from envkit.model.tree import Chunk


class Packs(dict):
    """Packs in memory by digest, with the requests that were made."""

    def __init__(self, content=()):
        super().__init__(content)
        self.requests = []

    def put(self, digest, frames):
        self[digest] = b"".join(frames)

    def get_range(self, digest, start, length):
        self.requests.append((digest, start, length))
        return self[digest][start : start + length]


def packed(chunks, **options):
    """Pack chunks; return the packs and what the writer says of them."""
    packs = Packs()
    with PackWriter(packs.put, **options) as writer:
        tickets = [writer.add(plain) for plain in chunks]
        assert tickets == list(range(len(chunks)))
        return packs, writer.finish()


def random_chunks(count, size=3000, seed=1):
    source = random.Random(seed)
    return [source.randbytes(source.randint(1, size)) for _ in range(count)]


@given(st.lists(st.binary(min_size=1, max_size=60).map(lambda data: data * 9), max_size=20), st.integers(1, 400))
@settings(deadline=None, max_examples=60)
def test_every_chunk_comes_back_from_its_place(chunks, target):
    packs, result = packed(chunks, target=target, threads=2)
    read = ChunkReader(packs.get_range)
    assert [read.read(result.chunks[number]) for number in result.numbers] == chunks
    assert len(result.chunks) == len(set(chunks))
    assert result.stored == sum(map(len, packs.values()))
    assert result.reused == {}
    everything = dict(read.read_many(result.chunks, range(len(result.chunks))))
    assert [everything[number] for number in result.numbers] == chunks


def test_packs_are_named_by_their_bytes_and_made_of_frames_that_declare_their_size():
    packs, result = packed(random_chunks(300), target=100_000)
    assert len(packs) > 3
    for digest, data in packs.items():
        assert hashlib.sha256(data).hexdigest() == digest
    covered = dict.fromkeys(packs, HEADER_SIZE)
    for chunk in result.chunks:
        pack = chunk.pack.hex()
        assert chunk.offset == covered[pack], "there is a gap, or the order is not that of the chunks"
        covered[pack] += chunk.stored
        stored = packs[pack][chunk.offset : chunk.offset + chunk.stored]
        assert zstandard.frame_content_size(stored) == chunk.size
    assert covered == {digest: len(data) for digest, data in packs.items()}


def test_the_same_chunks_give_the_same_packs_whatever_the_number_of_threads():
    chunks = random_chunks(200)
    first = packed(chunks, target=50_000, threads=1)
    assert all(packed(chunks, target=50_000, threads=threads) == first for threads in (1, 2, 7))


def test_an_epoch_gives_other_packs_and_zstd_reads_them_all():
    chunks = random_chunks(20)
    packs, first = packed(chunks, epoch=1)
    others, second = packed(chunks, epoch=2)
    assert packed(chunks, epoch=1) == (packs, first)
    assert not set(packs) & set(others)
    for data in (*packs.values(), *others.values()):
        assert zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read() == b"".join(chunks)
    assert [chunk.digest for chunk in first.chunks] == [chunk.digest for chunk in second.chunks]


def test_a_pack_stays_below_32_mib():
    packs, _ = packed([random.Random(n).randbytes(4 << 20) for n in range(9)])
    assert PACK_TARGET <= max(map(len, packs.values())) < 32 << 20
    assert len(packs) == 3


def test_a_chunk_that_comes_twice_is_stored_once():
    packs, result = packed([b"one", b"two", b"one", b"one"])
    assert result.numbers == [0, 1, 0, 0]
    assert len(result.chunks) == 2
    assert len(packs) == 1


def test_nothing_gives_no_pack():
    assert packed([]) == ({}, packed([])[1])
    assert packed([])[1].chunks == []


def test_a_chunk_that_the_store_has_is_not_stored_again_but_has_to_be_looked_for():
    packs, first = packed([b"one", b"two"])
    there = {chunk.digest: chunk for chunk in first.chunks}
    more, second = packed(
        [b"two", b"three", b"one"],
        known=lambda digests: {digest: there[digest] for digest in digests if digest in there},
    )
    assert second.chunks[0] == first.chunks[1]
    assert second.chunks[2] == first.chunks[0]
    assert second.stored == sum(map(len, more.values())) == HEADER_SIZE + second.chunks[1].stored
    (pack,) = packs
    assert second.reused == {pack: len(packs[pack])}


@pytest.mark.parametrize("wrong", [{"size": 4}, {"digest": b"\0" * 32}])
def test_a_hint_that_does_not_fit_is_not_used(wrong):
    hint = replace(packed([b"one"])[1].chunks[0], **wrong)
    packs, result = packed([b"one"], known=lambda digests: dict.fromkeys(digests, hint))
    assert ChunkReader(packs.get_range).read(result.chunks[0]) == b"one"
    assert result.reused == {}


class Full(Exception):
    pass


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_store_that_fails_ends_the_writer_with_its_error(failing):
    calls = []

    def put(_digest, _frames):
        calls.append(None)
        if len(calls) > failing:
            raise Full

    before = threading.active_count()
    with pytest.raises(Full), PackWriter(put, target=5000) as writer:
        for plain in random_chunks(100):
            writer.add(plain)
        writer.finish()
    assert len(calls) <= failing + 3, "the writer went on after an error"
    assert threading.active_count() == before


def test_packs_have_their_names_before_the_store_has_them_and_are_there_when_the_writer_is_left():
    packs, answer = Packs(), threading.Event()

    def put(digest, frames):
        assert answer.wait(60)
        packs.put(digest, frames)

    with PackWriter(put) as writer:
        writer.add(b"one")
        result = writer.finish()
        assert packs == {}
        answer.set()
    assert ChunkReader(packs.get_range).read(result.chunks[0]) == b"one"


def test_a_store_that_fails_with_the_last_pack_fails_the_writer():
    def put(_digest, _frames):
        raise Full

    before = threading.active_count()
    with pytest.raises(Full), PackWriter(put) as writer:
        writer.add(b"one")
        writer.finish()
    assert threading.active_count() == before


def test_the_index_is_asked_for_many_chunks_at_once_and_for_each_only_once():
    asked = []

    def known(digests):
        asked.append(list(digests))
        return {}

    chunks = random_chunks(50)
    packed([*chunks, b"end", *chunks], known=known)
    assert [len(digests) for digests in asked] == [51]
    packed([*chunks, bytes(1 << 20), *chunks], known=known)
    assert [len(digests) for digests in asked[1:]] == [51]


def test_an_error_of_the_index_ends_the_writer():
    def known(_digests):
        raise Full

    with pytest.raises(Full):
        packed([b"one"], known=known)


def test_a_writer_that_is_abandoned_stops_its_threads():
    before = threading.active_count()
    with pytest.raises(Full), PackWriter(lambda digest, frames: None, target=5000) as writer:
        for plain in random_chunks(50):
            writer.add(plain)
        raise Full
    assert threading.active_count() == before


def test_a_slow_store_holds_the_writer_instead_of_filling_memory(monkeypatch):
    monkeypatch.setattr(pack, "_BATCH", 1)
    waiting, most = [], 0

    def put(_digest, frames):
        time.sleep(0.02)
        waiting.append(-sum(map(len, frames)))

    with PackWriter(put, target=50_000, threads=2) as writer:
        for plain in random_chunks(400):
            waiting.append(len(plain))
            writer.add(plain)
            most = max(most, sum(waiting))
        writer.finish()
    assert most < 4 * 50_000 + 20 * 3000


@pytest.fixture(scope="module")
def two_packs():
    """Packs of some chunks, and their table."""
    return packed([*random_chunks(60, 600), b"zeros" * 500], target=9000)


def test_neighbours_are_read_in_one_request_in_the_order_of_packs(two_packs):
    packs, result = Packs(two_packs[0]), two_packs[1]
    numbers = [number for number, _ in ChunkReader(packs.get_range).read_many(result.chunks, range(len(result.chunks)))]
    assert len(packs.requests) == len(packs)
    places = [(result.chunks[number].pack, result.chunks[number].offset) for number in numbers]
    assert places == sorted(places)


def test_requests_are_bounded_and_far_frames_are_not_read_together(two_packs, monkeypatch):
    monkeypatch.setattr(reader, "MAX_RANGE", 2000)
    monkeypatch.setattr(reader, "MAX_GAP", 100)
    packs, result = Packs(two_packs[0]), two_packs[1]
    found = dict(ChunkReader(packs.get_range).read_many(result.chunks, range(0, len(result.chunks), 4)))
    assert set(found) == set(range(0, len(result.chunks), 4))
    largest = max(chunk.stored for chunk in result.chunks)
    assert all(length <= max(2000, largest) for _, _, length in packs.requests)
    wanted = sum(result.chunks[number].stored for number in found)
    assert sum(length for _, _, length in packs.requests) <= wanted + 100 * len(found)


def test_a_number_that_is_asked_twice_comes_once(two_packs):
    result = two_packs[1]
    assert [number for number, _ in ChunkReader(two_packs[0].get_range).read_many(result.chunks, [3, 3, 3])] == [3]


def test_places_that_overlap_are_read_as_they_are(two_packs):
    packs, result = Packs(two_packs[0]), two_packs[1]
    table = [result.chunks[0], result.chunks[1], result.chunks[0]]
    assert [number for number, _ in ChunkReader(packs.get_range).read_many(table, [2, 0, 1])] == [0, 2, 1]


def _damage(error, chunk):
    assert chunk.digest.hex() in error.brief
    assert chunk.pack.hex() in error.brief
    assert error.exit_code == EXIT_DAMAGED


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_changed_bits_and_missing_ends_of_packs_never_give_wrong_bytes(two_packs, data):
    packs, result = Packs(two_packs[0]), two_packs[1]
    pack = data.draw(st.sampled_from(sorted(packs)))
    changed = bytearray(packs[pack])
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, len(changed) * 8 - 1))
        changed[bit // 8] ^= 1 << bit % 8
        hit = {bit // 8}
    else:
        keep = data.draw(st.integers(0, len(changed) - 1))
        hit = set(range(keep, len(changed)))
        del changed[keep:]
    packs[pack] = bytes(changed)
    read = ChunkReader(packs.get_range)
    for chunk in result.chunks:
        try:
            plain = read.read(chunk)
        except DamagedChunk as error:
            assert chunk.pack.hex() == pack
            assert hit & set(range(chunk.offset, chunk.offset + chunk.stored)), "an intact chunk was refused"
            _damage(error, chunk)
        else:
            assert hashlib.sha256(plain).digest() == chunk.digest


def test_a_pack_that_is_cut_short_is_told_as_such(two_packs):
    packs, chunk = Packs(two_packs[0]), two_packs[1].chunks[0]
    packs[chunk.pack.hex()] = packs[chunk.pack.hex()][: chunk.offset + chunk.stored - 1]
    problem = f"the pack is cut short, {chunk.stored - 1} of {chunk.stored} bytes are there"
    with pytest.raises(DamagedChunk, match=problem) as caught:
        ChunkReader(packs.get_range).read(chunk)
    _damage(caught.value, chunk)
    with pytest.raises(DamagedChunk, match="the pack is cut short"):
        list(ChunkReader(packs.get_range).read_many([chunk], [0]))


def test_another_whole_chunk_in_the_place_is_refused(two_packs):
    packs, result = two_packs
    swapped = replace(result.chunks[1], digest=result.chunks[0].digest)
    with pytest.raises(DamagedChunk, match="its content has another digest"):
        ChunkReader(packs.get_range).read(swapped)


@pytest.mark.parametrize("size", [1, 1 << 22])
def test_a_table_that_lies_about_a_size_is_refused(two_packs, size):
    packs, result = two_packs
    with pytest.raises(DamagedChunk, match=f"the frame declares {result.chunks[0].size} bytes instead of {size}"):
        ChunkReader(packs.get_range).read(replace(result.chunks[0], size=size))


def test_errors_of_the_store_pass_through():
    def get_range(*_arguments):
        raise Full

    with pytest.raises(Full):
        ChunkReader(get_range).read(Chunk(b"\0" * 32, 1, b"\0" * 32, 0, 1))


def test_who_is_interrupted_does_not_wait_for_a_store_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(pack, "_PATIENCE", 0.05)
    answer = threading.Event()
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            PackWriter(lambda digest, frames: answer.wait(60), target=5000) as writer,
        ):
            for plain in random_chunks(20):
                writer.add(plain)
            raise KeyboardInterrupt
        assert not answer.is_set()
    finally:
        answer.set()
