"""Owns filling a node's cache: trees, and the image files of layers.

An image is filled whole before it is mounted, chunk by chunk, each verified. Filling on demand takes this module's
place: it asks the same block map of the same image for the ranges that the kernel wants.
"""

import os

from envkit.content import treefile
from envkit.content.reader import ChunkReader
from envkit.drivers.files import io_error, locked, make_directory, read_bounded, sync_directory, write_atomic
from envkit.errors import Damaged
from envkit.image import erofs
from envkit.model.tree import Tree
from envkit.model.version import LayerRef
from envkit.services.context import Context
from envkit.store.objects import MAX_STORED_TREE, get_tree, pack_ranges


def load_tree(context: Context, digest: str, *, known: bool = False) -> Tree:
    """Return the tree with this digest; a damaged cached copy is replaced from the store.

    :param known: see `treefile.decode`.

    :raises ObjectNotFound: the store does not have it.
    :raises Damaged: what the store has is not it.
    """
    cached = f"{context.paths.trees}/{digest}"
    data = read_bounded(cached, MAX_STORED_TREE) if os.geteuid() == 0 else None
    if data is not None:
        try:
            return treefile.decode(data, digest, known=known)
        except Damaged:
            os.unlink(cached)
    data = get_tree(context.store, digest)
    tree = treefile.decode(data, digest)
    if os.geteuid() == 0:
        make_directory(context.paths.trees)
        write_atomic(cached, data)
    return tree


def fill_layer(context: Context, layer: LayerRef, path: str) -> None:
    """Build the complete image file of a layer at `path`; one process at a time, the others find it done.

    :raises Damaged: a chunk in the store is not what the tree says.
    :raises DiskFull: there is no space for it; nothing of it is left.
    """
    directory = os.path.dirname(path)
    make_directory(directory)
    with locked(f"{directory}/lock"):
        if os.path.exists(path):
            return
        tree = load_tree(context, layer.tree)
        image = erofs.build(tree)
        unfinished = f"{path}.new"
        try:
            with open(unfinished, "wb") as file:
                file.write(image.metadata)
                file.truncate(image.size)
                file.flush()
                _fill(context, tree, image, file.fileno())
                os.fdatasync(file.fileno())
            os.rename(unfinished, path)
            sync_directory(directory)
        except OSError as error:
            raise io_error(f"build the image of layer {layer.tree[:12]}", error) from error
        finally:
            if os.path.exists(unfinished):
                os.unlink(unfinished)


def _fill(context: Context, tree: Tree, image: erofs.Image, descriptor: int) -> None:
    pieces = dict(image.blocks.by_chunk())
    reader = ChunkReader(pack_ranges(context.store))
    with context.progress.step("fetching the layer", total=image.blocks.covered, unit="bytes") as step:
        for number, plain in reader.read_many(tree.chunks, pieces):
            for extent in pieces[number]:
                data = plain[extent.offset : extent.offset + extent.length]
                os.pwrite(descriptor, data, extent.image_offset)
                step.advance(extent.length)
