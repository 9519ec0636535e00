import contextlib
import errno
import os
import threading

import pytest
from cache_support import make_sample, plain_sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envkit.cache import datafile, layer, locks
from envkit.cache.layer import (
    GRANULE,
    CacheBusy,
    CachedLayer,
    CacheLost,
    ChunksMissing,
    GranulesDiffer,
    create_partial,
)
from envkit.drivers.files import DiskFull

# Chunk 1 is at two places, of chunk 2 only a part is used, chunk 3 not at all; granules 1 and 2 share chunk 0.
MIXED = make_sample(
    [20000, 5000, 3000, 700, 9000],
    [(0, 20000, 0, 0), (480, 5000, 1, 0), (1, 1000, 2, 1500), (40960, 5000, 1, 0), (0, 9000, 4, 0)],
    tail=5000,
)


@pytest.fixture
def opened():
    """Open a sample's layer; whatever is open is closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_it(sample, directory):
            made = sample.open(directory)
            stack.callback(made.close)
            return made

        yield open_it


def reopened(made, sample, directory):
    made.flush()
    made.close()
    return sample.open(directory)


def test_a_new_layer_has_its_metadata_and_its_holes(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    assert not made.complete
    assert made.map == MIXED.map
    assert made.missing(0, 8192) == []
    assert made.read(0, 8192) == MIXED.metadata
    assert (made.ready_bytes(), made.total_bytes) == (0, MIXED.map.blocks.covered)
    hole = 8192 + 20000
    assert made.read(hole, 480) == bytes(480)
    assert made.read(MIXED.map.size - 100, 1000) == bytes(100)
    assert made.read(MIXED.map.size, 1000) == made.read(MIXED.map.size + 5000, 10) == made.read(5, 0) == b""


def test_missing_names_each_chunk_once_in_order(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    assert made.missing(0, MIXED.map.size * 2) == [0, 1, 2, 4]
    assert made.missing(8192 + 19999, 481) == [0]
    assert made.missing(8192 + 20000, 480) == []
    MIXED.put(made, 0, 1)
    assert made.missing(0, MIXED.map.size) == [2, 4]
    assert made.read(0, 8192 + 25480) == MIXED.image[: 8192 + 25480]


def test_what_is_missing_is_not_read(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    with pytest.raises(ChunksMissing) as caught:
        made.read(0, 50000)
    assert caught.value.numbers == (0, 1, 2)


def test_a_range_can_be_read_beside_chunks_that_the_caller_has(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 1)
    with pytest.raises(ChunksMissing):
        made.read(8192 + 19000, 7482, besides={0})
    assert made.read(8192 + 19000, 7000, besides={0, 2})[1480:6480] == MIXED.plains[1]


def test_all_chunks_make_the_image(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    assert not made.finish()
    MIXED.put(made, 4, 2, 1, 0)
    assert made.ready_bytes() == made.total_bytes
    assert made.read(0, MIXED.map.size) == MIXED.image
    assert made.finish() and made.complete and made.finish()
    assert made.read(100, MIXED.map.size) == MIXED.image[100:]
    assert sorted(os.listdir(tmp_path)) == ["complete", "image", "map", "ready", "writer"]
    assert (tmp_path / "image").read_bytes() == MIXED.image
    again = CachedLayer.open(str(tmp_path))  # while the other is open
    assert again.complete and again.map == MIXED.map
    assert again.missing(0, MIXED.map.size) == [] and again.chunk_ready(0) and again.has_granule(0)
    assert again.ready_bytes() == again.total_bytes
    assert again.read(0, MIXED.map.size) == MIXED.image
    again.put_chunk(0, MIXED.plains[0])
    again.flush()
    again.close()


def test_a_complete_image_needs_no_map(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    assert made.finish()
    os.unlink(tmp_path / "map")
    again = CachedLayer.open(str(tmp_path))
    assert (again.map.size, again.map.metadata, again.map.uuid) == (MIXED.map.size, MIXED.map.size, MIXED.map.uuid)
    assert again.read(0, MIXED.map.size) == MIXED.image
    again.close()


def test_nothing_is_lost_without_reason(tmp_path):
    for _ in range(2):
        with pytest.raises(CacheLost):
            CachedLayer.open(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheLost, match="no map"):
        CachedLayer.open(str(tmp_path / "empty"))


def test_what_was_flushed_is_there_again(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 2)
    made.flush()
    MIXED.put(made, 1)  # and not flushed
    made.close()
    again = opened(MIXED, tmp_path)
    assert [again.chunk_ready(number) for number in range(5)] == [True, False, True, False, False]
    assert again.ready_bytes() == 21000
    assert again.missing(0, MIXED.map.size) == [1, 4]
    assert again.read(8192, 20000) == MIXED.plains[0]
    assert again.read(8192 + 25481, 1000) == MIXED.plains[2][1500:2500]


@pytest.mark.parametrize(
    ("place", "chunk"),
    [(8192, 0), (8192 + 19999, 0), (8192 + 20480, 1), (8192 + 25481, 2), (8192 + 26480, 2), (8192 + 67441, 1)],
)
def test_a_byte_that_flipped_on_disk_is_fetched_again(tmp_path, opened, place, chunk):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    made.flush()
    made.close()
    with open(tmp_path / "partial", "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    again = opened(MIXED, tmp_path)
    with pytest.raises(ChunksMissing):
        again.read(place, 1)
    assert again.missing(0, MIXED.map.size) == [chunk]
    assert not again.chunk_ready(chunk)
    assert again.ready_bytes() < again.total_bytes
    assert not again.finish()
    MIXED.put(again, chunk)
    assert again.read(0, MIXED.map.size) == MIXED.image
    assert again.ready_bytes() == again.total_bytes
    assert again.finish()


def overwrite(path, place, data=b"damage"):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


def test_a_chunk_is_verified_once(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0)
    made.flush()
    made.close()
    again = opened(MIXED, tmp_path)
    MIXED.put(again, 1)
    looked, verify = [], CachedLayer._verify
    monkeypatch.setattr(CachedLayer, "_verify", lambda self, number: looked.append(number) or verify(self, number))
    for _ in range(2):
        assert again.read(8192, 25480) == MIXED.image[8192 : 8192 + 25480]
    assert looked == [0]


def test_a_damaged_chunk_that_is_put_while_it_is_verified_is_there(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0)
    made.flush()
    made.close()
    overwrite(tmp_path / "partial", 9000)
    again = opened(MIXED, tmp_path)
    read = datafile.DataFile.read

    def late(self, *args):
        monkeypatch.undo()
        data = read(self, *args)
        MIXED.put(again, 0)
        return data

    monkeypatch.setattr(datafile.DataFile, "read", late)
    assert again.missing(8192, 100) == []
    assert again.read(8192, 20000) == MIXED.plains[0]


def test_a_damaged_chunk_is_nothing_that_a_start_pack_has_to_answer_for(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0)
    made.flush()
    made.close()
    overwrite(tmp_path / "partial", 9000)
    again = opened(MIXED, tmp_path)
    again.put_granule(0, MIXED.granule(0))
    MIXED.put(again, 0)  # no GranulesDiffer
    assert again.read(0, GRANULE) == MIXED.granule(0)


def test_a_granule_of_which_a_part_was_read_is_not_there(tmp_path, opened):
    sample = plain_sample(8, size=GRANULE // 4)
    made = opened(sample, tmp_path)
    sample.put(made, 0, 2)
    assert made.missing(GRANULE, 100) == made.missing(GRANULE * 3 // 2, 100) == []
    assert made.missing(GRANULE, GRANULE) == [1, 3]


def test_finish_looks_at_what_an_earlier_process_left(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    made.flush()
    made.close()
    overwrite(tmp_path / "partial", 9000)
    again = opened(MIXED, tmp_path)
    assert not again.finish()
    assert again.missing(0, MIXED.map.size) == [0]


def damage_header(path):
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        os.unlink,
        damage_header,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(path.read_bytes()[:36] + b"\xff" + path.read_bytes()[37:]),
    ],
)
def test_bits_that_do_not_fit_say_that_nothing_is_there(tmp_path, opened, damage):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    made.flush()
    made.close()
    damage(tmp_path / "ready")
    again = opened(MIXED, tmp_path)
    assert again.ready_bytes() == 0
    assert again.missing(0, MIXED.map.size) == [0, 1, 2, 4]


def test_bits_that_claim_too_much_do_not_make_zeros_readable(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    made.flush()
    made.close()
    data = bytearray((tmp_path / "ready").read_bytes())
    data[36] = 0b11111
    (tmp_path / "ready").write_bytes(bytes(data))
    again = opened(MIXED, tmp_path)
    assert again.chunk_ready(0)
    assert again.missing(0, MIXED.map.size) == [0, 1, 2, 4]
    assert not again.finish()


def test_bits_are_written_after_the_data(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    steps = []
    sync, save = datafile.DataFile.sync, layer.readyfile.save
    monkeypatch.setattr(datafile.DataFile, "sync", lambda self, read=None: (steps.append("data"), sync(self, read)))
    monkeypatch.setattr(layer.readyfile, "save", lambda *args: (steps.append("bits"), save(*args)))
    MIXED.put(made, 0)
    made.flush()
    assert steps == ["data", "bits"]


def test_a_chunk_that_is_put_while_data_is_synced_has_no_bit_yet(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    sync = datafile.DataFile.sync

    def late(self, read=None):
        sync(self, read)
        MIXED.put(made, 1)

    MIXED.put(made, 0)
    monkeypatch.setattr(datafile.DataFile, "sync", late)
    made.flush()
    monkeypatch.setattr(datafile.DataFile, "sync", sync)
    made.close()
    again = opened(MIXED, tmp_path)
    assert again.chunk_ready(0) and not again.chunk_ready(1)


@pytest.mark.parametrize("size", [0, 9000, MIXED.map.size - 1, MIXED.map.size, MIXED.map.size + 8192])
def test_a_file_that_was_cut_is_never_read_again(tmp_path, opened, size):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1)
    assert made.read(8192, 100) == MIXED.plains[0][:100]
    os.truncate(tmp_path / "partial", size)
    with pytest.raises(CacheLost):
        made.read(8192, 100)
    os.truncate(tmp_path / "partial", MIXED.map.size + datafile.GUARD)  # too late
    for use in (
        lambda: made.read(8192, 100),
        lambda: made.missing(0, 1),
        lambda: MIXED.put(made, 2),
        lambda: made.put_granule(0, MIXED.granule(0)),
        made.flush,
    ):
        with pytest.raises(CacheLost):
            use()


def test_writing_does_not_give_a_file_that_was_cut_its_size_back(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    os.truncate(tmp_path / "partial", 0)
    for number in (0, 1, 2, 4):
        with pytest.raises(CacheLost):
            MIXED.put(made, number)
    assert os.stat(tmp_path / "partial").st_size == 0


def test_a_cut_right_before_writing_shows_at_the_next_read(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    check = datafile.DataFile.check

    def late(self):
        check(self)
        os.truncate(tmp_path / "partial", 0)

    monkeypatch.setattr(datafile.DataFile, "check", late)
    MIXED.put(made, 4)
    monkeypatch.setattr(datafile.DataFile, "check", check)
    with pytest.raises(CacheLost):
        made.read(0, 100)


def test_a_cut_while_reading_shows_at_once(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    pread = os.pread

    def late(*args):
        os.truncate(tmp_path / "partial", MIXED.map.size + datafile.GUARD - 1)
        return pread(*args)

    monkeypatch.setattr(datafile.os, "pread", late)
    with pytest.raises(CacheLost):
        made.read(0, 100)


@pytest.mark.parametrize("size", [0, 8192, MIXED.map.size - 4096, MIXED.map.size + 1])
def test_a_layer_that_was_cut_is_made_anew(tmp_path, opened, size):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0)
    made.flush()
    made.close()
    os.truncate(tmp_path / "partial", size)
    with pytest.raises(CacheLost):
        CachedLayer.open(str(tmp_path))
    again = opened(MIXED, tmp_path)
    assert again.missing(0, MIXED.map.size) == [0, 1, 2, 4]


def test_a_layer_with_damaged_metadata_is_made_anew(tmp_path, opened):
    opened(MIXED, tmp_path).close()
    with open(tmp_path / "partial", "r+b") as file:
        file.write(b"x")
    with pytest.raises(CacheLost, match="metadata"):
        CachedLayer.open(str(tmp_path))
    assert opened(MIXED, tmp_path).read(0, 8192) == MIXED.metadata


def test_a_file_that_is_deleted_serves_on(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    os.unlink(tmp_path / "partial")
    MIXED.put(made, 0, 1, 2, 4)
    assert made.read(0, MIXED.map.size) == MIXED.image
    made.flush()
    assert not made.finish()
    assert not (tmp_path / "image").exists()


def test_a_file_that_is_replaced_is_not_taken_for_this_one(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    (tmp_path / "other").write_bytes(bytes(MIXED.map.size + datafile.GUARD))
    os.rename(tmp_path / "other", tmp_path / "partial")
    with pytest.raises(CacheLost, match="replaced"):
        made.finish()
    assert not (tmp_path / "image").exists()
    with pytest.raises(CacheLost):
        made.read(0, 1)


def test_making_a_layer_twice_changes_nothing(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0)
    made.flush()
    before = os.stat(tmp_path / "partial").st_ino
    create_partial(str(tmp_path), MIXED.map, MIXED.metadata)
    assert os.stat(tmp_path / "partial").st_ino == before
    MIXED.put(made, 1, 2, 4)
    assert made.finish()
    create_partial(str(tmp_path), MIXED.map, MIXED.metadata)
    assert (tmp_path / "image").read_bytes() == MIXED.image


def test_an_image_that_was_cut_is_made_anew(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    assert made.finish()
    made.close()
    os.truncate(tmp_path / "image", MIXED.map.size - 1)
    with pytest.raises(CacheLost):
        CachedLayer.open(str(tmp_path))
    again = opened(MIXED, tmp_path)
    assert not again.complete
    assert again.missing(0, MIXED.map.size) == [0, 1, 2, 4]
    assert not (tmp_path / "image").exists()


def test_an_image_that_is_cut_while_it_is_open_is_lost(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    assert made.finish()
    os.truncate(tmp_path / "image", MIXED.map.size - 1)
    with pytest.raises(CacheLost):
        made.read(0, 10)


def test_the_map_of_another_image_is_not_taken(tmp_path):
    other = plain_sample()
    with pytest.raises(ValueError, match="not that of the map's image"):
        create_partial(str(tmp_path), MIXED.map.replace(uuid=bytes(16)), MIXED.metadata)
    with pytest.raises(ValueError, match="another image"):
        create_partial(str(tmp_path), MIXED.map, other.metadata)
    assert os.listdir(tmp_path) == []


def test_one_process_at_a_time_writes(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    monkeypatch.setattr(locks, "_WAIT", 0.1)
    with pytest.raises(CacheBusy):
        CachedLayer.open(str(tmp_path))
    made.close()
    made.close()
    opened(MIXED, tmp_path)


def test_what_this_process_put_is_not_verified_again(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1)
    made.flush()
    made.close()
    again = opened(MIXED, tmp_path)
    MIXED.put(again, 2, 4)
    looked, verify = [], CachedLayer._verify
    monkeypatch.setattr(CachedLayer, "_verify", lambda self, number: looked.append(number) or verify(self, number))
    assert again.finish()
    assert looked == [0, 1]


def test_the_bytes_of_a_chunk_as_far_as_the_image_has_them(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2)
    made.flush()
    made.close()
    overwrite(tmp_path / "partial", 9000)
    again = opened(MIXED, tmp_path)
    assert again.chunk_bytes(0) is None  # damaged
    assert again.chunk_bytes(1) == MIXED.plains[1]
    assert again.chunk_bytes(2) == bytes(1500) + MIXED.plains[2][1500:2500] + bytes(500)
    assert again.chunk_bytes(4) is None


def test_who_inspects_a_layer_needs_no_lock_and_changes_nothing(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2)
    made.flush()
    looking = CachedLayer.inspect(str(tmp_path))
    assert not looking.complete and looking.ready_bytes() == made.ready_bytes()
    assert looking.verify() == [] and looking.read(0, 28192) == MIXED.image[:28192]
    looking.flush()
    assert not looking.finish()
    MIXED.put(made, 4)
    assert made.finish()
    looking.close()
    looking = CachedLayer.inspect(str(tmp_path))
    assert looking.complete
    looking.close()
    with pytest.raises(CacheLost):
        CachedLayer.inspect(str(tmp_path / "none"))


def test_a_retired_layer_serves_on_and_another_one_writes(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0)
    made.flush()
    made.retire()
    again = opened(MIXED, tmp_path)
    MIXED.put(again, 1)
    again.flush()
    assert made.read(8192, 20000) == MIXED.plains[0]
    made.flush()
    assert not made.finish()
    again.close()
    assert opened(MIXED, tmp_path).chunk_ready(1)


def test_verifying_names_the_chunks_that_are_damaged(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    assert made.verify() == []
    made.flush()
    made.close()
    overwrite(tmp_path / "partial", 9000)
    overwrite(tmp_path / "partial", 8192 + 25481)
    again = opened(MIXED, tmp_path)
    assert again.verify() == [0, 2]
    assert again.verify() == [] and again.missing(0, MIXED.map.size) == [0, 2]
    MIXED.put(again, 0, 2)
    assert again.finish()
    again.close()
    overwrite(tmp_path / "image", 8192 + 25481)
    complete = opened(MIXED, tmp_path)
    assert complete.complete and complete.verify() == [2]


def test_a_writer_that_waited_finds_the_image_complete(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    found = []
    waiting = threading.Thread(target=lambda: found.append(CachedLayer.open(str(tmp_path))))
    waiting.start()
    assert made.finish()
    made.close()
    waiting.join(timeout=20)
    assert found and found[0].complete
    found[0].close()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("call", ["rename", "ftruncate"])
def test_a_process_that_is_killed_while_it_finishes_loses_nothing(tmp_path, opened, monkeypatch, call):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    made.flush()
    real = getattr(os, call)

    def killed(*args, **more):
        if call == "ftruncate":
            real(*args, **more)
        raise Killed

    monkeypatch.setattr(layer.os, call, killed)
    with pytest.raises(Killed):
        made.finish()
    monkeypatch.undo()
    made.close()
    again = opened(MIXED, tmp_path)
    assert again.missing(0, MIXED.map.size) == []
    assert again.read(0, MIXED.map.size) == MIXED.image
    assert again.finish()
    assert (tmp_path / "image").read_bytes() == MIXED.image


# Start packs


def test_a_granule_is_read_without_its_chunks(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    for number in range(-(-MIXED.map.size // GRANULE)):
        made.put_granule(number, MIXED.granule(number))
        assert made.has_granule(number)
    assert made.missing(0, MIXED.map.size) == []
    assert made.read(0, MIXED.map.size) == MIXED.image
    assert made.ready_bytes() == 0 and not made.chunk_ready(0) and not made.finish()
    MIXED.put(made, 0, 1, 2, 4)  # no GranulesDiffer
    assert made.finish()


def test_granules_are_forgotten_by_the_next_process(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    made.put_granule(1, MIXED.granule(1))
    made.flush()
    made.close()
    assert opened(MIXED, tmp_path).missing(GRANULE, GRANULE) == [0, 1]


def test_a_chunk_across_granules_needs_all_of_them(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    made.put_granule(0, MIXED.granule(0))
    assert made.missing(0, GRANULE) == []
    assert made.missing(0, GRANULE + 1) == [0]
    assert made.missing(GRANULE - 1, 2) == [0]
    assert not made.has_granule(1)


def test_a_granule_never_replaces_a_verified_chunk(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0)
    made.put_granule(1, b"\xee" * GRANULE)
    assert made.read(8192, 20000) == MIXED.plains[0]
    made.flush()
    made.close()
    again = opened(MIXED, tmp_path)
    again.put_granule(0, b"\xee" * GRANULE)
    assert again.read(8192, 20000) == MIXED.plains[0]


def test_a_granule_writes_neither_metadata_nor_padding(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    for number in range(-(-MIXED.map.size // GRANULE)):
        made.put_granule(number, b"\xee" * len(MIXED.granule(number)))
    assert made.read(0, 8192) == MIXED.metadata
    assert made.read(8192 + 20000, 480) == bytes(480)
    assert made.read(MIXED.map.size - 4096, 4096) == bytes(4096)
    assert made.read(8192, 4) == b"\xee" * 4


@pytest.mark.parametrize("number", [-1, 0, 4, 6, 7, 1 << 40])
def test_a_granule_has_its_size(tmp_path, opened, number):
    made = opened(plain_sample(4, tail=4096), tmp_path)
    for size in (0, 1, GRANULE - 1, GRANULE + 1):
        with pytest.raises(ValueError, match="granule"):
            made.put_granule(number, bytes(size))


def test_wrong_granules_are_replaced_and_told(tmp_path, opened):
    sample = plain_sample(4, size=GRANULE + 5000)
    made = opened(sample, tmp_path)
    wrong = bytearray(sample.granule(2))
    wrong[-1] ^= 1  # a byte of chunk 1
    made.put_granule(1, sample.granule(1))
    made.put_granule(2, wrong)
    made.put_granule(3, sample.granule(3))
    assert made.read(GRANULE, 3 * GRANULE) != sample.image[GRANULE : 4 * GRANULE]
    before = made.removals
    sample.put(made, 0)  # it is right about that one
    with pytest.raises(GranulesDiffer) as caught:
        sample.put(made, 1)
    assert caught.value.granules == (2,)
    assert made.removals > before
    assert made.chunk_ready(1)
    assert made.read(GRANULE, 2 * (GRANULE + 5000)) == sample.image[GRANULE : 3 * GRANULE + 10000]
    made.put_granule(2, wrong)
    assert made.read(2 * GRANULE, GRANULE) == sample.granule(2)


@pytest.mark.parametrize("when", ["reading", "looking"])
def test_a_wrong_granule_that_is_replaced_meanwhile_is_not_read(tmp_path, opened, monkeypatch, when):
    sample = plain_sample(8, size=GRANULE // 4)
    made = opened(sample, tmp_path)
    made.put_granule(1, b"\xee" * GRANULE)

    def meanwhile():
        monkeypatch.undo()
        with pytest.raises(GranulesDiffer):
            sample.put(made, 3)

    read, is_there = datafile.DataFile.read, CachedLayer._is_there
    if when == "reading":
        monkeypatch.setattr(datafile.DataFile, "read", lambda self, *args: (read(self, *args), meanwhile())[0])
    else:

        def late(self, extent):
            there = is_there(self, extent)
            if extent.chunk == 2:
                meanwhile()
            return there

        monkeypatch.setattr(CachedLayer, "_is_there", late)
        assert made.missing(GRANULE, GRANULE) == []
    with pytest.raises(ChunksMissing):
        made.read(GRANULE, GRANULE)


def test_the_rest_of_a_wrong_granule_is_missing(tmp_path, opened):
    sample = plain_sample(8, size=GRANULE // 4)
    made = opened(sample, tmp_path)
    made.put_granule(1, b"\xee" * GRANULE)
    assert made.missing(GRANULE, GRANULE) == []
    with pytest.raises(GranulesDiffer):
        sample.put(made, 2)
    assert made.missing(GRANULE, GRANULE) == [0, 1, 3]
    made.put_granule(1, b"\xee" * GRANULE)  # not twice
    assert made.missing(GRANULE, GRANULE) == [0, 1, 3]


def test_a_granule_does_not_hide_a_damaged_chunk(tmp_path, opened):
    sample = plain_sample(8, size=GRANULE // 4)
    made = opened(sample, tmp_path)
    sample.put(made, 0)
    made.flush()
    made.close()
    overwrite(tmp_path / "partial", GRANULE)
    again = opened(sample, tmp_path)
    again.put_granule(1, sample.granule(1))
    assert again.missing(GRANULE, GRANULE) == [0, 1, 2, 3]
    sample.put(again, 0)
    again.put_granule(1, sample.granule(1))
    assert again.read(GRANULE, GRANULE) == sample.granule(1)


# A disk that is full


class FullAfter:
    """pwrite(2) on a disk with room for some bytes."""

    def __init__(self, room):
        self.room = room

    def __call__(self, descriptor, data, offset):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = REAL_PWRITE(descriptor, data[: self.room], offset)
        self.room -= written
        return written


REAL_PWRITE = os.pwrite


@pytest.mark.parametrize("room", [0, 1, 3000, 4999, 5000, 7000])
def test_a_full_disk_leaves_consistent_marks(tmp_path, opened, monkeypatch, room):
    made = opened(MIXED, tmp_path)
    monkeypatch.setattr(datafile.os, "pwrite", FullAfter(room))
    with pytest.raises(DiskFull):
        MIXED.put(made, 1)  # 10,000 bytes at two places
    assert not made.chunk_ready(1) and made.ready_bytes() == 0
    assert made.missing(0, MIXED.map.size) == [0, 1, 2, 4]
    with pytest.raises(DiskFull):
        made.put_granule(1, MIXED.granule(1))
    assert not made.has_granule(1)
    monkeypatch.undo()
    MIXED.put(made, 0, 1, 2, 4)
    assert made.read(0, MIXED.map.size) == MIXED.image


def test_a_full_disk_does_not_hide_a_wrong_granule(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    made.put_granule(2, b"\xee" * GRANULE)
    monkeypatch.setattr(datafile.os, "pwrite", FullAfter(0))
    with pytest.raises(GranulesDiffer):
        MIXED.put(made, 2)
    assert not made.chunk_ready(2) and not made.has_granule(2)


def test_data_that_cannot_be_made_durable_is_lost(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0)

    def fail(_descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(datafile.os, "fdatasync", fail)
    with pytest.raises(CacheLost, match="durable"):
        made.flush()
    monkeypatch.undo()
    with pytest.raises(CacheLost):
        made.read(0, 10)
    made.close()
    assert not opened(MIXED, tmp_path).chunk_ready(0)


def test_a_chunk_has_its_size(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    for plain in (b"", MIXED.plains[0][:-1], MIXED.plains[0] + b"x"):
        with pytest.raises(ValueError, match="chunk 0 has 20000 bytes"):
            made.put_chunk(0, plain)
    assert not made.chunk_ready(0)


# Any order


@st.composite
def layers(draw):
    sizes = draw(st.lists(st.integers(1, 30_000), min_size=1, max_size=5))
    extents = []
    for _ in range(draw(st.integers(1, 8))):
        chunk = draw(st.integers(0, len(sizes) - 1))
        offset = draw(st.integers(0, sizes[chunk] - 1))
        length = draw(st.integers(1, sizes[chunk] - offset))
        extents.append((draw(st.sampled_from([0, 0, 1, 700, 4096, 30_000])), length, chunk, offset))
    return make_sample(sizes, extents, metadata=draw(st.integers(1, 6)) * 4096, tail=draw(st.sampled_from([0, 9000])))


@given(layers(), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_in_whatever_order_only_right_bytes_come_out(tmp_path_factory, sample, data):
    directory = tmp_path_factory.mktemp("layer")
    made = sample.open(directory)
    granules = -(-sample.map.size // GRANULE)
    needed = {extent.chunk for extent in sample.map.blocks}
    step = st.one_of(
        st.tuples(st.just("chunk"), st.integers(0, len(sample.plains) - 1)),
        st.tuples(st.just("granule"), st.integers(0, granules - 1)),
        st.tuples(st.just("read"), st.integers(0, sample.map.size), st.integers(0, 40_000)),
        st.tuples(st.just("again")),
    )
    try:
        there = set()
        for what, *numbers in data.draw(st.lists(step, max_size=25)):
            if what == "chunk":
                sample.put(made, *numbers)
                there.update(numbers)
            elif what == "granule":
                made.put_granule(numbers[0], sample.granule(numbers[0]))
                assert made.has_granule(numbers[0])
            elif what == "again":
                made = reopened(made, sample, directory)
            else:
                offset, length = numbers
                for number in made.missing(offset, length):
                    assert number in needed - there
                    sample.put(made, number)
                    there.add(number)
                assert made.read(offset, length) == sample.image[offset : offset + length]
            assert made.ready_bytes() == sum(e.length for e in sample.map.blocks if e.chunk in there)
        sample.put(made, *needed)
        assert made.finish()
        assert (directory / "image").read_bytes() == sample.image
    finally:
        made.close()


def test_many_threads_get_the_right_bytes(tmp_path, opened):
    sample = plain_sample(64, size=GRANULE // 3 * 2)
    made = opened(sample, tmp_path)
    wrong = []
    granules = -(-sample.map.size // GRANULE)

    def fetch(first):
        for number in range(first, 64, 2):
            sample.put(made, number)
            if number % 16 == first:
                made.flush()

    def pack():
        for number in range(granules):
            made.put_granule(number, sample.granule(number))

    def look(start):
        offset = start
        while offset < sample.map.size:
            try:
                data = made.read(offset, 9000)
            except ChunksMissing as missing:
                sample.put(made, *missing.numbers)
                continue
            if data != sample.image[offset : offset + 9000]:
                wrong.append(offset)
            offset += 3001

    threads = [threading.Thread(target=fetch, args=(0,)), threading.Thread(target=fetch, args=(1,))]
    threads += [threading.Thread(target=pack), *(threading.Thread(target=look, args=(n,)) for n in range(4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert made.finish()
    assert (tmp_path / "image").read_bytes() == sample.image


def test_the_image_is_read_on_while_its_guard_is_cut_off(tmp_path, opened, monkeypatch):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    ftruncate = os.ftruncate

    def between(*args):
        assert made.read(0, MIXED.map.size) == MIXED.image
        ftruncate(*args)
        assert made.read(0, MIXED.map.size) == MIXED.image

    monkeypatch.setattr(datafile.os, "ftruncate", between)
    assert made.finish()


def test_threads_read_on_while_the_image_is_finished(tmp_path, opened):
    made = opened(MIXED, tmp_path)
    MIXED.put(made, 0, 1, 2, 4)
    ended, failed = threading.Event(), []

    def look():
        while not ended.is_set():
            try:
                if made.read(0, MIXED.map.size) != MIXED.image:
                    failed.append("wrong bytes")
            except CacheLost as error:
                failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert made.finish()
    ended.set()
    for thread in threads:
        thread.join(timeout=20)
    assert failed == []
