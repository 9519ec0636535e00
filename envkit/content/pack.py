"""Owns packs: chunks are hashed, compressed and gathered in the order in which they came, and handed on when full.

A pack begins with a skippable zstd frame that holds the epoch of the store: what is written again after a collection
has another digest than the pack that may be under deletion. Within an epoch the same chunks give the same packs, so
that a save that is repeated finds what the first try stored.

Hashing and compression run in a few threads (both let go of the interpreter lock), storing in others; the result is
the same for any number of them. Knows no store: `put` is one, `known` says what need not be stored again.
"""

import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import local
from types import TracebackType
from typing import Self

from envkit.content import frame
from envkit.model.tree import Chunk

PACK_TARGET = 16 << 20
"""A pack is full with this many bytes; with its last chunk it stays below 32 MiB. Three of them are in memory."""
_UPLOADS = 2
_PATIENCE = 3.0  # seconds for uploads under way when the work is interrupted
_BATCH = 1 << 20  # bytes of chunks that go through a thread together: handing over costs as much as hashing 100 kB
_AHEAD = 2  # batches a thread may be ahead, in hashing and in compression

# Skippable frames begin with one of sixteen magic numbers and the length of what follows.
_HEADER = struct.Struct("<IIQ")
_SKIPPABLE = 0x184D2A5E

Put = Callable[[str, Sequence[bytes]], object]
"""Stores the frames of a pack under its digest in hexadecimal. Called from other threads, several at once."""
HEADER_SIZE = _HEADER.size
Plain = bytes | memoryview
Known = Callable[[Sequence[bytes]], Mapping[bytes, Chunk]]
"""Returns where those of some chunks, given by their digests, lie that the store has already."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What came of the chunks.

    `chunks` is the chunk table of the tree, each content once. `numbers[n]` is the number in it of what the n-th `add`
    or `reuse` gave. `new` are those chunks that were stored, `stored` the bytes of their packs. `reused` names the
    packs of the others, by digest in hexadecimal, with the bytes that they must have at least: they have to be looked
    for before the save counts.
    """

    chunks: list[Chunk]
    numbers: list[int]
    new: list[Chunk]
    stored: int
    reused: dict[str, int]


@dataclass(kw_only=True, slots=True)
class _New:
    """A chunk of this writer on its way: `pack` counts this writer's packs."""

    digest: bytes
    size: int
    pack: int = -1
    offset: int = 0
    stored: int = 0


@dataclass
class _OpenPack:
    """A pack that is being filled: its frames, the header's first."""

    frames: list[bytes]
    size: int = HEADER_SIZE


