"""Contents survive being cut; equal files give equal chunks; memory stays bounded."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pyfastcdc import FastCDC
from strategies import files_with_data

from envkit.content.chunker import DEFAULT_SIZES, Sizes, chunk_files, cut, renumber
from envkit.content.errors import ContentChanged
from envkit.model.tree import TREE_FORMAT, Chunk, Entry, Kind, Segment, Tree, check_tree

TINY = Sizes(small=600, least=256, usual=512, most=1024, spread=300)


def chunked(files, sizes=TINY):
    """Return the entries with segments, and the chunks."""
    chunks = []

    def put(plain):
        chunks.append(plain)
        return len(chunks) - 1

    return list(chunk_files(*source(files), put, sizes=sizes)), chunks


def source(files):
    """Return the entries of files, and what reads their contents."""
    contents = {entry.path: pieces for entry, pieces in files}
    return [entry for entry, _ in files], lambda entry: contents[entry.path]


def assembled(entry, chunks):
    """The content of a file, from its segments."""
    content = bytearray(entry.size)
    for segment in entry.segments:
        data = chunks[segment.chunk][segment.offset : segment.offset + segment.length]
        content[segment.start : segment.start + segment.length] = data
    return bytes(content)


def original(entry, pieces):
    content = bytearray(entry.size)
    for start, data in pieces:
        content[start : start + len(data)] = data
    return bytes(content)


def ranges(pairs):
    """Ranges `(start, length)` with neighbours joined."""
    joined = []
    for start, length in pairs:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return joined


@given(files_with_data())
@settings(deadline=None)
def test_segments_give_every_file_back_holes_included_in_the_same_order(files):
    entries, chunks = chunked(files)
    assert [replace(entry, segments=()) for entry in entries] == [entry for entry, _ in files]
    for entry, (_, pieces) in zip(entries, files, strict=True):
        assert assembled(entry, chunks) == original(entry, pieces)
        data = ranges((start, len(piece)) for start, piece in pieces)
        assert ranges((segment.start, segment.length) for segment in entry.segments) == data, "a hole became data"


@given(files_with_data())
@settings(deadline=None)
def test_the_result_is_a_valid_tree_whose_chunks_are_used_once_and_whole(files):
    entries, chunks = chunked(files)
    assert all(0 < len(plain) <= TINY.most for plain in chunks)
    table = [Chunk(hashlib.sha256(plain).digest(), len(plain), b"p" * 32, 0, 1) for plain in chunks]
    check_tree(Tree(TREE_FORMAT, entries, table))
    used = sorted((s.chunk, s.offset, s.length) for entry in entries for s in entry.segments)
    ends = [0] * len(chunks)
    for number, offset, length in used:
        assert offset == ends[number]
        ends[number] = offset + length
    assert ends == [len(plain) for plain in chunks]


@given(files_with_data(max_files=6), st.data())
@settings(deadline=None, max_examples=40)
def test_how_a_content_is_handed_over_does_not_matter(files, data):
    def split(pieces):
        for start, piece in pieces:
            while piece:
                length = data.draw(st.integers(1, len(piece)))
                yield start, piece[:length]
                start, piece = start + length, piece[length:]

    assert chunked([(entry, split(pieces)) for entry, pieces in files]) == chunked(files)


@given(st.randoms(use_true_random=False), st.integers(0, 40_000))
@settings(deadline=None, max_examples=40)
def test_a_stream_is_cut_exactly_like_the_whole(source, size):
    whole = source.randbytes(size)
    pieces, start = [], 0
    while start < size:
        length = source.randint(1, 5000)
        pieces.append(whole[start : start + length])
        start += length
    expected = [
        whole[c.offset : c.offset + c.length]
        for c in FastCDC(TINY.usual, min_size=TINY.least, max_size=TINY.most).cut_buf(whole)
    ]
    assert list(cut(iter(pieces), TINY)) == expected


def test_a_large_file_is_never_held_as_a_whole():
    total, taken, given_back = 256 << 20, 0, 0
    piece = random.Random(1).randbytes(1 << 20)

    def content():
        nonlocal taken
        while taken < total:
            start, taken = taken, taken + len(piece)
            yield start, piece

    def put(plain):
        nonlocal given_back
        given_back += len(plain)
        assert taken - given_back <= 6 << 20, "more than a window of the file is held"
        return 0

    list(chunk_files([Entry(b"big", Kind.FILE, size=total)], lambda _: content(), put))
    assert given_back == total


def test_contents_are_read_one_after_the_other():
    opened = []

    def content(entry):
        opened.append(entry.path)
        yield 0, b"x" * 200

    files = [Entry(b"%02d" % number, Kind.FILE, size=200) for number in range(50)]
    entries = chunk_files(files, content, lambda plain: 0, sizes=TINY)
    first = next(entries)
    assert first.path == b"00"
    assert len(opened) <= TINY.most // 200 + 1, "files are read ahead without bound"


def test_many_small_extents_of_a_sparse_file_share_chunks():
    pieces = [(number * 100_000, b"%08d" % number * 2) for number in range(500)]
    entry = Entry(b"disk.img", Kind.FILE, size=500 * 100_000)
    entries, chunks = chunked([(entry, pieces)])
    assert len(chunks) <= 500 * 16 // TINY.least + 1
    assert assembled(entries[0], chunks) == original(entry, pieces)


def test_a_file_that_is_all_hole_and_an_empty_file_need_no_chunk():
    files = [(Entry(b"empty", Kind.FILE), []), (Entry(b"hole", Kind.FILE, size=1 << 40), [])]
    entries, chunks = chunked(files)
    assert chunks == []
    assert entries == [entry for entry, _ in files]


@pytest.mark.parametrize(
    "content",
    [
        [(0, b"x" * 11)],
        [(8, b"abc")],
        [(4, b"ab"), (0, b"cd")],
        [(0, b"abcd"), (3, b"ef")],
        [(0, b"x" * 600), (9000, b"x" * 2000)],
    ],
    ids=["longer", "beyond the end", "backwards", "overlapping", "large"],
)
def test_a_content_that_does_not_fit_its_entry_is_refused(content):
    size = 10_000 if len(content[0][1]) == 600 else 10
    with pytest.raises(ContentChanged, match="/etc/grown changed while it was read") as caught:
        chunked([(Entry(b"etc/grown", Kind.FILE, size=size), content)])
    assert caught.value.resolution == "stop what writes to it and repeat"


def test_what_is_no_file_or_empty_is_not_read():
    entries = [Entry(b"d", Kind.DIRECTORY), Entry(b"empty", Kind.FILE)]
    assert list(chunk_files(entries, lambda entry: pytest.fail(f"{entry} was read"), pytest.fail)) == entries


@pytest.fixture(scope="module")
def packages():
    """700 small files and some large ones, in directories like those of Python packages."""
    source = random.Random(7)
    files = []
    for package in range(25):
        for number in range(28):
            size = min(120_000, int(source.lognormvariate(8.3, 1.3)) + 1)
            files.append((b"lib/p%02d/m%03d.py" % (package, number), source.randbytes(size)))
        if package % 5 == 0:
            files.append((b"lib/p%02d/zz.so" % package, source.randbytes(900_000)))
    return files


def stored(files):
    """The chunks of files, by digest: their sizes."""
    entries = [(Entry(path, Kind.FILE, size=len(data)), [(0, data)]) for path, data in files]
    _, chunks = chunked(entries, DEFAULT_SIZES)
    return {hashlib.sha256(plain).digest(): len(plain) for plain in chunks}


def test_groups_have_a_useful_size(packages):
    small = [file for file in packages if len(file[1]) < DEFAULT_SIZES.small]
    sizes = list(stored(small).values())
    assert max(sizes) <= DEFAULT_SIZES.most
    assert sum(size < DEFAULT_SIZES.least for size in sizes) <= 1, "only the last group may be smaller"
    assert DEFAULT_SIZES.usual < sum(sizes) / len(sizes) < DEFAULT_SIZES.most


def _longer(path, data):
    return [(path, data + b"#" * (len(data) // 3 + 1))]


def _other(path, data):
    return [(path, bytes([data[0] ^ 1]) + data[1:])]


def _gone(_path, _data):
    return []


def _large(path, data):
    return [(path, random.Random(3).randbytes(200_000))]


def _neighbour(path, data):
    return [(path, data), (path + b"c", b"compiled" * 500)]


@pytest.mark.parametrize("change", [_longer, _other, _gone, _neighbour, _large])
def test_a_change_of_one_small_file_costs_a_few_chunks(packages, change):
    before = stored(packages)
    small = [place for place, (_, data) in enumerate(packages) if len(data) < DEFAULT_SIZES.small]
    for place in random.Random(5).sample(small, 8):
        after = stored([*packages[:place], *change(*packages[place]), *packages[place + 1 :]])
        assert len(after.keys() - before.keys()) <= 4


def test_a_moved_directory_costs_nothing(packages):
    moved = [(b"opt/venv/" + path, data) for path, data in packages]
    assert stored(moved).keys() == stored(packages).keys()


def test_a_change_in_a_large_file_costs_a_part_of_it():
    data = random.Random(9).randbytes(8 << 20)
    before = stored([(b"a", data)])
    after = stored([(b"a", data[: 3 << 20] + b"inserted" + data[3 << 20 :])])
    assert sum(after[new] for new in after.keys() - before.keys()) <= 2 << 20


def test_large_files_are_the_same_chunks_whatever_is_beside_them(packages):
    alone = stored([file for file in packages if len(file[1]) >= DEFAULT_SIZES.small])
    assert alone.keys() <= stored(packages).keys()


def test_renumbering_changes_what_segments_name_and_nothing_else():
    entry = Entry(b"f", Kind.FILE, size=9, segments=(Segment(0, 4, 2, 0), Segment(4, 5, 0, 7)))
    other = Entry(b"g", Kind.FILE)
    entries = [entry, other]
    renumber(entries, [0, 1, 2])
    assert entries == [entry, other]
    renumber(entries, [5, 1, 0])
    assert entries == [replace(entry, segments=(Segment(0, 4, 0, 0), Segment(4, 5, 5, 7))), other]


class Recalled:
    """A memo of files that were chunked before; notes which contents are read all the same."""

    def __init__(self, before, chunks, put, unchanged):
        self._files = {entry.path: entry.segments for entry in before if entry.path in unchanged}
        self._chunks, self._put = chunks, put

    def recall(self, entry):
        return self._files.get(entry.path)

    def size(self, chunk):
        return len(self._chunks[chunk])

    def reuse(self, chunk):
        return self._put(self._chunks[chunk])

    def kept(self, entry):
        return {}


def rechunked(before, chunks, files, unchanged):
    """Return what `chunked` returns, with a memo, and the paths of the files that were read."""
    found, read = [], []

    def put(plain):
        found.append(plain)
        return len(found) - 1

    entries, content = source(files)

    def noted(entry):
        read.append(entry.path)
        yield from content(entry)

    entries = list(chunk_files(entries, noted, put, sizes=TINY, memo=Recalled(before, chunks, put, unchanged)))
    return (entries, found), read


def by_content(result):
    """Segments with the bytes of their chunk instead of its number, which says how often it was handed over."""
    entries, chunks = result
    return [(e.path, [(s.start, s.length, chunks[s.chunk], s.offset) for s in e.segments]) for e in entries]


@given(files_with_data(), st.data())
@settings(deadline=None)
def test_a_memo_changes_what_is_read_and_nothing_else(files, data):
    entries, chunks = chunked(files)
    unchanged = data.draw(st.sets(st.sampled_from([entry.path for entry, _ in files])) if files else st.just(set()))
    changed = []
    for entry, pieces in files:
        if entry.path not in unchanged and pieces and data.draw(st.booleans()):
            pieces = [(start, bytes(255 - byte for byte in piece)) for start, piece in pieces]
        changed.append((entry, pieces))
    expected = chunked(changed)
    result, _ = rechunked(entries, chunks, changed, unchanged)
    assert by_content(result) == by_content(expected)


def test_with_everything_unchanged_nothing_is_read():
    source = random.Random(1)
    sizes = [source.randint(1, 300) for _ in range(400)] + [5000, 900]
    files = [
        (Entry(b"d/%04d" % n, Kind.FILE, size=size), [(0, source.randbytes(size))]) for n, size in enumerate(sizes)
    ]
    entries, chunks = chunked(files)
    result, read = rechunked(entries, chunks, files, {entry.path for entry, _ in files})
    assert by_content(result) == by_content((entries, chunks))
    assert read == []
    _, read = rechunked(entries, chunks, files, {entry.path for entry, _ in files} - {b"d/0200"})
    assert b"d/0200" in read
    assert len(read) < 40, "more than the neighbours of the changed file were read"


def test_a_recalled_file_with_other_data_is_noticed():
    files = [(Entry(b"a", Kind.FILE, size=10), [(0, b"x" * 10)]), (Entry(b"b", Kind.FILE, size=10), [(0, b"y" * 10)])]
    entries, chunks = chunked(files)
    files[0] = (files[0][0], [(0, b"x" * 9)])
    with pytest.raises(ContentChanged, match="/a changed while it was read"):
        rechunked(entries, chunks, files, {b"a"})
