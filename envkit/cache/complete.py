"""Owns the mark beside an image that is complete: which size and which UUID it has. On the path of `envkit run`."""

import os
import struct

from envkit.cache.datafile import open_regular, read_small
from envkit.drivers.files import write_atomic
from envkit.model.record import Record

BLOCK = 4096
IMAGE = "image"
MAP = "map"
MARK = "complete"

_FORMAT = "envkit-image-1"
_MAX_MARK = 256
_MAGIC = 0xE0F5E1E2
_SUPERBLOCK_OFFSET = 1024
# Of fs/erofs/erofs_fs.h: magic; number of blocks at 36; UUID at 48.
_SUPERBLOCK = struct.Struct("<I32xI8x16s")


class Completed(Record):
    """A complete image: its bytes, and the UUID in its superblock."""

    size: int
    uuid: bytes


def complete_image(directory: str) -> Completed | None:
    """Return what is known of a layer's complete image; None if there is none, or not with its full size."""
    try:
        descriptor = open_regular(f"{directory}/{IMAGE}")
    except OSError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        found = superblock_facts(os.pread(descriptor, BLOCK, 0))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    # Earlier versions of envkit wrote no mark. They gave an image its name when it was complete, so the size that
    # its superblock tells is enough.
    if found is None or found.size != size or (_read_mark(directory) or found) != found:
        return None
    return found


def has_place(directory: str) -> bool:
    """Tell whether there is something of a layer: its complete image, or the map that its content is fetched by."""
    return any(os.path.exists(f"{directory}/{name}") for name in (MAP, IMAGE))


def superblock_facts(start: bytes) -> Completed | None:
    """Return the size and UUID that an image's first block tells; None if it does not begin as EROFS images do."""
    if len(start) < _SUPERBLOCK_OFFSET + _SUPERBLOCK.size:
        return None
    magic, blocks, uuid = _SUPERBLOCK.unpack_from(start, _SUPERBLOCK_OFFSET)
    return Completed(size=blocks * BLOCK, uuid=uuid) if magic == _MAGIC else None


def write_mark(directory: str, size: int, uuid: bytes) -> None:
    """Say which size and UUID the complete image has; before the image gets its name."""
    write_atomic(f"{directory}/{MARK}", f"{_FORMAT} {size} {uuid.hex()}\n".encode("ascii"))


def _read_mark(directory: str) -> Completed | None:
    words = (read_small(f"{directory}/{MARK}", _MAX_MARK) or b"").decode("ascii", "replace").split()
    if len(words) != 3 or words[0] != _FORMAT or not words[1].isdecimal() or len(words[2]) != 32:
        return None
    try:
        return Completed(size=int(words[1]), uuid=bytes.fromhex(words[2]))
    except ValueError:
        return None