class PackWriter:
    """Takes chunks one by one. Memory is bounded: about 80 MB.

    A context manager that ends its threads: who leaves it without an error has everything stored.
    """

    def __init__(
        self,
        put: Put,
        *,
        known: Known = lambda digests: {},
        epoch: int = 0,
        level: int | None = None,
        threads: int | None = None,
        target: int = PACK_TARGET,
    ) -> None:
        self._put = put
        self._known = known
        self._level = level
        self._target = target
        self._header = header(epoch)
        self._threads = threads or min(8, len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="envkit-pack")
        self._uploads = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="envkit-put")
        self._compressors = local()
        self._batch: list[Plain] = []
        self._batched = 0
        self._hashing: deque[Chunk | tuple[list[Plain], Future[list[bytes]]]] = deque()
        self._compressing: deque[tuple[list[_New], Future[list[bytes]]]] = deque()
        self._uploading: deque[Future[None]] = deque()
        self._rows: list[Chunk | _New] = []
        self._places: dict[bytes, int] = {}
        self._numbers: list[int] = []
        self._added = 0
        self._open = _OpenPack([self._header])
        self._packs: list[Future[bytes]] = []
        self._stored = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._collect(0)
        except BaseException as failure:
            kind = type(failure)
            raise
        finally:
            # Who was interrupted does not wait for the retries of a store that is out of reach.
            interrupted = kind is not None and not issubclass(kind, Exception)
            for pool in (self._pool, self._uploads):
                pool.shutdown(wait=not interrupted, cancel_futures=True)
            if interrupted:
                wait([upload for upload in self._uploading if not upload.cancelled()], timeout=_PATIENCE)

    def add(self, plain: Plain) -> int:
        """Take a chunk and return its place in the order; errors of earlier chunks come out here, too."""
        self._batch.append(plain)
        self._batched += len(plain)
        if self._batched >= _BATCH:
            self._hand_over()
            self._advance(self._threads * _AHEAD)
        self._added += 1
        return self._added - 1

    def reuse(self, chunk: Chunk) -> int:
        """Take a chunk that the store has; return its place in the order. It has to be looked for as `Packed` says."""
        self._hand_over()
        if self._hashing:
            self._hashing.append(chunk)
            self._advance(self._threads * _AHEAD)
        else:
            self._register_stored(chunk)
        self._added += 1
        return self._added - 1

    def finish(self) -> Packed:
        """Return where everything will be: all packs have their names, but the last ones may still be on their way."""
        self._hand_over()
        self._advance(0)
        self._seal()
        packs = [pack.result() for pack in self._packs]
        chunks = [row if isinstance(row, Chunk) else _placed(row, packs) for row in self._rows]
        reused: dict[bytes, int] = {}
        for row in self._rows:
            if isinstance(row, Chunk):
                reused[row.pack] = max(reused.get(row.pack, 0), row.offset + row.stored)
        new = [chunk for chunk, row in zip(chunks, self._rows, strict=True) if chunk is not row]
        self._rows, self._places = [], {}  # as large as all that comes of them
        needed = {pack.hex(): size for pack, size in reused.items()}
        return Packed(chunks=chunks, numbers=self._numbers, new=new, stored=self._stored, reused=needed)

    def _hand_over(self) -> None:
        """Have the chunks hashed that were added since the last time."""
        if self._batch:
            self._hashing.append((self._batch, self._pool.submit(_digests, self._batch)))
            self._batch, self._batched = [], 0

    def _advance(self, ahead: int) -> None:
        """Move chunks on, in order, until at most `ahead` batches are left in each stage."""
        while len(self._hashing) > ahead:
            first = self._hashing.popleft()
            if isinstance(first, Chunk):
                self._register_stored(first)
            else:
                self._register(first[0], first[1].result())
        while len(self._compressing) > ahead:
            rows, compressed = self._compressing.popleft()
            for row, data in zip(rows, compressed.result(), strict=True):
                self._append(row, data)

    def _register(self, batch: list[Plain], digests: list[bytes]) -> None:
        """Give chunks their rows in the table, and compress those that are new to this writer and to the store."""
        rows: list[_New] = []
        plains: list[Plain] = []
        fresh = list(dict.fromkeys(digest for digest in digests if digest not in self._places))
        known = self._known(fresh) if fresh else {}
        for plain, digest in zip(batch, digests, strict=True):
            place = self._places.get(digest)
            if place is None:
                place = self._places[digest] = len(self._rows)
                there = known.get(digest)
                if there is not None and there.digest == digest and there.size == len(plain):
                    self._rows.append(there)
                else:
                    row = _New(digest=digest, size=len(plain))
                    self._rows.append(row)
                    rows.append(row)
                    plains.append(plain)
            self._numbers.append(place)
        if rows:
            self._compressing.append((rows, self._pool.submit(self._compress, plains)))

    def _register_stored(self, chunk: Chunk) -> None:
        place = self._places.setdefault(chunk.digest, len(self._rows))
        if place == len(self._rows):
            self._rows.append(chunk)
        self._numbers.append(place)

    def _append(self, row: _New, data: bytes) -> None:
        row.pack, row.offset, row.stored = len(self._packs), self._open.size, len(data)
        self._open.frames.append(data)
        self._open.size += len(data)
        if self._open.size >= self._target:
            self._seal()

    def _seal(self) -> None:
        """End the open pack and have it stored."""
        if len(self._open.frames) > 1:
            self._collect(_UPLOADS - 1)
            digest = self._pool.submit(_digest, self._open.frames)
            self._packs.append(digest)
            self._uploading.append(self._uploads.submit(self._upload, digest, self._open.frames))
            self._stored += self._open.size
            self._open = _OpenPack([self._header])

    def _collect(self, left: int) -> None:
        """Wait until at most `left` packs are on their way to the store; errors of the others come out here."""
        while len(self._uploading) > left:
            # Taken out when it is done only: who is interrupted in here waits for it as for the others.
            self._uploading[0].result()
            self._uploading.popleft()

    def _upload(self, digest: Future[bytes], frames: list[bytes]) -> None:
        self._put(digest.result().hex(), frames)

    def _compress(self, plains: list[Plain]) -> list[bytes]:
        if not hasattr(self._compressors, "own"):
            made = frame.chunk_compressor() if self._level is None else frame.compressor(self._level)
            self._compressors.own = made
        return [self._compressors.own.compress(plain) for plain in plains]


def header(epoch: int) -> bytes:
    """Return what a pack of an epoch begins with; zstd itself skips it."""
    return _HEADER.pack(_SKIPPABLE, 8, epoch)


def _digests(plains: list[Plain]) -> list[bytes]:
    return [hashlib.sha256(plain).digest() for plain in plains]


def _digest(frames: list[bytes]) -> bytes:
    digest = hashlib.sha256()
    for data in frames:
        digest.update(data)
    return digest.digest()


def _placed(row: _New, packs: Sequence[bytes]) -> Chunk:
    return Chunk(row.digest, row.size, packs[row.pack], row.offset, row.stored)
