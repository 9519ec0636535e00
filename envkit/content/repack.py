"""Owns packs made of ready frames: what one store has compressed goes into packs of another one as it is.

Nothing is compressed again, and nothing passes unchecked: a frame is unpacked and its chunk's SHA-256 compared before
it is handed on. Knows no store.
"""

import hashlib
from collections.abc import Iterable, Sequence

from envkit.content.pack import HEADER_SIZE, PACK_TARGET, Put, header
from envkit.content.reader import unpack_chunk
from envkit.errors import Damaged
from envkit.model.tree import Chunk


class DamagedPack(Damaged):
    """A pack is not what its digest promises; `problem` completes the sentence."""

    def __init__(self, digest: bytes, problem: str) -> None:
        super().__init__(
            f"pack {digest.hex()} is damaged: {problem}",
            resolution="`envkit verify` shows which environments use it",
        )
        self.digest = digest


class FramePacker:
    """Gathers frames in the order in which they come, and hands packs on when they are full.

    The same frames give the same packs, so that a copy that is repeated finds what the first try sent.
    """

    def __init__(self, put: Put, *, epoch: int = 0, target: int = PACK_TARGET) -> None:
        self._put = put
        self._header = header(epoch)
        self._target = target
        self._places: dict[bytes, Chunk] = {}
        self._begin()

    def _begin(self) -> None:
        self._chunks: list[Chunk] = []
        self._frames = [self._header]
        self._size = HEADER_SIZE

    def add(self, chunk: Chunk, frame: bytes) -> None:
        """Take a chunk's frame, which is known to be good."""
        self._chunks.append(chunk)
        self._frames.append(frame)
        self._size += len(frame)
        if self._size >= self._target:
            self._seal()

    def finish(self) -> dict[bytes, Chunk]:
        """Hand on what is left; return the new places of all chunks by digest."""
        if self._chunks:
            self._seal()
        return self._places

    def _seal(self) -> None:
        digest = hashlib.sha256()
        for data in self._frames:
            digest.update(data)
        offset = HEADER_SIZE
        for chunk, frame in zip(self._chunks, self._frames[1:], strict=True):
            self._places[chunk.digest] = Chunk(chunk.digest, chunk.size, digest.digest(), offset, len(frame))
            offset += len(frame)
        self._put(digest.hexdigest(), self._frames)
        self._begin()


def pack_epoch(data: bytes) -> int | None:
    """Return the epoch that a pack's header names, or None if it does not begin with one."""
    start = data[:HEADER_SIZE]
    epoch = int.from_bytes(start[8:], "little")
    return epoch if start == header(epoch) else None


def is_whole(places: Iterable[tuple[int, int]], size: int) -> bool:
    """Tell whether places (offset, stored bytes) are all that a pack of this size holds, with no byte of it left."""
    end = HEADER_SIZE
    for offset, stored in sorted(places):
        if offset != end:
            return False
        end += stored
    return end == size


def frames_of(data: bytes, start: int, chunks: Sequence[Chunk]) -> list[bytes]:
    """Return the frames of chunks from the bytes that their pack has from `start`, each unpacked and verified.

    :raises DamagedChunk: one of them is not its chunk's.
    """
    frames = []
    for chunk in chunks:
        frame = data[chunk.offset - start : chunk.offset - start + chunk.stored]
        unpack_chunk(chunk, frame)
        frames.append(frame)
    return frames


def check_pack(digest: bytes, data: bytes) -> None:
    """Check that these are the bytes of a pack.

    :raises DamagedPack: its digest is another one.
    """
    if hashlib.sha256(data).digest() != digest:
        raise DamagedPack(digest, "its content has another digest")
