"""Owns moving layers from one store to another: what the destination lacks, and in which form it goes.

A pack of which everything is needed goes as it is. Otherwise the frames that the destination lacks go into new packs,
not compressed again. Every byte that is sent was unpacked and verified before. A layer keeps its digest where all its
packs went as they are; else its tree is written anew, with the new places.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from types import TracebackType
from typing import Self

from envkit.content import treefile
from envkit.content.errors import DamagedChunk, DamagedTree
from envkit.content.pack import HEADER_SIZE
from envkit.content.reader import spans
from envkit.content.repack import DamagedPack, FramePacker, check_pack, frames_of, is_whole, pack_epoch
from envkit.drivers.crash import crash_point
from envkit.errors import Damaged
from envkit.model.progress import Step
from envkit.model.tree import Chunk, Tree
from envkit.model.version import LayerRef
from envkit.services.context import Context
from envkit.services.layers import layer_tree
from envkit.services.publishing import Writer
from envkit.store.base import Store
from envkit.store.index import ChunkIndex
from envkit.store.layout import pack_key
from envkit.store.objects import get_tree, pack_ranges, put_tree
from envkit.store.parallel import each

_MAX_WHOLE = 48 << 20  # larger packs than ours are taken apart
_READERS = 2
_SENDERS = 3
"""Requests under way; with what waits for its turn, and whole packs, some 250 MB."""


class DamagedSource(Damaged):
    """What is to be copied is damaged where it is."""

    def __init__(self, url: str, error: Damaged) -> None:
        super().__init__(f"{error.brief} (in the store {url})", details=error.details, resolution=error.resolution)


@dataclass
class Plan:
    """How chunks get to the destination.

    :ivar whole: packs that are there or go as they are, with their sizes; `to_send` those of them that have to go, or
        that are there with nothing yet that tells what is in them.
    :ivar places: by digest, where chunks are or will be in the destination.
    :ivar lacking: by digest, where chunks are in the source that go into new packs.
    """

    whole: dict[bytes, int] = field(default_factory=dict)
    to_send: dict[bytes, list[Chunk]] = field(default_factory=dict)
    places: dict[bytes, Chunk] = field(default_factory=dict)
    lacking: dict[bytes, Chunk] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """How much has to be sent, trees left out."""
        return sum(self.whole[pack] for pack in self.to_send) + sum(c.stored for c in self.lacking.values())


class Mover:
    """Moves layers of the configured store to the writer's."""

    def __init__(self, context: Context, writer: Writer, index: ChunkIndex) -> None:
        self._context = context
        self._source = context.store
        self._writer = writer
        self._target = writer.store
        self._index = index
        self.sent = 0
        self._put_here: set[str] = set()
        self._lock = Lock()

    def plan(self, layers: Iterable[str]) -> Plan:
        """Return how the chunks of layers, given by their digests, get to the destination."""
        packs: dict[bytes, dict[Chunk, None]] = {}
        for digest in layers:
            for chunk in self._tree(digest).chunks:
                packs.setdefault(chunk.pack, {})[chunk] = None
        there = self._there(chunk for chunks in packs.values() for chunk in chunks)
        plan = Plan()
        decided = each(lambda pack: self._whole(pack, list(packs[pack]), there), packs)
        for (pack, chunks), found in zip(packs.items(), decided, strict=True):
            if found is not None:
                size, is_there = found
                plan.whole[pack] = size
                if not is_there:
                    plan.to_send[pack] = list(chunks)
                plan.places |= {chunk.digest: chunk for chunk in chunks}
        for chunks in packs.values():
            for chunk in chunks:
                place = plan.places.get(chunk.digest) or there.get(chunk.digest)
                (plan.lacking if place is None else plan.places)[chunk.digest] = place or chunk
        return plan

    def move(self, layer: LayerRef, plan: Plan, step: Step) -> LayerRef:
        """Send what the destination lacks of a layer; on return it is durable, and so is all that it refers to.

        :raises PacksMissing: notes on what the destination has were wrong; plan again after forgetting them.
        :raises DamagedSource: the source does not have what it promises; names it.
        """
        tree = self._tree(layer.tree)
        self._send(tree, plan, step)
        crash_point("copy:packs")
        rows = [chunk if chunk.pack in plan.whole else plan.places[chunk.digest] for chunk in tree.chunks]
        kept = rows == tree.chunks and self._may_keep(tree.epoch, layer.tree)
        moved = tree if kept else Tree(tree.format, tree.entries, rows, self._writer.epoch)
        digest = self._put_tree(moved)
        crash_point("copy:tree")
        needed: dict[str, int] = {}
        for chunk in rows:
            pack = chunk.pack.hex()
            if pack not in self._put_here:
                needed[pack] = max(needed.get(pack, 0), chunk.offset + chunk.stored)
        self._writer.verify(needed)
        self._index.learn(digest, rows)
        return layer.replace(tree=digest)

    def _tree(self, digest: str) -> Tree:
        with _of(self._source):
            return layer_tree(self._context, digest)

    def _may_keep(self, epoch: int, digest: str) -> bool:
        """Tell whether an object that another store made may be here under its digest.

        Not with an epoch that is yet to come: it could be condemned before that, and then what this store writes in
        that epoch could have the key of what is under deletion.
        """
        return epoch <= self._writer.epoch and self._writer.may_store(digest)

    def _there(self, chunks: Iterable[Chunk]) -> dict[bytes, Chunk]:
        """Return where chunks are in the destination, of those that it has."""
        sizes = {chunk.digest: chunk.size for chunk in chunks}
        found = self._index.find(sizes)
        return {
            digest: chunk
            for digest, chunk in found.items()
            if chunk.size == sizes[digest] and self._writer.may_reuse(chunk)
        }

    def _whole(self, pack: bytes, chunks: list[Chunk], there: dict[bytes, Chunk]) -> tuple[int, bool] | None:
        """Return a pack's size and whether it is there, if it can be in the destination as it is."""
        size = max(chunk.offset + chunk.stored for chunk in chunks)
        if size > _MAX_WHOLE or not is_whole({(chunk.offset, chunk.stored) for chunk in chunks}, size):
            return None
        key = pack_key(pack.hex())
        found = self._target.size(key)
        if found == size and all(there.get(chunk.digest) == chunk for chunk in chunks):
            return size, True  # `there` has only what may be reused
        if found is None and any(chunk.digest in there for chunk in chunks):
            return None
        if found not in (None, size) or self._source.size(key) != size:
            return None
        epoch = pack_epoch(self._source.get_range(key, 0, HEADER_SIZE))
        return (size, False) if epoch is not None and self._may_keep(epoch, pack.hex()) else None

    def _send(self, tree: Tree, plan: Plan, step: Step) -> None:
        whole = {chunk.pack: None for chunk in tree.chunks if chunk.pack in plan.to_send}
        lacking = {c.digest: plan.lacking[c.digest] for c in tree.chunks if c.digest in plan.lacking}
        jobs: list[_Job] = [_Job(pack, 0, plan.whole[pack], plan.to_send[pack], whole=True) for pack in whole]
        jobs += _span_jobs(lacking.values())
        with _Sender(lambda digest, frames: self._put(digest, frames, step)) as sender:
            packer = FramePacker(sender.put, epoch=self._writer.epoch)
            for job, frames in each(lambda job: (job, self._fetch(job)), jobs, requests=_READERS):
                if job.whole:
                    sender.put(job.pack.hex(), frames)
                else:
                    for chunk, frame in zip(job.chunks, frames, strict=True):
                        packer.add(chunk, frame)
            plan.places |= packer.finish()
            sender.finish()
        for pack in whole:
            del plan.to_send[pack]
        for digest in lacking:
            del plan.lacking[digest]

    def _fetch(self, job: "_Job") -> list[bytes]:
        """Return the verified frames of a job, or the whole pack in one piece."""
        with _of(self._source):
            data = pack_ranges(self._source)(job.pack.hex(), job.start, job.end - job.start)
            if job.whole:
                check_pack(job.pack, data)
            frames = frames_of(data, job.start, job.chunks)
        return [data] if job.whole else frames

    def _put(self, digest: str, frames: Sequence[bytes], step: Step) -> None:
        key, size = pack_key(digest), sum(map(len, frames))
        if self._target.put_if_absent(key, frames):
            with self._lock:
                self.sent += size
        elif self._target.size(key) != size:
            raise DamagedPack(bytes.fromhex(digest), f"it has another length in the store {self._target.url}")
        self._put_here.add(digest)
        step.advance(size)
        crash_point("copy:pack")

    def _put_tree(self, tree: Tree) -> str:
        digest, data = treefile.encode(tree)
        if put_tree(self._target, digest, data):
            self.sent += len(data)
        else:
            with _of(self._target):
                treefile.decode(get_tree(self._target, digest), digest)
        return digest


