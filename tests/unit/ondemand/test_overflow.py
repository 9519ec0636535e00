"""Chunks for which there is no room: few enough, but never the one that somebody waits for."""

import pytest
from cache_support import GRANULE, plain_sample

from envkit.cache.layer import ChunksMissing
from envkit.ondemand import overflow
from envkit.ondemand.overflow import Overflow


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(overflow, "MAX_BYTES", 100)
    return Overflow()


def numbers(kept):
    return [number for number, _ in kept.items()]


def test_the_oldest_go_first(small):
    for number in range(6):
        small.keep(number, bytes(40), ())
    assert numbers(small) == [4, 5]
    small.discard(4)
    small.discard(77)
    assert 5 in small
    assert 4 not in small


def test_what_is_needed_stays_though_it_is_too_much(small):
    for number in range(6):
        small.keep(number, bytes(40), {0, 2, 3})
    assert numbers(small) == [0, 2, 3, 5]


def test_one_that_is_too_large_alone_stays(small):
    small.keep(1, bytes(500), ())
    assert numbers(small) == [1]


def test_an_image_is_read_from_both(tmp_path):
    sample, kept = plain_sample(count=4), Overflow()
    layer = sample.open(tmp_path / "layer")
    sample.put(layer, 0, 2)
    kept.keep(1, sample.plains[1], ())
    for offset, length in ((0, 4 * GRANULE), (GRANULE + 5, 100), (2 * GRANULE - 5, GRANULE), (GRANULE, 3 * GRANULE)):
        assert kept.read(layer, offset, length) == sample.image[offset : offset + length]
    with pytest.raises(ChunksMissing) as caught:
        kept.read(layer, 0, 5 * GRANULE)
    assert caught.value.numbers == (3,)
