"""A disk that loses power: what was flushed is there, what was not may be gone, and QEMU's own client can talk to it."""

import random
import subprocess

import pytest
from vm.cutdisk import Disk
from vm.moments import SECTOR

pytestmark = pytest.mark.qemu

SIZE = 4 << 20


@pytest.fixture
def disk(tmp_path):
    with Disk(str(tmp_path), SIZE) as made:
        yield made


def io(disk, *commands):
    """Run commands of qemu-io, and kill it in the end, since it would flush on its way out."""
    words = [word for command in (*commands, "sigraise 9") for word in ("-c", command)]
    url = f"driver=nbd,server.type=unix,server.path={disk.socket}"
    done = subprocess.run(["qemu-io", "-t", "writeback", "--image-opts", url, *words], capture_output=True, text=True)
    assert done.returncode == -9, done
    return done.stdout


def content(history, moment, path, seed):
    history.leave(moment, path, random.Random(seed))
    return path.read_bytes()


def test_what_was_flushed_survives_every_cut(disk, tmp_path):
    history = disk.record()
    said = io(disk, "write -P 1 0 64k", "write -P 2 64k 64k", "flush", "read -P 1 0 64k", "read -P 2 64k 64k")
    assert "failed" not in said
    for seed in range(20):
        data = content(history, len(history), tmp_path / "cut", seed)
        assert (data[:65536], data[65536:131072]) == (b"\1" * 65536, b"\2" * 65536)
    disk.cut(random.Random(1))
    assert (disk.lost, disk.kept) == (0, 0)


def test_what_was_not_flushed_is_seen_and_may_be_lost_in_part(disk, tmp_path):
    history = disk.record()
    said = io(
        disk, "write -P 1 0 128k", "flush", *(f"write -P 2 {at}k 4k" for at in range(0, 128, 4)), "read -P 2 0 128k"
    )
    assert "failed" not in said
    found = {content(history, len(history), tmp_path / "cut", seed)[:131072] for seed in range(30)}
    assert len(found) > 5
    assert all(set(data[at : at + SECTOR]) in ({1}, {2}) for data in found for at in range(0, 131072, SECTOR))
    assert any(len(set(data[at : at + 4096])) == 2 for data in found for at in range(0, 131072, 4096)), "none was torn"


def test_at_a_moment_between_two_writes_what_comes_later_is_not_there(disk, tmp_path):
    history = disk.record()
    io(disk, "write -P 1 0 64k", "flush", *(f"write -P {2 + number} {4 * number}k 4k" for number in range(5)), "flush")
    assert len(history) == 1 + 1 + 5 + 1
    found = [content(history, moment, tmp_path / "cut", 1) for moment in range(2, 9)]
    for come, data in enumerate(found[:-1]):
        assert all(data[4096 * later] == 1 for later in range(come, 5))
    assert [found[-1][4096 * number] for number in range(5)] == [2, 3, 4, 5, 6]


def test_what_a_disk_had_not_flushed_when_a_history_begins_can_be_lost_too(disk, tmp_path):
    io(disk, "write -P 1 0 64k")
    history = disk.record()
    assert {content(history, 1, tmp_path / "cut", seed)[0] for seed in range(20)} == {0, 1}


def test_after_a_cut_the_next_machine_sees_what_is_left(disk):
    io(disk, "write -P 1 0 64k", "flush", "write -P 2 0 64k")
    disk.cut(Nothing())
    assert "failed" not in io(disk, "read -P 1 0 64k")


def test_something_can_be_done_in_the_middle_of_writes(disk):
    seen = []
    disk.after(3, lambda: seen.append(len(history)))
    history = disk.record()
    io(disk, *(f"write -P {2 + number} {4 * number}k 4k" for number in range(5)), "flush")
    assert seen == [3]
    assert not disk.waits


class Nothing(random.Random):
    """Chance by which nothing comes through that was not flushed."""

    def choice(self, _):
        return 0.0
