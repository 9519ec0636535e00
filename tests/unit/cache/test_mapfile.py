import pytest
from cache_support import make_sample, plain_sample
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.cache import mapfile
from envkit.cache.errors import CacheLost
from envkit.model.blockmap import BlockMap
from envkit.model.tree import Chunk


@st.composite
def samples(draw):
    sizes = draw(st.lists(st.integers(1, 300), min_size=1, max_size=4))
    extents = []
    for _ in range(draw(st.integers(0, 8))):
        chunk = draw(st.integers(0, len(sizes) - 1))
        offset = draw(st.integers(0, sizes[chunk] - 1))
        length = draw(st.integers(1, sizes[chunk] - offset))
        extents.append((draw(st.sampled_from([0, 1, 4096])), length, chunk, offset))
    return make_sample(sizes, extents)


@given(samples())
@settings(max_examples=100)
def test_a_map_comes_back_as_it_was(sample):
    stored = mapfile.decode(mapfile.encode(sample.map, sample.metadata))
    assert stored.map == sample.map
    assert stored.map.blocks.end == sample.map.blocks.end
    by_chunk = dict(sample.map.blocks.by_chunk())
    for number in range(len(sample.plains) + 1):
        assert stored.blocks.of_chunk(number) == by_chunk.get(number, [])
    assert stored.blocks.needed() == set(by_chunk)
    parted = []
    for number, extents in by_chunk.items():
        used = {extent.offset + index for extent in extents for index in range(extent.length)}
        if len(used) < len(sample.plains[number]):
            parted.append(number)
    assert list(stored.parted) == parted


@given(st.data())
@settings(max_examples=100)
def test_a_map_that_is_damaged_anywhere_is_not_taken(data):
    sample = make_sample([100, 50], [(0, 60, 0, 0), (10, 50, 1, 0)])
    encoded = bytearray(mapfile.encode(sample.map, sample.metadata))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match=r"it |its "):
        mapfile.decode(bytes(encoded))
    with pytest.raises(ValueError, match=r"it |its "):
        mapfile.decode(bytes(encoded[:place]))


def test_a_map_without_its_file_is_lost(tmp_path):
    with pytest.raises(CacheLost, match="it has no map"):
        mapfile.load(str(tmp_path))
    (tmp_path / "map").write_bytes(b"x" * 200)
    with pytest.raises(CacheLost, match="its map is damaged: it has another format"):
        mapfile.load(str(tmp_path))


def bad_map(**changes):
    sample = plain_sample(2)
    return sample.map.replace(**changes), sample.metadata


def blocks(*extents):
    made = BlockMap()
    for extent in extents:
        made.append(*extent)
    return made


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"size": 4096}, "sizes are impossible"),
        ({"size": 1 << 50}, "sizes are impossible"),
        ({"blocks": blocks((4096, 10, 0, 0))}, "outside the data region"),
        ({"size": 40960, "blocks": blocks((40950, 11, 0, 0))}, "outside the data region"),
        ({"blocks": blocks((16384, 10, 2, 0))}, "a chunk that there is not"),
        ({"blocks": blocks((16384, 10, 0, 16380))}, "longer than its chunk"),
        ({"blocks": blocks((16384, 16384, 0, 0), (32768, 16384, 0, 1))}, "longer than its chunk"),
        ({"chunks": [Chunk(b"short", 16384, bytes(32), 0, 1)] * 2}, "impossible digest"),
        ({"uuid": b"short"}, "another image"),
        ({"metadata": 8192}, "another image"),
    ],
)
def test_a_map_that_contradicts_itself_is_not_written(changes, problem):
    with pytest.raises(ValueError, match=problem):
        mapfile.encode(*bad_map(**changes))
