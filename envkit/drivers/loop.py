"""Owns loop devices: how an image file is mounted where the kernel cannot mount files (EROFS before 6.12)."""

import errno
import fcntl
import os
import struct

LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16

_ATTEMPTS = 64


def attach(image: str) -> tuple[int, str]:
    """Give a file a read-only loop device that goes away with its last user.

    :returns: descriptor of the device, to be closed after mounting, and the device's path.
    :raises OSError: no device could be had.
    """
    backing = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            path = f"/dev/loop{number}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, _config(backing))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # EBUSY: another process took this number first
                    raise
                continue
            return device, path
        raise OSError(errno.EBUSY, "no free loop device", image)
    finally:
        os.close(control)
        os.close(backing)


def _config(backing: int) -> bytes:
    """Return struct loop_config: fd, block size, struct loop_info64 with only its flags set, reserved words."""
    # Direct: pages of the image would be in memory twice, as its own and as those of the files in it. Where the file
    # system cannot, the kernel does without.
    flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO
    info = struct.pack("=QQQQQIIII64s64s32sQQ", 0, 0, 0, 0, 0, 0, 0, 0, flags, b"", b"", b"", 0, 0)
    return struct.pack("=II", backing, 4096) + info + bytes(64)
