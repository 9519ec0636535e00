import os

import pytest
from cache_support import plain_sample

from envkit.cache.complete import Completed, complete_image, superblock_facts, write_mark
from envkit.image import erofs
from envkit.model.tree import TREE_FORMAT, Entry, Kind, Tree

SAMPLE = plain_sample(2)
FACTS = Completed(size=SAMPLE.map.size, uuid=SAMPLE.map.uuid)


@pytest.fixture
def layer(tmp_path):
    (tmp_path / "image").write_bytes(SAMPLE.image)
    return tmp_path


def test_the_superblock_of_a_real_image_tells_its_size_and_uuid():
    image = erofs.build(Tree(TREE_FORMAT, [Entry(b"", Kind.DIRECTORY, mode=0o755)], []))
    assert superblock_facts(image.metadata) == Completed(size=image.size, uuid=image.metadata[1072:1088])


def test_an_image_with_its_mark_is_complete(layer):
    write_mark(str(layer), SAMPLE.map.size, SAMPLE.map.uuid)
    assert complete_image(str(layer)) == FACTS


def test_an_image_of_an_earlier_version_has_no_mark(layer):
    assert complete_image(str(layer)) == FACTS


@pytest.mark.parametrize("size", [0, 100, 4096, SAMPLE.map.size - 1, SAMPLE.map.size + 4096])
@pytest.mark.parametrize("marked", [True, False])
def test_an_image_of_another_size_is_not_there(layer, size, marked):
    if marked:
        write_mark(str(layer), SAMPLE.map.size, SAMPLE.map.uuid)
    os.truncate(layer / "image", size)
    assert complete_image(str(layer)) is None


def test_an_image_that_the_mark_does_not_mean_is_not_there(layer):
    write_mark(str(layer), SAMPLE.map.size, bytes(16))
    assert complete_image(str(layer)) is None


@pytest.mark.parametrize("mark", [b"", b"envkit-image-1", b"envkit-image-1 9 zz" + b"z" * 30, b"\xff\xfe", b"x" * 999])
def test_a_damaged_mark_says_nothing(layer, mark):
    (layer / "complete").write_bytes(mark)
    assert complete_image(str(layer)) == FACTS


def test_what_is_no_image_is_not_there(tmp_path):
    assert complete_image(str(tmp_path)) is None
    (tmp_path / "image").write_bytes(bytes(8192))
    assert complete_image(str(tmp_path)) is None


@pytest.mark.parametrize("plant", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_nothing_but_a_regular_file_is_opened(tmp_path, plant):
    plant(tmp_path / "image")
    assert complete_image(str(tmp_path)) is None
