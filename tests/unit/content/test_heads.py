"""Compiled Python files share everything but their heads, which lie in chunks of their own."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.content.chunker import Sizes, chunk_files
from envkit.content.heads import HEAD
from envkit.model.tree import Entry, Kind, Segment

TINY = Sizes(small=600, least=256, usual=512, most=1024, spread=300)


class Remembered:
    """What an earlier `cut` gave, of some files, for a later one to recall."""

    def __init__(self, before, paths):
        self._entries, self._chunks = before
        self._paths = paths
        self.put = None

    def recall(self, entry):
        return self._entries[entry.path].segments if entry.path in self._paths else None

    def size(self, chunk):
        return len(self._chunks[chunk])

    def reuse(self, chunk):
        return self.put(self._chunks[chunk])

    def kept(self, entry):
        return {}


def cut(files, memo=None):
    """Return the entries by path, and the chunks."""
    chunks = []

    def put(plain):
        chunks.append(bytes(plain))
        return len(chunks) - 1

    if memo is not None:
        memo.put = put
    contents = dict(files)
    entries = [Entry(path, Kind.FILE, size=len(data)) for path, data in files]
    entries = list(chunk_files(entries, lambda entry: [(0, contents[entry.path])], put, sizes=TINY, memo=memo))
    assert [entry.path for entry in entries] == [path for path, _ in files]
    return {entry.path: entry for entry in entries}, chunks


def content(entry, chunks):
    assert all(a.start + a.length == b.start for a, b in zip(entry.segments, entry.segments[1:], strict=False))
    return b"".join(chunks[s.chunk][s.offset : s.offset + s.length] for s in entry.segments)


def compiled(count, *, mtimes, seed=1, sizes=(17, 2000)):
    """Compiled files of one seed: the same but for their heads."""
    bodies, heads = random.Random(seed), random.Random(mtimes)
    return [
        (b"m%04d.pyc" % n, heads.randbytes(HEAD) + bodies.randbytes(bodies.randint(*sizes) - HEAD))
        for n in range(count)
    ]


names = st.sampled_from(
    [b"%s%d%s" % (stem, n, end) for stem in (b"a", b"m") for n in range(30) for end in (b".pyc", b".py")]
)
files = st.dictionaries(names, st.binary(max_size=3000), max_size=25).map(lambda found: sorted(found.items()))


@given(files, st.data())
@settings(deadline=None)
def test_every_file_is_what_it_was_with_a_memo_and_without(before, data):
    entries, chunks = cut(before)
    for path, plain in before:
        assert content(entries[path], chunks) == plain
    unchanged = data.draw(st.sets(st.sampled_from([path for path, _ in before]))) if before else set()
    after = [(p, d if p in unchanged else bytes(255 - byte for byte in d)) for p, d in before]
    again, more = cut(after, Remembered((entries, chunks), unchanged))
    for path, plain in after:
        assert content(again[path], more) == plain


def test_what_somebody_else_compiled_differs_only_in_the_heads():
    _, mine = cut(compiled(300, mtimes=1))
    _, theirs = cut(compiled(300, mtimes=2))
    new = set(theirs) - set(mine)
    assert sum(map(len, new)) == 300 * HEAD
    assert sum(map(len, theirs)) > 200_000


def test_other_files_keep_their_first_bytes():
    files = [(b"a.py", b"0123456789abcdefXYZ")]
    entries, chunks = cut(files)
    assert entries[b"a.py"].segments == (Segment(0, 19, 0, 0),)
    assert chunks == [b"0123456789abcdefXYZ"]


@pytest.mark.parametrize("size", [1, HEAD - 1, HEAD, HEAD + 1, 599, 600, 615, 616, 5000])
def test_compiled_files_of_any_size(size):
    data = random.Random(size).randbytes(size)
    entries, chunks = cut([(b"a.pyc", data), (b"b", b"x")])
    assert content(entries[b"a.pyc"], chunks) == data


def test_a_compiled_file_that_begins_with_a_hole_is_left_alone():
    chunks = []
    entry = Entry(b"a.pyc", Kind.FILE, size=100)
    content = [(10, b"x" * 90)]
    (found,) = chunk_files([entry], lambda _: content, lambda plain: chunks.append(bytes(plain)) or 0, sizes=TINY)
    assert found.segments == (Segment(10, 90, 0, 0),)


def test_chunks_of_heads_are_no_larger_than_others():
    _, chunks = cut(compiled(200, mtimes=1, sizes=(HEAD, HEAD)))
    assert [len(plain) for plain in chunks] == [1024, 1024, 1024, 200 * HEAD - 3 * 1024]


def test_unchanged_heads_stay_where_they_are():
    files = compiled(100, mtimes=1)
    entries, chunks = cut(files)
    changed = [(path, data[:-1] + b"?" if path == b"m0050.pyc" else data) for path, data in files]
    unchanged = {path for path, _ in files} - {b"m0050.pyc"}
    again, more = cut(changed, Remembered((entries, chunks), unchanged))
    heads = {more[entry.segments[0].chunk] for entry in again.values()}
    assert heads == {chunks[entries[b"m0000.pyc"].segments[0].chunk], changed[50][1][:HEAD]} | heads & set(chunks)
