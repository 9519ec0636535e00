"""A guest that cannot boot says so, and leaves nothing; what needs a real boot is in `scripts/vm`."""

import os
import struct

import pytest
from commandline import PATIENCE
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


def kernel(says, *, ends=True):
    """Return a kernel of a few instructions: it writes to the serial port, and resets the machine or waits for ever."""
    image = bytearray(2048)
    image[0x1F1] = 1  # sectors of setup code, beside the first
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x211] = struct.pack("<2s4sH9x", b"\xeb\x3e", b"HdrS", 0x203)  # a jump to 0x240
    image[0x211] = 1  # loaded high
    image[0x22C:0x230] = struct.pack("<I", 0x37FFFFFF)
    wait = "f4 eb fd"  # hlt; jmp to it
    code = f"fc be 60 02 ac 84 c0 74 06 ba f8 03 ee eb f5 {'b0 fe e6 64' if ends else ''} {wait}"
    image[0x240 : 0x240 + len(bytes.fromhex(code))] = bytes.fromhex(code)
    image[0x260 : 0x260 + len(says)] = says
    return bytes(image)


def boots(directory):
    """Return how often the kernel began."""
    return (directory / "console.log").read_bytes().count(b"begun")


def test_a_boot_that_panics_is_tried_again_and_told(unbootable, tmp_path, capfd):
    (tmp_path / "kernel").write_bytes(kernel(b"begun\r\nKernel panic - not syncing: IO-APIC + timer\r\n"))
    with unbootable as guest, pytest.raises(GuestFailed, match="IO-APIC"):
        guest.boot(attempts=3)
    assert boots(tmp_path) == 3
    assert capfd.readouterr().err.count("the boot panicked, tried again") == 2


def test_a_boot_that_hangs_is_tried_again_and_told(unbootable, tmp_path, capfd):
    (tmp_path / "kernel").write_bytes(kernel(b"begun\r\n", ends=False))
    with unbootable as guest, pytest.raises(GuestFailed, match="was not up within"):
        guest.boot(patience=PATIENCE / 4, attempts=2)
    assert boots(tmp_path) == 2
    assert capfd.readouterr().err.count("the boot hung, tried again") == 1


def test_a_machine_that_ends_without_a_panic_is_not_tried_again(unbootable, tmp_path):
    (tmp_path / "kernel").write_bytes(kernel(b"begun\r\n"))
    with unbootable as guest, pytest.raises(GuestFailed, match="the guest ended"):
        guest.boot(attempts=3)
    assert boots(tmp_path) == 1