@dataclass(frozen=True)
class _Job:
    """A range of a pack to read, and the chunks in it."""

    pack: bytes
    start: int
    end: int
    chunks: list[Chunk]
    whole: bool


def _span_jobs(chunks: Iterable[Chunk]) -> Iterator[_Job]:
    """Yield what to read for some chunks: packs in the order in which they come first, neighbours at once."""
    by_pack: dict[bytes, list[Chunk]] = {}
    for chunk in chunks:
        by_pack.setdefault(chunk.pack, []).append(chunk)
    for table in by_pack.values():
        for span in spans(table, range(len(table))):
            yield _Job(span.pack, span.start, span.end, [table[number] for number in span.numbers], whole=False)


class _Sender:
    """Puts packs by several threads, with as many waiting as memory allows; a context manager."""

    def __init__(self, put: Callable[[str, Sequence[bytes]], None]) -> None:
        self._put = put
        self._pool = ThreadPoolExecutor(_SENDERS, thread_name_prefix="envkit-put")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def put(self, digest: str, frames: Sequence[bytes]) -> None:
        self._wait(_SENDERS - 1)
        self._waiting.append(self._pool.submit(self._put, digest, frames))

    def finish(self) -> None:
        self._wait(0)

    def _wait(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()


@contextmanager
def _of(store: Store) -> Iterator[None]:
    """Have errors about damage say in which of the two stores it is."""
    try:
        yield
    except (DamagedChunk, DamagedTree, DamagedPack) as error:
        raise DamagedSource(store.url, error) from error
