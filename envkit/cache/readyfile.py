"""Owns the file `ready` of a layer that a node has in part: which chunks are in its data file, durably.

    header      magic, UUID of the image, number of chunks, number of parted chunks, CRC-32 of these
    bits        one for each chunk, the lowest bit of the first byte for chunk 0
    digests     32 bytes for each parted chunk: SHA-256 of what the image has of it, all else zeros

A hint: each chunk is compared with its digest before its first use. A file that does not fit says that nothing is
there.
"""

import struct
import zlib

from envkit.cache.bits import Bits
from envkit.cache.datafile import read_small
from envkit.drivers.files import write_atomic
from envkit.model.record import Record

READY = "ready"
DIGEST = 32
_MAX_READY = 1 << 28
_HEADER = struct.Struct("<8s16sII")
_CRC = struct.Struct("<I")
_MAGIC = b"envkitrd"


class Shape(Record):
    """What a layer's file must fit: the image's UUID, the numbers of its chunks and of its parted chunks."""

    uuid: bytes
    chunks: int
    parted: int


def save(directory: str, shape: Shape, bits: bytes, digests: bytes) -> None:
    """Write the file, durable and in one step.

    :raises DiskFull: there is no room for it.
    """
    write_atomic(f"{directory}/{READY}", _header(shape) + bits + digests)


def load(directory: str, shape: Shape) -> tuple[Bits, bytearray]:
    """Return the bits and digests, all zeros where the file is not there or does not fit."""
    data = read_small(f"{directory}/{READY}", _MAX_READY)
    header = _header(shape)
    end = len(header) + len(Bits(shape.chunks).to_bytes())
    if data is not None and data.startswith(header) and len(data) == end + shape.parted * DIGEST:
        try:
            return Bits.from_bytes(data[len(header) : end], shape.chunks), bytearray(data[end:])
        except ValueError:  # bits behind the last one
            pass
    return Bits(shape.chunks), bytearray(shape.parted * DIGEST)


def _header(shape: Shape) -> bytes:
    header = _HEADER.pack(_MAGIC, shape.uuid, shape.chunks, shape.parted)
    return header + _CRC.pack(zlib.crc32(header))
