"""A store on a disk that fills up: what is there stays whole, what does not fit leaves nothing."""

import os
import shutil
import subprocess

import pytest

from envkit.errors import EXIT_STORE
from envkit.store.directory import DirectoryStore
from envkit.store.errors import StoreFull
from envkit.store.open import init_store

pytestmark = pytest.mark.root


@pytest.fixture(params=[("-N", "4096"), ("-N", "48")], ids=["blocks", "inodes"])
def disk(request, tmp_path):
    """An ext4 of 8 MB that runs out of blocks or of inodes first."""
    image, directory = tmp_path / "image", tmp_path / "disk"
    image.write_bytes(b"")
    os.truncate(image, 8 << 20)
    directory.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", "-m", "0", *request.param, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, directory], check=True)
    yield str(directory)
    subprocess.run(["umount", directory], check=True)


def _content(number):
    # Sizes on both sides of what ext4 writes at once, so that the disk also fills in the middle of an object.
    return os.urandom(1) * (number * 7919 % 200_000 + 50_000) if number % 3 else b"small"


def test_a_full_disk_is_told_and_loses_nothing(disk):
    store = init_store(disk)
    before = set(os.listdir("/proc/self/fd"))
    written, refused = {}, 0
    for number in range(400):
        key, content = f"packs/{number % 7:02}/{number}", _content(number)
        try:
            assert store.put_if_absent(key, (content[start : start + 4096] for start in range(0, len(content), 4096)))
            written[key] = content
        except StoreFull as error:
            refused += 1
            assert error.brief == f"the store {disk} is full: No space left on device"
            assert error.exit_code == EXIT_STORE
            assert "what was stored before is intact" in error.resolution
            assert store.size(key) is None
    assert len(written) > 20
    assert refused > 20
    fresh = DirectoryStore(disk)
    assert set(fresh.list("packs/")) == set(written)
    for key, content in written.items():
        assert fresh.get(key, limit=1 << 20) == content
    names = [name for _, _, names in os.walk(disk) for name in names]
    assert not [name for name in names if "~" in name], "a temporary file stayed"
    assert set(os.listdir("/proc/self/fd")) == before

    largest = max(written, key=lambda key: len(written[key]))
    store.delete(largest)
    assert store.put_if_absent("packs/00/again", written[largest]) is True
    assert store.get("packs/00/again", limit=1 << 20) == written[largest]


def _use_up(directory):
    """Take all blocks with one file, then all inodes with directories."""
    with pytest.raises(OSError, match="No space left"), open(f"{directory}/filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(OSError, match="No space left"):
        for number in range(10_000):
            os.mkdir(f"{directory}/{number}")


def test_a_store_cannot_be_made_on_a_full_disk_and_can_be_once_there_is_space(disk):
    _use_up(f"{disk}/lost+found")
    with pytest.raises(StoreFull, match="No space left on device"):
        init_store(disk)
    assert os.listdir(disk) == ["lost+found"]
    shutil.rmtree(f"{disk}/lost+found")
    assert init_store(disk).put_if_absent("a/b", b"1") is True
