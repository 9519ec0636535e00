"""Owns a cached layer while it is open: which bytes of its image can be read now, and putting in what was fetched.

Bytes come in two ways. A chunk is verified, and final. A granule from a start pack is there until its chunks are; if
these turn out to have other bytes, they replace it and whoever put them in is told. A chunk that an earlier process
left is verified before its first use. Wherever that leads, no byte is read that was not put there.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Container, Iterable, Sequence

from envkit.cache import mapfile, readyfile
from envkit.cache.bits import Bits
from envkit.cache.complete import IMAGE, MAP, Completed, complete_image, write_mark
from envkit.cache.datafile import GUARD, DataFile, sync_file
from envkit.cache.errors import CacheBusy, CacheLost, ChunksMissing, GranulesDiffer
from envkit.cache.extents import GRANULE, assembled, granules_of
from envkit.cache.locks import writer_lock
from envkit.cache.mapfile import IndexedBlocks, LayerMap, StoredMap
from envkit.cache.partial import create_partial, open_partial
from envkit.drivers.files import io_error, sync_directory
from envkit.model.blockmap import Extent

__all__ = [
    "GRANULE",
    "CacheBusy",
    "CacheLost",
    "CachedLayer",
    "ChunksMissing",
    "GranulesDiffer",
    "LayerMap",
    "create_partial",
]


class CachedLayer:
    """What this node has of one layer. Safe in several threads, except for `close`; one process at a time writes it.

    :ivar map: what the image is made of; of an image that came without a map, all is metadata.
    :ivar complete: everything is there, and stays.
    :ivar total_bytes: how many bytes of the image come from chunks.
    :ivar removals: how often a granule was taken away. Who gives bytes on to the kernel looks at it before reading and
        after giving them: if it has changed, they may have been wrong.
    """

    def __init__(
        self, directory: str, stored: StoredMap, data: DataFile, *, complete: bool = False, writer: int | None = None
    ) -> None:
        """Take over what `open` has opened; `writer` is the descriptor that holds the lock of the one who writes."""
        self.directory = directory
        self.map = stored.map
        self.complete = complete
        self.total_bytes = stored.blocks.covered
        self._blocks = stored.blocks
        self._stored = stored
        self._data = data
        self._writer = writer
        self._map_durable = False
        # `_lock` guards the marks and every write; `_flushing` lets one flush end before the next begins.
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        chunks = len(stored.map.chunks)
        self._ready, self._digests = readyfile.load(directory, stored)
        if self.complete:
            self._ready.add_all()
            for number in self._digests.unknown():
                self._ready.discard(number)  # there is nothing to compare it with
        self._verified = Bits(chunks)
        granules = -(-stored.map.size // GRANULE)
        self._from_pack = Bits(granules)
        self._distrusted: set[int] = set()
        self._trusting = True
        # Granules that were found to be there, to look only once.
        self._known = Bits(granules)
        self.removals = 0
        self._ready_bytes = stored.blocks.covered_by(self._ready)

    @classmethod
    def open(cls, directory: str) -> "CachedLayer":
        """Open the complete image if there is one, else what there is of it, as the only one who writes it.

        :raises CacheLost: there is nothing, or it is damaged.
        :raises CacheBusy: another process writes it, and has not ended within some seconds.
        """
        completed = complete_image(directory)
        if completed is not None:
            return cls._open_complete(directory, completed)
        with contextlib.ExitStack() as opened:
            writer = writer_lock(directory)
            opened.callback(os.close, writer)
            completed = complete_image(directory)  # the writer before may have finished it
            if completed is not None:
                return cls._open_complete(directory, completed)
            stored, data = open_partial(directory, writable=True)
            opened.callback(data.close)
            data.resize(stored.map.size + GUARD)
            layer = cls(directory, stored, data, writer=writer)
            opened.pop_all()
            return layer

    @classmethod
    def inspect(cls, directory: str) -> "CachedLayer":
        """Open what there is of a layer to look at it; nothing may be put into it.

        :raises CacheLost: there is nothing, or it is damaged.
        """
        completed = complete_image(directory)
        if completed is not None:
            return cls._open_complete(directory, completed)
        return cls(directory, *open_partial(directory, writable=False))

    @classmethod
    def _open_complete(cls, directory: str, completed: Completed) -> "CachedLayer":
        data = DataFile(directory, IMAGE, (completed.size,), writable=False)
        try:
            stored = mapfile.load(directory)
        except CacheLost:
            stored = None
        if stored is None or (stored.map.uuid, stored.map.size) != (completed.uuid, completed.size):
            blocks = IndexedBlocks()
            layer_map = LayerMap(
                size=completed.size, metadata=completed.size, uuid=completed.uuid, blocks=blocks, chunks=()
            )
            stored = StoredMap(map=layer_map, blocks=blocks, metadata_digest=b"", parted=())
        return cls(directory, stored, data, complete=True)

    def missing(self, offset: int, length: int) -> list[int]:
        """Return the chunks that must be fetched before this range can be read, ascending, each once.

        :raises CacheLost: the data file was cut or cannot be read.
        """
        self._data.check()
        end = min(offset + length, self.map.size)
        if self.complete or end <= offset:
            return []
        first, stop = offset // GRANULE, -(-end // GRANULE)
        if self._known.all_in(first, stop):
            return []
        removed = self.removals
        numbers = {extent.chunk for extent in self._blocks.lookup(offset, end - offset) if not self._is_there(extent)}
        if not numbers:
            # Only granules of which all was looked at.
            whole = range(-(-offset // GRANULE), stop if end == self.map.size else end // GRANULE)
            with self._lock:
                if self.removals == removed:
                    for granule in whole:
                        self._known.add(granule)
        return sorted(numbers)

    def read(self, offset: int, length: int, *, besides: Container[int] = ()) -> bytes:
        """Return a range of the image, cut at its end.

        :param besides: chunks that the caller has; where they go, anything may be returned.
        :raises ChunksMissing: something in it has to be fetched first.
        :raises CacheLost: the data file was cut or cannot be read.
        """
        while True:
            removals = self.removals
            numbers = [number for number in self.missing(offset, length) if number not in besides]
            if numbers:
                raise ChunksMissing(self.directory, numbers)
            data = self._data.read(offset, max(0, min(length, self.map.size - offset)))
            if removals == self.removals:
                return data

    def put_chunk(self, number: int, plain: "bytes | memoryview") -> None:
        """Write a chunk, verified by the caller, to all its places.

        :raises GranulesDiffer: granules from a start pack had other bytes; they have the right ones now, but what was
            read of them before was wrong.
        :raises DiskFull: there is no room; the chunk is not there then.
        :raises CacheLost: the data file was cut or cannot be written.
        """
        if len(plain) != self.map.chunks[number].size:
            raise ValueError(f"chunk {number} has {self.map.chunks[number].size} bytes, not {len(plain)}")
        extents = self._blocks.of_chunk(number)
        view = memoryview(plain)
        with self._lock:
            self._data.check()
            if self.complete or self._verified[number]:
                return
            # What an earlier process left was not read unless verified, so only what a pack brought is compared.
            differing = set() if self._ready[number] else self._differing(extents, view)
            self._forget(differing)
            self._distrusted |= differing
            try:
                for extent in extents:
                    self._data.write(extent.image_offset, view[extent.offset : extent.offset + extent.length])
            except Exception as error:
                if differing:
                    raise GranulesDiffer(self.directory, sorted(differing)) from error
                raise
            self._note_digest(number, extents, view)
            if not self._ready[number]:
                self._ready.add(number)
                self._ready_bytes += sum(extent.length for extent in extents)
            self._verified.add(number)
        if differing:
            raise GranulesDiffer(self.directory, sorted(differing))

    def put_granule(self, number: int, data: "bytes | memoryview") -> None:
        """Write what a start pack has of a granule, wherever no chunk is there yet.

        Only bytes that come from chunks are written: padding and metadata are not the pack's business. A granule of
        which a pack has brought wrong bytes is not taken again.

        :raises DiskFull: there is no room; the granule is not there then.
        :raises CacheLost: the data file was cut or cannot be written.
        """
        start = number * GRANULE
        if number < 0 or len(data) != min(GRANULE, self.map.size - start):
            raise ValueError(f"granule {number} has {min(GRANULE, self.map.size - start)} bytes, not {len(data)}")
        view = memoryview(data)
        with self._lock:
            self._data.check()
            if self.complete or not self._trusting or self._from_pack[number] or number in self._distrusted:
                return
            for extent in self._blocks.lookup(start, len(data)):
                if not self._ready[extent.chunk]:
                    place = extent.image_offset - start
                    self._data.write(extent.image_offset, view[place : place + extent.length])
            self._from_pack.add(number)

    def distrust_granules(self) -> None:
        """Take away all that start packs have brought and no chunk has confirmed; nothing of them is taken any more."""
        with self._lock:
            self._trusting = False
            self._forget([granule for granule in range(-(-self.map.size // GRANULE)) if self._from_pack[granule]])

    def has_granule(self, number: int) -> bool:
        """Tell whether every byte of a granule can be read now."""
        return not self.missing(number * GRANULE, GRANULE)

    def chunk_ready(self, number: int) -> bool:
        """Tell whether a chunk is there; one that an earlier process left may still turn out to be damaged."""
        return self.complete or self._ready[number]

    def chunk_bytes(self, number: int) -> bytearray | None:
        """Return what the image has of a chunk, zeros for the rest of it; None if it is not there or damaged.

        :raises CacheLost: the data file was cut or cannot be read.
        """
        if not self._ready[number] or not (self._verified[number] or self._verify(number)):
            return None
        extents = self._blocks.of_chunk(number)
        return assembled(self.map.chunks[number].size, extents, self._pieces(extents))

    def ready_bytes(self) -> int:
        """Return how many bytes of the image are there from chunks."""
        return self.total_bytes if self.complete else self._ready_bytes

    def flush(self, read: Sequence[tuple[int, int]] | None = None) -> None:
        """Make what was put before durable, then say on disk that it is there.

        :param read: the ranges whose memory is not needed any more; None: all of it.
        :raises DiskFull: there is no room to say it.
        :raises CacheLost: the data cannot be made durable, or another file has its name.
        """
        with self._flushing:
            self._flush(read)

    def finish(self, read: Sequence[tuple[int, int]] | None = None) -> bool:
        """Make the complete image if every chunk is there; return whether there is one now.

        Chunks that an earlier process left are verified first, so this can take a while.

        :param read: as `flush`.
        :raises DiskFull: there is no room for the mark.
        :raises CacheLost: as `flush`.
        """
        with self._flushing:
            if self.complete:
                return True
            if self._ready_bytes < self.total_bytes or self.verify() or not self._flush(read):
                return False
            write_mark(self.directory, self.map.size, self.map.uuid)
            self._data.resize(self.map.size)
            self._data.sync(read)
            try:
                os.rename(self._data.path, f"{self.directory}/{IMAGE}")
                sync_directory(self.directory)
            except FileNotFoundError:  # somebody removes the directory; this file serves on
                pass
            except OSError as error:
                raise io_error(f"finish the image in {self.directory}", error) from error
            self.complete = True
            return True

    def retire(self) -> None:
        """Let another object write the layer. Whoever uses this one may go on; the last of them closes its file."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            os.close(writer)

    def verify(self) -> list[int]:
        """Compare all chunks that are there with their digests; return those that are damaged, and count as missing.

        Those that this process has put or compared before are not looked at again.

        :raises CacheLost: the data file was cut or cannot be read.
        """
        left = [number for number in sorted(self._blocks.needed()) if not self._verified[number]]
        return [number for number in left if self._ready[number] and not self._verify(number)]

    def close(self) -> None:
        """Close the files and let another process write; nobody may be using this object.

        What was not flushed is fetched again.
        """
        self._data.close()
        self.retire()

    def _is_there(self, extent: Extent) -> bool:
        """Tell whether an extent, or a part of one, can be read: its chunk is there, or a start pack brought it."""
        if self._verified[extent.chunk]:
            return True
        # A chunk that was there is never overwritten by a start pack: if it is damaged, so is the granule.
        if self._ready[extent.chunk]:
            return self._verify(extent.chunk)
        granules = granules_of(extent)
        return self._from_pack.all_in(granules.start, granules.stop)

    def _verify(self, number: int) -> bool:
        """Compare a chunk that an earlier process left with its digest; one that is damaged counts as missing."""
        extents = self._blocks.of_chunk(number)
        pieces = self._pieces(extents)
        plain = memoryview(assembled(self.map.chunks[number].size, extents, pieces))
        same = all(
            plain[extent.offset : extent.offset + extent.length] == piece
            for extent, piece in zip(extents, pieces, strict=True)
        )
        digest = hashlib.sha256(plain).digest()
        with self._lock:
            if self._verified[number]:  # put meanwhile
                return True
            if not self._ready[number]:  # another thread has found the same
                return False
            expected = self._digests[number] if number in self._digests else self.map.chunks[number].digest
            if same and digest == expected:
                self._verified.add(number)
                return True
            self._ready.discard(number)
            self._ready_bytes -= sum(extent.length for extent in extents)
            self._forget({granule for extent in extents for granule in granules_of(extent)})
            return False

    def _pieces(self, extents: Iterable[Extent]) -> list[bytes]:
        return [self._data.read(extent.image_offset, extent.length) for extent in extents]

    def _note_digest(self, number: int, extents: list[Extent], plain: memoryview) -> None:
        """Remember the digest of what the image has of a chunk, if that is not all of it."""
        if number in self._digests:
            pieces = [plain[extent.offset : extent.offset + extent.length] for extent in extents]
            self._digests[number] = hashlib.sha256(assembled(len(plain), extents, pieces)).digest()

    def _differing(self, extents: list[Extent], plain: memoryview) -> set[int]:
        """Return the granules from a start pack that have other bytes than the chunk that is put."""
        found = set()
        for extent in extents:
            for granule in granules_of(extent):
                if self._from_pack[granule]:
                    start = max(extent.image_offset, granule * GRANULE)
                    stop = min(extent.image_offset + extent.length, (granule + 1) * GRANULE)
                    place = extent.offset + start - extent.image_offset
                    if self._data.read(start, stop - start) != plain[place : place + stop - start]:
                        found.add(granule)
        return found

    def _forget(self, granules: Iterable[int]) -> None:
        for granule in granules:
            self._from_pack.discard(granule)
            self._known.discard(granule)
            self.removals += 1

    def _flush(self, read: Sequence[tuple[int, int]] | None) -> bool:
        """Flush; return False if there is nothing to flush to, as the file has lost its name."""
        if self.complete:
            return True
        if self._writer is None:
            return False
        with self._lock:
            self._data.check()
            bits, digests = self._ready.to_bytes(), self._digests.to_bytes()
        self._data.sync(read)
        if not self._data.is_named():
            return False
        if not self._map_durable:
            sync_file(f"{self.directory}/{MAP}")
            self._map_durable = True
        readyfile.save(self.directory, self._stored, bits, digests)
        return True
