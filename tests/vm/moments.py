"""Owns the moments of a disk: everything that was written to it, in order, and what a power cut at each moment leaves.

Between two flushes a disk may have brought any of the writes to their places, of some only single sectors. So one run of
a machine has as many moments to look at as it made writes, and none of them costs it any time.
"""

import contextlib
import os
import subprocess

SECTOR = 512

_KEPT = (0.0, 0.1, 0.5, 0.9, 1.0)


class History:
    """What was written to a disk since it began. Moment n comes after the n-th write or flush."""

    def __init__(self, durable, unflushed, path):
        """:param durable: the file of what no cut can take; it is copied to `path`. `unflushed` are writes as (offset, data)."""
        self._path = path
        self._events = list(unflushed)
        self._flushed = 0
        copy(durable, path)

    def __len__(self):
        return len(self._events)

    def wrote(self, offset, data):
        """Note a write."""
        self._events.append((offset, data))

    def flushed(self):
        """Note a flush: what came before it is there for good."""
        self._events.append(None)

    def leave(self, moment, path, rng):
        """Write to a new file what a cut at this moment leaves. Moments have to be asked for in their order."""
        assert moment >= self._flushed
        before = self._events[:moment]
        flush = max((number + 1 for number, event in enumerate(before) if event is None), default=0)
        with open(self._path, "r+b", buffering=0) as file:
            for event in before[self._flushed : flush]:
                if event is not None:
                    put(file.fileno(), event[1], event[0])
        self._flushed = max(self._flushed, flush)
        # A new file: the one before may still be mounted in the namespace of some process that ends just now.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        copy(self._path, path)
        with open(path, "r+b", buffering=0) as file:
            return lose(file.fileno(), before[flush:], rng)


def lose(file, writes, rng):
    """Let some of the unflushed writes come through: any of them, and of some only single sectors.

    :returns: how many were lost, in part or whole.
    """
    share = rng.choice(_KEPT)
    lost = 0
    for offset, data in writes:
        if rng.random() < share:
            put(file, data, offset)
            continue
        lost += 1
        if share and rng.random() < 0.1:
            for start in range(0, len(data), SECTOR):
                if rng.random() < 0.5:
                    put(file, data[start : start + SECTOR], offset + start)
    return lost


def put(file, data, offset):
    """Write all of it at its place; `file` is a descriptor."""
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done


def copy(source, target):
    """Copy a file with its holes; into the target's inode, which may be open."""
    subprocess.run(["cp", "--sparse=always", "--", source, target], check=True)


@contextlib.contextmanager
def in_memory(directory):
    """A context in which a new directory is in memory: a disk that is flushed hundreds of times waits for no other."""
    os.mkdir(directory)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=4g", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        # Lazily: what was mounted from its files may still be so in the namespace of some process that ends just now.
        subprocess.run(["umount", "--lazy", directory], check=True)
        os.rmdir(directory)
