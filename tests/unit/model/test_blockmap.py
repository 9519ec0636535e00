import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.model.blockmap import BlockMap, Extent


def block_map(*extents):
    blocks = BlockMap()
    for extent in extents:
        blocks.append(*extent)
    return blocks


@st.composite
def block_maps(draw):
    extents, end = [], 0
    for _ in range(draw(st.integers(0, 8))):
        start = end + draw(st.integers(0, 5))
        length = draw(st.integers(1, 6))
        extents.append(Extent(start, length, draw(st.integers(0, 3)), draw(st.integers(0, 50))))
        end = start + length
    return block_map(*extents)


def byte_by_byte(blocks):
    """Image offset to (chunk, offset in it) of each byte that is covered."""
    return {
        extent.image_offset + index: (extent.chunk, extent.offset + index)
        for extent in blocks
        for index in range(extent.length)
    }


def test_an_empty_map_covers_nothing():
    blocks = BlockMap()
    assert (len(blocks), blocks.end, blocks.covered) == (0, 0, 0)
    assert list(blocks) == list(blocks.lookup(0, 1 << 40)) == list(blocks.by_chunk()) == []


def test_lookup_cuts_extents_to_the_range():
    blocks = block_map((4096, 100, 7, 20), (8192, 50, 8, 0))
    assert list(blocks.lookup(4100, 10)) == [Extent(4100, 10, 7, 24)]
    assert list(blocks.lookup(0, 8200)) == [Extent(4096, 100, 7, 20), Extent(8192, 8, 8, 0)]
    assert list(blocks.lookup(4196, 3996)) == []
    assert list(blocks.lookup(4100, 0)) == []
    assert list(blocks.lookup(4195, 3998)) == [Extent(4195, 1, 7, 119), Extent(8192, 1, 8, 0)]


def test_offsets_beyond_32_bits_are_kept():
    blocks = block_map((1 << 43, 4 << 20, (1 << 32) - 1, (1 << 32) - 1))
    assert list(blocks) == [Extent(1 << 43, 4 << 20, (1 << 32) - 1, (1 << 32) - 1)]


@pytest.mark.parametrize("extent", [(4195, 1, 0, 0), (0, 1, 0, 0), (5000, 0, 0, 0), (5000, -1, 0, 0)])
def test_extents_that_overlap_or_are_empty_are_refused(extent):
    blocks = block_map((4096, 100, 7, 20))
    with pytest.raises(ValueError, match="after one that ends at 4196"):
        blocks.append(*extent)
    assert len(blocks) == 1


@settings(deadline=None)
@given(block_maps(), st.integers(0, 90), st.integers(0, 90))
def test_lookup_finds_exactly_the_bytes_of_the_range(blocks, offset, length):
    found = block_map(*blocks.lookup(offset, length))
    wanted = {at: source for at, source in byte_by_byte(blocks).items() if offset <= at < offset + length}
    assert byte_by_byte(found) == wanted


@settings(deadline=None)
@given(block_maps())
def test_by_chunk_gives_every_extent_once_and_every_chunk_once(blocks):
    grouped = list(blocks.by_chunk())
    numbers = [number for number, _ in grouped]
    assert numbers == sorted(set(numbers))
    assert all(extent.chunk == number for number, extents in grouped for extent in extents)
    assert all(extents == sorted(extents) for _, extents in grouped)
    assert sorted(extent for _, extents in grouped for extent in extents) == list(blocks)


@settings(deadline=None)
@given(block_maps())
def test_the_same_extents_make_equal_maps(blocks):
    assert block_map(*blocks) == blocks
    longer = block_map(*blocks, (blocks.end, 1, 0, 0))
    assert longer != blocks
    assert longer.covered == blocks.covered + 1
