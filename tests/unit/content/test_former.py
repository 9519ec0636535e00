"""What is kept of a changed file is exactly what cutting it again would give."""

import contextlib
import hashlib
import os
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pyfastcdc import FastCDC

from envkit.content.chunker import Sizes, chunk_files
from envkit.content.errors import ContentChanged
from envkit.content.former import Comparison, find_kept
from envkit.drivers import hasher
from envkit.model.tree import Chunk, Entry, Kind

TINY = Sizes(small=600, least=256, usual=512, most=1024, spread=300)
BATCH = 4096
PORTION = 16 * BATCH
SIZE = 60_000


def spans_of(data, hole=None):
    """Where a file with a hole `(start, end)` has data."""
    spans = [(0, len(data))] if hole is None else [(0, hole[0]), (hole[1], len(data))]
    return [(start, end) for start, end in spans if start < end]


def pieces_of(data, start=0, hole=None):
    """Content of a file from a byte on, in pieces, without a hole `(start, end)` in it."""
    for begin, end in spans_of(data, hole):
        place = max(begin, start)
        while place < end:
            yield place, data[place : min(end, place + 3 * BATCH)]
            place += 3 * BATCH


def opener(data, hole=None):
    """Give a file with these data, and where it has them."""

    @contextlib.contextmanager
    def opened(_):
        fd = os.memfd_create("content")
        try:
            for start, end in spans_of(data, hole):
                os.pwrite(fd, data[start:end], start)
            yield fd, spans_of(data, hole)
        finally:
            os.close(fd)

    return opened


class Before:
    """A file as it was cut; a memo for cutting it again that notes how much of it was kept."""

    def __init__(self, data, hole=None, path=b"file"):
        self.chunks = []
        (self.entry,) = chunk_files(
            [Entry(path, Kind.FILE, size=len(data))], self.reader(data, hole), self.put, sizes=TINY
        )
        self.table = [Chunk(hashlib.sha256(plain).digest(), len(plain), b"p" * 32, 0, 1) for plain in self.chunks]
        self.found = {}
        self.opened = None

    @staticmethod
    def reader(data, hole=None):
        return lambda _, start=0: pieces_of(data, start, hole)

    def put(self, plain):
        self.chunks.append(bytes(plain))
        return len(self.chunks) - 1

    def recall(self, entry):
        return None

    def size(self, chunk):
        return len(self.chunks[chunk])

    def reuse(self, chunk):
        return self.put(self.chunks[chunk])

    def find(self, entry, opened, digests=hasher.digests):
        segments = self.entry.segments
        return find_kept(entry, segments, self.table, opened, digests, most=TINY.most, portion=PORTION)

    def kept(self, entry):
        self.found = self.find(entry, self.opened)
        return self.found

    def again(self, data, hole=None):
        """Return the segments of the file with other data, each with the bytes of its chunk."""
        self.opened = opener(data, hole)
        entry = Entry(self.entry.path, Kind.FILE, size=len(data))
        (entry,) = chunk_files([entry], self.reader(data, hole), self.put, sizes=TINY, memo=self)
        return [(s.start, s.length, self.chunks[s.chunk], s.offset) for s in entry.segments]


def afresh(data, hole=None, path=b"file"):
    before = Before(data, hole, path)
    return [(s.start, s.length, before.chunks[s.chunk], s.offset) for s in before.entry.segments]


def noise(seed, size=SIZE):
    return random.Random(seed).randbytes(size)


def cuts(data):
    """Where the chunks of a file end."""
    return [c.offset + c.length for c in FastCDC(TINY.usual, min_size=TINY.least, max_size=TINY.most).cut_buf(data)]


