"""Owns layers on a node: a tree by its digest, and the image that a layer is mounted from.

On the path of `envkit run`: what has to be built or fetched is in `services/fill.py`, imported when it is needed.
"""

import os
from collections.abc import Iterable

from envkit.model.version import LayerRef
from envkit.services.context import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from envkit.model.tree import Tree


def layer_images(context: Context, layers: Iterable[LayerRef]) -> tuple[tuple[str, str], ...]:
    """Return (digest, path of a complete image file) of each layer, building those that this node does not have."""
    images = []
    for layer in layers:
        path = f"{context.paths.layer(layer.tree)}/image"
        if not os.path.exists(path):
            from envkit.services.fill import fill_layer

            fill_layer(context, layer, path)
        images.append((layer.tree, path))
    return tuple(images)


def layer_tree(context: Context, digest: str) -> "Tree":
    """Return a layer's verified tree, from this node's cache or from the store."""
    from envkit.services.fill import load_tree

    return load_tree(context, digest)
