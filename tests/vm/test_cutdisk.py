"""A disk that loses power: what was flushed is there, what was not may be gone, and QEMU's own client can talk to it."""

import random
import subprocess

import pytest
from vm.cutdisk import SECTOR, Disk

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


def content(disk, path, seed):
    disk.snapshot(path, random.Random(seed))
    return path.read_bytes()


def test_what_was_flushed_survives_every_cut(disk, tmp_path):
    said = io(disk, "write -P 1 0 64k", "write -P 2 64k 64k", "flush", "read -P 1 0 64k", "read -P 2 64k 64k")
    assert "failed" not in said
    for seed in range(20):
        data = content(disk, tmp_path / "cut", seed)
        assert (data[:65536], data[65536:131072]) == (b"\1" * 65536, b"\2" * 65536)
    assert disk.lost == 0


def test_what_was_not_flushed_is_seen_and_may_be_lost_in_part(disk, tmp_path):
    said = io(
        disk, "write -P 1 0 128k", "flush", *(f"write -P 2 {at}k 4k" for at in range(0, 128, 4)), "read -P 2 0 128k"
    )
    assert "failed" not in said
    found = {content(disk, tmp_path / "cut", seed)[:131072] for seed in range(30)}
    assert len(found) > 5
    assert all(set(data[at : at + SECTOR]) in ({1}, {2}) for data in found for at in range(0, 131072, SECTOR))
    assert any(len(set(data[at : at + 4096])) == 2 for data in found for at in range(0, 131072, 4096)), "none was torn"


def test_after_a_cut_the_next_machine_sees_what_is_left(disk, tmp_path):
    io(disk, "write -P 1 0 64k", "flush", "write -P 2 0 64k")
    seed = next(seed for seed in range(100) if content(disk, tmp_path / "cut", seed)[0] == 1)
    disk.cut(random.Random(seed))
    assert "failed" not in io(disk, "read -P 1 0 512")


def test_a_moment_between_two_writes_can_be_caught(disk, tmp_path):
    io(disk, "write -P 1 0 64k", "flush")
    disk.after(3, lambda: disk.snapshot(tmp_path / "cut", random.Random(1)))
    io(disk, *(f"write -P {2 + number} {4 * number}k 4k" for number in range(5)), "flush")
    assert not disk.waits
    data = (tmp_path / "cut").read_bytes()
    assert disk.lost + disk.kept == 3
    assert data[3 * 4096] == data[4 * 4096] == 1, "what came later is there"
