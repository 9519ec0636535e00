"""Owns what outlives a killed image server: the requests that it had read, and what it knew of the layers it serves.

Both lie in one piece of shared memory, a memfd that the holder keeps. The kernel writes a request straight into a slot,
so there is no moment at which a server has taken a request and nobody knows of it; the slot is cleared after the
answer. The next server answers what it finds in the slots: on every kernel, also those before 6.9, which cannot send a
request again (FUSE_NOTIFY_RESEND). An answer too many does no harm, the kernel drops it.

    header page        which of the two state areas counts: one byte, so that a kill leaves the old state or the new;
                       and whether the server meant to end, and whether it is to stay: a byte each
    2 state areas      length, CRC-32, JSON
    slots              one request each
"""

import json
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping

from envkit.drivers import fuse

SLOTS = 256
STATE_BYTES = 8 << 20
_PAGE = 4096
_HEAD = struct.Struct("<II")
_SLOT_BYTES = 2 * fuse.MIN_READ_BUFFER
_SIZE = _PAGE + 2 * STATE_BYTES + SLOTS * _SLOT_BYTES


def create_journal() -> int:
    """Return the descriptor of a new, empty journal."""
    descriptor = os.memfd_create("envkit-images")
    os.ftruncate(descriptor, _SIZE)
    return descriptor


class Journal:
    """The shared memory as the server sees it. One process uses it at a time, with any number of threads."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE)
        view = memoryview(self._memory)
        first = _PAGE + 2 * STATE_BYTES
        self.slots = [view[first + n * _SLOT_BYTES : first + (n + 1) * _SLOT_BYTES] for n in range(SLOTS)]
        self._state = threading.Lock()

    def left(self) -> Iterator[tuple[int, fuse.Request]]:
        """Yield (slot, request) of what a server before this one read and did not answer."""
        for number, slot in enumerate(self.slots):
            request = fuse.request_in(slot)
            if request is not None:
                yield number, request
            else:
                fuse.clear_request(slot)

    def clear(self, slot: int) -> None:
        """Forget the request in a slot: it has been answered."""
        fuse.clear_request(self.slots[slot])

    @property
    def ended(self) -> bool:
        """Whether the server has ended because nobody needed it any more."""
        return self._memory[1] != 0

    def end(self) -> None:
        """Say that the server ends because nobody needs it any more."""
        self._memory[1] = 1

    @property
    def kept(self) -> bool:
        """Whether the server is to stay when nobody needs it."""
        return self._memory[2] != 0

    def keep(self) -> None:
        """Have the server stay when nobody needs it."""
        self._memory[2] = 1

    def load(self) -> dict[str, object]:
        """Return the state that was stored last; empty where there is none."""
        start = self._area(self._memory[0])
        length, crc = _HEAD.unpack_from(self._memory, start)
        data = self._memory[start + _HEAD.size : start + _HEAD.size + min(length, STATE_BYTES - _HEAD.size)]
        if not length or zlib.crc32(data) != crc:
            return {}
        state = json.loads(data)
        return state if isinstance(state, dict) else {}

    def store(self, state: Mapping[str, object]) -> None:
        """Replace the state in one step.

        :raises ValueError: it is too large.
        """
        data = json.dumps(state, separators=(",", ":")).encode()
        if len(data) > STATE_BYTES - _HEAD.size:
            raise ValueError(f"the state of the image server has {len(data)} bytes")
        with self._state:
            other = 1 - (self._memory[0] & 1)
            start = self._area(other)
            _HEAD.pack_into(self._memory, start, len(data), zlib.crc32(data))
            self._memory[start + _HEAD.size : start + _HEAD.size + len(data)] = data
            self._memory[0] = other

    @staticmethod
    def _area(number: int) -> int:
        return _PAGE + (number & 1) * STATE_BYTES
