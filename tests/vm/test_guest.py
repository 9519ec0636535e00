"""A guest that cannot boot says so, and leaves nothing; what needs a real boot is in `scripts/vm`."""

import os

import pytest
from vm.guest import Guest, GuestFailed
from vm.image import Image

pytestmark = pytest.mark.qemu


@pytest.fixture
def unbootable(tmp_path, monkeypatch):
    """A guest of an image whose kernel is none."""
    monkeypatch.setenv("ENVKIT_TEST_DIR", str(tmp_path))
    for name in ("disk", "kernel", "initrd"):
        (tmp_path / name).write_bytes(b"nothing" * 1000)
    return Guest(Image(str(tmp_path)), log=str(tmp_path), memory=64)


def test_a_machine_that_does_not_start_says_why_and_leaves_nothing(unbootable, tmp_path):
    with unbootable as guest, pytest.raises(GuestFailed, match="kernel"):
        guest.boot()
    assert not guest.running
    assert sorted(os.listdir(tmp_path)) == ["console.log", "disk", "initrd", "kernel"]


def test_a_guest_that_is_off_takes_no_commands(unbootable):
    with unbootable as guest, pytest.raises(GuestFailed, match="is off"):
        guest.run("true")
