"""Owns how a layer's cache begins: the files `map` and `partial` of a layer of which no content is there yet.

`partial` has the image's metadata at its start, then holes for all content, then the guard. Its map gets its name last
and loses it first: without it the other file means nothing. The first `CachedLayer.flush` makes them durable. Until
then a power cut can damage them, which `open_partial` notices; waiting for the disk here would delay a cold start.
"""

import contextlib
import hashlib
import os

from envkit.cache import mapfile
from envkit.cache.complete import BLOCK, IMAGE, MAP, MARK, complete_image, superblock_facts
from envkit.cache.datafile import GUARD, DataFile, read_small
from envkit.cache.errors import CacheLost
from envkit.cache.mapfile import MAX_MAP, LayerMap, StoredMap
from envkit.cache.readyfile import READY
from envkit.drivers.files import io_error, make_directory

PARTIAL = "partial"


def create_partial(directory: str, layer_map: LayerMap, metadata: bytes) -> None:
    """Make the files of a layer unless they or the complete image are there, whole; damaged ones are replaced.

    The caller holds the layer's lock. Killed in between, it leaves what `CachedLayer.open` takes for nothing.

    :raises ValueError: the map contradicts itself or the metadata.
    :raises DiskFull: there is no room for them.
    """
    encoded = mapfile.encode(layer_map, metadata)
    facts = superblock_facts(metadata[:BLOCK])
    if facts is None or (facts.size, facts.uuid) != (layer_map.size, layer_map.uuid):
        raise ValueError("the metadata is not that of the map's image")
    if complete_image(directory) is not None or _is_there(directory, encoded):
        return
    make_directory(directory)
    try:
        for name in (MAP, IMAGE, MARK, READY, PARTIAL):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{directory}/{name}")
        _write(f"{directory}/{PARTIAL}", metadata, layer_map.size + GUARD)
        _write(f"{directory}/{MAP}.new", encoded, len(encoded))
        os.rename(f"{directory}/{MAP}.new", f"{directory}/{MAP}")
    except OSError as error:
        raise io_error(f"make the cache of layer {os.path.basename(directory)[:12]}", error) from error


def open_partial(directory: str, *, writable: bool) -> tuple[StoredMap, DataFile]:
    """Open a layer's map and data file, its metadata compared with the map.

    A file that has lost exactly its guard is taken: a process was killed between cutting that off and giving the
    image its name.

    :raises CacheLost: one of them is not there, or damaged.
    """
    stored = mapfile.load(directory)
    size = stored.map.size
    data = DataFile(directory, PARTIAL, (size + GUARD, size), writable=writable)
    try:
        if hashlib.sha256(data.read(0, stored.map.metadata)).digest() != stored.metadata_digest:
            raise CacheLost(directory, "the metadata of its image is damaged")
    except CacheLost:
        data.close()
        raise
    return stored, data


def _is_there(directory: str, encoded: bytes) -> bool:
    """Tell whether the files of this very map are there and whole."""
    if read_small(f"{directory}/{MAP}", MAX_MAP) != encoded:
        return False
    try:
        open_partial(directory, writable=False)[1].close()
    except CacheLost:
        return False
    return True


def _write(path: str, data: bytes, size: int) -> None:
    """Write a file and give it its size, zeros behind the data."""
    with open(path, "wb", opener=_private) as file:
        file.write(data)
        file.truncate(size)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
