"""Owns the file `ready` of a layer that a node has in part: which chunks are in its data file, durably.

    header      magic, UUID of the image, number of chunks, number of parted chunks, CRC-32 of these
    bits        one for each chunk, the lowest bit of the first byte for chunk 0
    digests     32 bytes for each parted chunk: SHA-256 of what the image has of it, all else zeros

A hint: each chunk is compared with its digest before its first use. A file that does not fit says that nothing is
there.
"""

import struct
import zlib
from bisect import bisect_left
from collections.abc import Sequence

from envkit.cache.bits import Bits
from envkit.cache.datafile import read_small
from envkit.cache.mapfile import StoredMap
from envkit.drivers.files import write_atomic

READY = "ready"
DIGEST = 32
_MAX_READY = 1 << 28
_HEADER = struct.Struct("<8s16sII")
_CRC = struct.Struct("<I")
_MAGIC = b"envkitrd"


class Digests:
    """Digests of what an image has of its parted chunks; zeros where none is known."""

    def __init__(self, parted: Sequence[int], data: bytes = b"") -> None:
        self._parted = parted
        self._data = bytearray(data or len(parted) * DIGEST)

    def __contains__(self, number: int) -> bool:
        place = bisect_left(self._parted, number)
        return place < len(self._parted) and self._parted[place] == number

    def __getitem__(self, number: int) -> bytes:
        return bytes(self._data[self._slice(number)])

    def __setitem__(self, number: int, digest: bytes) -> None:
        self._data[self._slice(number)] = digest

    def unknown(self) -> list[int]:
        """Return the numbers of the parted chunks of which no digest is known."""
        return [number for number in self._parted if not any(self[number])]

    def to_bytes(self) -> bytes:
        return bytes(self._data)

    def _slice(self, number: int) -> slice:
        place = bisect_left(self._parted, number)
        return slice(place * DIGEST, (place + 1) * DIGEST)


def save(directory: str, stored: StoredMap, bits: bytes, digests: bytes) -> None:
    """Write the file, durable and in one step.

    :raises DiskFull: there is no room for it.
    """
    write_atomic(f"{directory}/{READY}", _header(stored) + bits + digests)


def load(directory: str, stored: StoredMap) -> tuple[Bits, Digests]:
    """Return the bits and digests, all zeros where the file is not there or does not fit."""
    count = len(stored.map.chunks)
    data = read_small(f"{directory}/{READY}", _MAX_READY)
    header = _header(stored)
    end = len(header) + len(Bits(count).to_bytes())
    if data is not None and data.startswith(header) and len(data) == end + len(stored.parted) * DIGEST:
        try:
            return Bits.from_bytes(data[len(header) : end], count), Digests(stored.parted, data[end:])
        except ValueError:  # bits behind the last one
            pass
    return Bits(count), Digests(stored.parted)


def _header(stored: StoredMap) -> bytes:
    header = _HEADER.pack(_MAGIC, stored.map.uuid, len(stored.map.chunks), len(stored.parted))
    return header + _CRC.pack(zlib.crc32(header))
