"""Owns making a layer's place in the cache: from its tree to the metadata of its image and the map of its data.

Both who starts a container and the image server do it: the first time, and when the cache was lost under a mount. The
image is built here from the verified tree; nobody else's file system image is ever mounted.
"""

import contextlib
import os
from collections.abc import Callable

from envkit.cache.complete import has_place
from envkit.cache.layer import LayerMap, create_partial
from envkit.cache.locks import layer_lock
from envkit.content import treefile
from envkit.content.errors import DamagedTree
from envkit.drivers.files import make_directory, read_bounded, write_atomic
from envkit.errors import Damaged
from envkit.image import erofs
from envkit.image.erofs_format import UUID_OFFSET
from envkit.image.errors import BrokenTree
from envkit.model.collector import no_collector
from envkit.model.paths import Paths
from envkit.model.tree import Tree
from envkit.store.objects import MAX_STORED_TREE

GetTree = Callable[[], bytes]
"""Returns the encoded tree from a store."""


def cached_tree(paths: Paths, digest: str, get_tree: GetTree, *, known: bool = False) -> Tree:
    """Return the tree with this digest; a damaged cached copy is replaced from the store.

    :param known: see `treefile.decode`.

    :raises Damaged: what the store has is not it.
    """
    return _cached(paths, digest, get_tree, lambda data, digest: treefile.decode(data, digest, known=known))


def _cached(paths: Paths, digest: str, get_tree: GetTree, decode: Callable[[bytes, str], Tree]) -> Tree:
    path = f"{paths.trees}/{digest}"
    data = read_bounded(path, MAX_STORED_TREE) if os.geteuid() == 0 else None
    if data is not None:
        try:
            return decode(data, digest)
        except Damaged:
            os.unlink(path)
    data = get_tree()
    tree = decode(data, digest)
    if os.geteuid() == 0:
        make_directory(paths.trees)
        write_atomic(path, data, durable=False)
    return tree


def prepare(paths: Paths, digest: str, get_tree: GetTree, *, anew: bool = False) -> None:
    """Make a layer's place in the cache, if it has none; one process at a time, the others find it done.

    :param anew: also if there is one: it was found to be damaged.

    :raises EnvkitError: its tree cannot be had, or there is no space.
    """
    directory = paths.layer(digest)
    with layer_lock(directory):
        if not anew and has_place(directory):
            return
        with no_collector():
            # Its entries are looked at once, by who makes the image of them.
            tree = _cached(paths, digest, get_tree, treefile.decode_unchecked)
            try:
                layer_map, metadata = mapped(tree)
            except BrokenTree as error:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{paths.trees}/{digest}")
                raise DamagedTree(digest, error.brief) from error
        create_partial(directory, layer_map, metadata)


def mapped(tree: Tree) -> tuple[LayerMap, bytes]:
    """Return what the image of a layer is made of, and its metadata.

    :raises EnvkitError: its tree makes no image.
    """
    image = erofs.build(tree)
    layer_map = LayerMap(
        size=image.size,
        metadata=len(image.metadata),
        uuid=image.metadata[UUID_OFFSET : UUID_OFFSET + 16],
        blocks=image.blocks,
        chunks=tree.chunks,
    )
    return layer_map, image.metadata