contents = st.one_of(
    st.integers(0, 1000).map(noise),
    st.integers(0, 1000).map(lambda seed: noise(seed, 300) * (SIZE // 300)),
    st.integers(0, 1000).map(lambda seed: noise(seed, SIZE // 3) + bytes(SIZE // 3) + noise(seed + 1, SIZE // 3)),
)
edits = st.lists(
    st.tuples(
        st.sampled_from(("write", "insert", "remove", "append", "truncate")),
        st.floats(0, 1),
        st.sampled_from((1, 2, 100, 1024, 5000)),
    ),
    max_size=4,
)


def edited(data, changes):
    for verb, where, length in changes:
        place = int(where * len(data))
        fresh = noise(length, length)
        if verb == "write":
            data = (data[:place] + fresh + data[place + length :])[: max(len(data), place + length)]
        elif verb == "insert":
            data = data[:place] + fresh + data[place:]
        elif verb == "remove":
            data = data[:place] + data[place + length :]
        elif verb == "append":
            data += fresh
        else:
            data = data[:place]
    return data


@given(contents, edits)
@settings(deadline=None)
def test_a_changed_file_is_cut_as_if_it_were_new(data, changes):
    changed = edited(data, changes)
    assert Before(data).again(changed) == afresh(changed)


@given(contents, edits, st.floats(0, 1), st.integers(1, 5000), st.booleans())
@settings(deadline=None)
def test_with_holes_too(data, changes, where, length, before):
    changed = edited(data, changes)
    start = int(where * len(data))
    hole = (start, min(start + length, len(data), len(changed))) if start < len(changed) else None
    holes = (hole, None) if before else (None, hole)
    assert Before(data, holes[0]).again(changed, holes[1]) == afresh(changed, holes[1])


@pytest.mark.parametrize("distance", [-2, -1, 0, 1, 2])
def test_one_byte_at_a_cut(distance):
    data = noise(7)
    before = Before(data)
    for cut in cuts(data)[:-1]:
        changed = bytearray(data)
        changed[cut + distance] ^= 0x55
        assert before.again(bytes(changed)) == afresh(bytes(changed))


def test_the_byte_behind_a_cut_can_move_it():
    """This is why a chunk is kept only if the next one is."""
    data = noise(7)
    before = cuts(data)
    moved = 0
    for number, cut in enumerate(before[:-1]):
        changed = bytearray(data)
        changed[cut] ^= 0x55
        moved += cuts(bytes(changed))[number] != cut
    assert moved


@pytest.mark.parametrize("size", [0, 1, 599, 600, 20_000, SIZE - 1, SIZE + 1, SIZE + 300, SIZE + 5000])
def test_cut_off_or_continued_anywhere(size):
    data = noise(9)
    changed = (data + noise(10))[:size]
    assert Before(data).again(changed) == afresh(changed)
    ends = cuts(data)
    for end in (ends[-2], ends[-2] + 1, ends[-2] - 1):
        assert Before(data).again(data[:end]) == afresh(data[:end])


def test_nearly_all_of_an_edited_file_is_kept():
    data = noise(3)
    changed = data[:30_000] + noise(4, 500) + data[30_500:]
    before = Before(data)
    assert before.again(changed) == afresh(changed)
    kept = sum(segment.length for segment in before.found.values())
    assert SIZE - 500 - 4 * TINY.most < kept < SIZE


def test_of_an_unchanged_file_everything_is_kept():
    before = Before(noise(3))
    before.again(noise(3))
    assert sum(segment.length for segment in before.found.values()) == SIZE


def test_what_a_hole_has_moved_is_not_in_its_place():
    data = noise(3)
    before = Before(data)

    def kept(hole):
        entry = Entry(b"file", Kind.FILE, size=hole + SIZE)
        return before.find(entry, opener(bytes(hole) + data, (0, hole)))

    assert kept(0)
    assert kept(5000) == {}


def test_a_file_that_is_new_throughout_is_not_read_to_its_end():
    data = noise(3, 10 * PORTION)
    before = Before(data)
    asked = []

    def digests(fd, ranges):
        asked.extend(ranges)
        return hasher.digests(fd, ranges)

    assert before.find(before.entry, opener(bytes(len(data))), digests) == {}
    assert 0 < max(asked)[0] < 2 * PORTION


def test_too_little_between_changes_is_not_worth_while():
    data = noise(3)
    changed = bytearray(data)
    for place in range(0, SIZE, 3 * TINY.most):
        changed[place] ^= 0x55
    before = Before(data)
    assert before.again(bytes(changed)) == afresh(bytes(changed))
    assert before.found == {}


def test_the_heads_of_a_compiled_file_stay_apart():
    data = noise(3)
    changed = data[:30_000] + noise(4, 500) + data[30_500:]
    before = Before(data, path=b"large.pyc")
    assert before.again(changed) == afresh(changed, path=b"large.pyc")


def test_a_file_that_is_written_to_meanwhile_is_noticed():
    """All readings of kept chunks end early, so what tells of a writer at a file's end has to be asked for."""
    data = noise(3)
    before = Before(data)
    before.again(data)
    kept = before.found

    def read(entry, start=0):
        yield from pieces_of(data, start)
        raise ContentChanged(entry.path)

    memo = Before(data)
    memo.kept = lambda _: kept
    entry = Entry(b"file", Kind.FILE, size=SIZE)
    with pytest.raises(ContentChanged, match="/file changed"):
        list(chunk_files([entry], read, memo.put, sizes=TINY, memo=memo))


def test_comparisons_in_the_background_find_the_same():
    data = noise(1)
    before = Before(data)
    entry = replace(before.entry, path=b"other")
    with Comparison(before.table, opener(data), most=TINY.most) as comparison:
        comparison.begin(before.entry, before.entry.segments)
        assert comparison.kept(entry) == {}
        found = comparison.kept(before.entry)
    assert found == before.find(before.entry, opener(data))
    assert len(found) > 10


def test_a_file_that_is_too_small_to_be_worth_while_is_not_opened():
    before = Before(noise(1, 7 * TINY.most))
    with Comparison(before.table, None, most=TINY.most) as comparison:
        comparison.begin(before.entry, before.entry.segments)
        assert comparison.kept(before.entry) == {}


def test_what_opening_raises_in_the_background_comes_out_with_the_file():
    @contextlib.contextmanager
    def changed(entry):
        yield from ()
        raise ContentChanged(entry.path)

    before = Before(noise(1))
    with Comparison(before.table, changed, most=TINY.most) as comparison:
        comparison.begin(before.entry, before.entry.segments)
        with pytest.raises(ContentChanged):
            comparison.kept(before.entry)


def test_a_comparison_that_is_left_compares_no_further():
    data = noise(1, 1 << 20)
    before = Before(data)
    begun, left, opened = threading.Event(), threading.Event(), []

    @contextlib.contextmanager
    def slowly(entry):
        opened.append(entry.path)
        begun.set()
        assert left.wait(30)
        with opener(data)(entry) as found:
            yield found

    with Comparison(before.table, slowly, most=TINY.most) as comparison:
        usual = comparison._hasher.stop

        def stop():
            usual()
            left.set()

        comparison._hasher.stop = stop
        for path in (b"a", b"b"):
            comparison.begin(replace(before.entry, path=path), before.entry.segments)
        assert begun.wait(30)
    assert opened == [b"a"]
    with pytest.raises(OSError, match="stopped"):
        comparison.kept(replace(before.entry, path=b"a"))
