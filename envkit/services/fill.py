"""Owns fetching all of a layer at once: for `--eager`, and for `envkit cache warm`.

It goes on in a place of its own inside the layer's, so that a container that needs a part of the layer meanwhile waits
for nothing here; whoever is killed leaves what has come for the next one. A complete image takes its name at the end.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence

from envkit.cache import catalogue
from envkit.cache.catalogue import EAGER
from envkit.cache.complete import IMAGE, MAP, MARK, complete_image
from envkit.cache.layer import CachedLayer, CacheLost, create_partial
from envkit.cache.locks import layer_lock
from envkit.cache.readyfile import READY
from envkit.cache.usage import touch
from envkit.content.reader import ChunkReader, spans
from envkit.drivers.files import DiskFull, io_error, remove_tree, sync_directory
from envkit.errors import EnvkitError
from envkit.model.collector import no_collector
from envkit.model.tree import Chunk, Tree
from envkit.model.version import LayerRef
from envkit.ondemand.prepare import cached_tree, mapped
from envkit.services.context import Context
from envkit.services.evicting import keep_quota
from envkit.store.objects import get_tree, pack_ranges
from envkit.store.parallel import each

logger = logging.getLogger(__name__)

_FLUSH_BYTES = 256 << 20
_ATTEMPTS = 2
_BATCH = 32
"""Chunks that are fetched and unpacked at once: several such batches are in memory."""


def load_tree(context: Context, digest: str, *, known: bool = False) -> Tree:
    """Return the tree with this digest; a damaged cached copy is replaced from the store.

    :param known: see `treefile.decode`.

    :raises ObjectNotFound: the store does not have it.
    :raises Damaged: what the store has is not it.
    """
    return cached_tree(context.paths, digest, lambda: get_tree(context.store, digest), known=known)


def fill_layer(context: Context, layer: LayerRef, path: str) -> None:
    """Make the complete image file of a layer at `path`; one process at a time, the others find it done.

    :raises Damaged: a chunk in the store is not what the tree says.
    :raises DiskFull: there is no space for it; nothing of it is left.
    """
    directory = os.path.dirname(path)
    place = f"{directory}/{EAGER}"
    with layer_lock(place):
        if complete_image(directory) is None:
            touch(directory)
            _fetch_all(context, layer, place)
            _publish(directory, place)
        remove_tree(place)
    touch(directory)
    try:
        keep_quota(context)
    except EnvkitError as error:  # no reason not to use the layer
        logger.warning("the cache is not brought down to its quota: %s", error)


def _fetch_all(context: Context, layer: LayerRef, place: str) -> None:
    """Fetch what a layer's eager place does not have yet, and complete its image."""
    with no_collector():
        tree = load_tree(context, layer.tree)
        layer_map, metadata = mapped(tree)
    try:
        create_partial(place, layer_map, metadata)
        cached = CachedLayer.open(place)
        try:
            _take_over(os.path.dirname(place), cached)
            for _ in range(_ATTEMPTS):
                if cached.finish():
                    return
                _fetch(context, tree.chunks, cached)
            if not cached.finish():
                raise CacheLost(place, "it cannot be completed: somebody removes its files or damages them")
        except BaseException:
            with contextlib.suppress(EnvkitError):
                cached.flush()  # for whoever tries again
            raise
        finally:
            cached.close()
    except DiskFull:
        remove_tree(place)
        raise


def _take_over(directory: str, cached: CachedLayer) -> None:
    """Put in the chunks that the image server has fetched of the layer."""
    try:
        with contextlib.closing(CachedLayer.inspect(directory)) as there:
            if there.map.uuid != cached.map.uuid:
                return
            for number in cached.missing(0, cached.map.size):
                plain = there.chunk_bytes(number)
                if plain is not None:
                    cached.put_chunk(number, memoryview(plain))
    except CacheLost as error:
        if error.directory != directory:
            raise


def _fetch(context: Context, chunks: Sequence[Chunk], cached: CachedLayer) -> None:
    """Fetch the chunks that are missing, several requests at once."""
    reader = ChunkReader(pack_ranges(context.store))
    missing = cached.missing(0, cached.map.size)
    sizes = {number: sum(extent.length for extent in pieces) for number, pieces in cached.map.blocks.by_chunk()}
    unflushed = 0
    with context.progress.step(
        "fetching the layer", total=sum(sizes[number] for number in missing), unit="bytes"
    ) as step:
        batches = _batches(chunks, missing)
        for found in each(lambda batch: list(reader.read_many(chunks, batch)), batches):
            for number, plain in found:
                cached.put_chunk(number, plain)
                step.advance(sizes[number])
                unflushed += len(plain)
            if unflushed > _FLUSH_BYTES:
                cached.flush()
                unflushed = 0


def _batches(chunks: Sequence[Chunk], numbers: Sequence[int]) -> Iterator[list[int]]:
    """Yield the numbers of chunks that are fetched together, neighbours in their pack."""
    for span in spans(chunks, numbers):
        for start in range(0, len(span.numbers), _BATCH):
            yield span.numbers[start : start + _BATCH]


def _publish(directory: str, place: str) -> None:
    """Give the image that is complete in its eager place its name; its mark first, what only checks it last."""
    with layer_lock(directory):
        try:
            for name in (MARK, IMAGE, MAP, READY):
                os.rename(f"{place}/{name}", f"{directory}/{name}")
            sync_directory(directory)
        except OSError as error:
            raise io_error(f"complete the image in {directory}", error) from error
    if complete_image(directory) is None:
        raise CacheLost(directory, "its new image is not whole")
    catalogue.sweep_layer(directory, now=time.time())
