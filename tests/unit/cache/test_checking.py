import os

import pytest
from cache_support import make_sample

from envkit.cache.checking import Health, check_layer
from envkit.cache.layer import CachedLayer

# Of chunk 1 the image has only a part.
SAMPLE = make_sample([20000, 60000], [(0, 20000, 0, 0), (0, 30000, 1, 7)])
PARTED = 8192 + 20000


@pytest.fixture(params=["complete", "partial"])
def layer(request, tmp_path):
    made = SAMPLE.open(tmp_path)
    SAMPLE.put(made, 0, 1)
    made.flush()
    assert request.param == "partial" or made.finish()
    made.close()
    return tmp_path


def data_file(layer):
    return layer / ("image" if (layer / "image").exists() else "partial")


def flip(path, place):
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_a_whole_layer(layer):
    assert check_layer(str(layer)) is Health.WHOLE


@pytest.mark.parametrize("place", [8192, PARTED, PARTED + 29999])
def test_a_damaged_chunk(layer, place):
    flip(data_file(layer), place)
    if (layer / "image").exists():
        assert check_layer(str(layer)) is Health.DAMAGED
        return
    assert check_layer(str(layer)) is Health.MENDED
    assert check_layer(str(layer)) is Health.WHOLE
    again = CachedLayer.open(str(layer))
    assert again.missing(0, SAMPLE.map.size) == [0 if place == 8192 else 1]
    again.close()


def test_damaged_metadata(layer):
    flip(data_file(layer), 4096)
    assert check_layer(str(layer)) is Health.DAMAGED


def test_a_file_that_was_cut(layer):
    os.truncate(data_file(layer), SAMPLE.map.size - 4096)
    assert check_layer(str(layer)) is Health.DAMAGED


def test_a_damaged_map(layer):
    complete = (layer / "image").exists()
    flip(layer / "map", 100)
    assert check_layer(str(layer)) is (Health.UNKNOWN if complete else Health.DAMAGED)


def test_bits_that_are_gone(layer):
    os.unlink(layer / "ready")
    assert check_layer(str(layer)) is Health.WHOLE
    if (layer / "image").exists():
        flip(layer / "image", 8192)  # a whole chunk needs no note to be compared
        assert check_layer(str(layer)) is Health.DAMAGED


def test_what_is_not_there_and_what_is_open(tmp_path):
    assert check_layer(str(tmp_path / "none")) is Health.EMPTY
    assert check_layer(str(tmp_path)) is Health.EMPTY
    made = SAMPLE.open(tmp_path)
    assert check_layer(str(tmp_path)) is Health.SERVED
    made.close()
    assert check_layer(str(tmp_path)) is Health.WHOLE
