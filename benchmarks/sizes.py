"""Owns the comparison of chunk sizes and compression levels: the same saves with each, through `envkit.content`."""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import material
from material import Layer
from touched import Ranges

from envkit.content import treefile
from envkit.content.chunker import Sizes, chunk_files, renumber
from envkit.content.heads import Heads
from envkit.content.pack import PackWriter
from envkit.content.reader import ChunkReader
from envkit.model.idmap import IdMap, IdRange
from envkit.model.tree import MAX_CHUNK, TREE_FORMAT, Chunk, Entry, Tree
from envkit.overlay.scan import scan_upper

_ALL = (IdRange(inside=0, outside=0, count=1 << 31),)
_SAME_IDS = IdMap(uids=_ALL, gids=_ALL)


@dataclass(frozen=True)
class Way:
    """A way to cut and compress: average bytes of a chunk, level of zstd (None: as envkit does), heads of compiled
    Python files apart.
    """

    average: int
    level: int | None = None
    heads_apart: bool = True

    def __str__(self) -> str:
        return f"{self.average >> 10} KiB, {self.level or 'as envkit'}{'' if self.heads_apart else ', heads in place'}"


class _HeadsInPlace(Heads):
    """Leaves the heads of compiled Python files where they are."""

    def cut(self, entry: Entry, content: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        del entry
        return content


@dataclass
class Outcome:
    """What storing the layers in a row came to. Bytes; seconds of both cores together, but for `full_read`."""

    stored: dict[str, int] = field(default_factory=dict)
    chunks: int = 0
    trees: int = 0
    saving: float = 0
    cold: int = 0
    cold_chunks: int = 0
    full_read: float = 0

    @property
    def total(self) -> int:
        return sum(self.stored.values())


def scaled(average: int) -> Sizes:
    """Return sizes that relate to their average as envkit's own do."""
    return Sizes(
        small=average // 2,
        least=average // 2,
        usual=average,
        most=min(4 * average, MAX_CHUNK),
        spread=average * 3 // 4,
    )


def compare(base: Path, layers: Sequence[Layer], way: Way, wanted: Sequence[dict[bytes, Ranges]]) -> Outcome:
    """Store the base and then the layers in a row.

    :param wanted: what a command touches of the first layer and of the base; `cold` is what has to be fetched for it.
    """
    outcome = Outcome()
    known: dict[bytes, Chunk] = {}
    scratch = Path(tempfile.mkdtemp(prefix="envkit-sizes-", dir="/var/tmp"))
    try:
        trees: list[tuple[Tree, int]] = []
        for directory in (base, *(layer.directory for layer in layers)):
            before = _processor_time()
            with patch("envkit.content.chunker.Heads", Heads if way.heads_apart else _HeadsInPlace):
                tree, stored = _store(directory, scratch, known, way)
            outcome.saving += _processor_time() - before if trees else 0
            trees.append((tree, stored))
        for layer, (tree, stored) in zip(layers, trees[1:], strict=True):
            encoded = len(treefile.encode(tree)[1])
            outcome.stored[layer.name] = stored + encoded
            outcome.trees += encoded
            outcome.chunks += len(tree.chunks)
        for (tree, _), files in zip((trees[1], trees[0]), wanted, strict=True):
            covering = _covering(tree, files)
            outcome.cold += sum(tree.chunks[number].stored for number in covering)
            outcome.cold_chunks += len(covering)
        outcome.full_read = _read_all(trees[1][0], scratch)
    finally:
        shutil.rmtree(scratch)
    return outcome


def _processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _store(directory: Path, scratch: Path, known: dict[bytes, Chunk], way: Way) -> tuple[Tree, int]:
    def put(digest: str, frames: Sequence[bytes]) -> None:
        (scratch / digest).write_bytes(b"".join(frames))

    def find(digests: Sequence[bytes]) -> dict[bytes, Chunk]:
        return {digest: known[digest] for digest in digests if digest in known}

    with scan_upper(str(directory), _SAME_IDS) as scan, PackWriter(put, known=find, level=way.level) as packs:
        segmented = list(chunk_files(scan.entries, scan.open, packs.add, sizes=scaled(way.average)))
        packed = packs.finish()
    known.update((chunk.digest, chunk) for chunk in packed.chunks)
    renumber(segmented, packed.numbers)
    return Tree(TREE_FORMAT, segmented, packed.chunks), packed.stored


def _covering(tree: Tree, files: dict[bytes, Ranges]) -> set[int]:
    """Return the numbers of the chunks that hold these ranges of these files."""
    return {
        segment.chunk
        for entry in tree.entries
        for segment in entry.segments
        if any(
            start < segment.start + segment.length and segment.start < end for start, end in files.get(entry.path, ())
        )
    }


def _read_all(tree: Tree, scratch: Path) -> float:
    """Return the seconds that one thread takes to read and verify each chunk of a tree once; the best of three."""

    def read(digest: str, start: int, length: int) -> bytes:
        with open(scratch / digest, "rb") as file:
            return os.pread(file.fileno(), length, start)

    def once() -> float:
        begin = time.process_time()
        for _ in ChunkReader(read).read_many(tree.chunks, range(len(tree.chunks))):
            pass
        return time.process_time() - begin

    return min(once() for _ in range(3))


def grid(*, quick: bool) -> Iterator[Way]:
    """Yield what to compare."""
    if quick:
        yield from (Way(64 << 10), Way(128 << 10), Way(256 << 10))
        return
    for level in (1, 3):
        for average in (64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20):
            yield Way(average, level)
    yield Way(128 << 10, 9)
    yield Way(128 << 10)
    yield Way(128 << 10, heads_apart=False)


def touched_by_numpy() -> list[dict[bytes, Ranges]]:
    """Return what `import numpy` touches of the first layer and of the base."""
    import touched

    first = material.layers()[0].directory
    return touched.touched([first, material.base()], ["python3", "-B", "-c", "import numpy"])
