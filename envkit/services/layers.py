"""Owns layers on a node: a tree by its digest, and the image file that each layer of a stack is mounted from.

A layer that is complete on this node is mounted directly. Any other one is served by the image server, block by block
as it is read. On the path of `envkit run`: what talks to that server is imported when it is needed.
"""

import os
from collections.abc import Collection, Sequence

from envkit.cache.complete import complete_image
from envkit.cache.usage import touch
from envkit.errors import NotFound
from envkit.model.ids import EnvName
from envkit.model.version import LayerRef
from envkit.services.context import Context
from envkit.store.settings import is_bucket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from envkit.model.tree import Tree
    from envkit.services.ondemand import Demand


class NotOnThisNode(NotFound):
    """Nothing may be fetched, and this node does not have all of a stack."""

    def __init__(self, layers: Sequence[LayerRef]) -> None:
        size = sum(layer.size for layer in layers) / 1e6
        super().__init__(
            f"this node does not have all of it: {len(layers)} layers of {size:.0f} MB together are not complete here",
            resolution="run `envkit cache warm ENV` while the store can be reached, or leave out --offline",
        )


class Images:
    """The image files of a stack, the lowest layer first, good until `close`.

    `files` are (digest, path). `alone`: the layers are to be mounted for this container only, because what it touches
    is recorded.
    """

    def __init__(self, files: tuple[tuple[str, str], ...], demand: "Demand | None" = None) -> None:
        self.files = files
        self.demand = demand

    @property
    def alone(self) -> bool:
        return self.demand is not None and self.demand.recording

    @property
    def starting(self) -> bool:
        """Whether what is touched first is recorded, or on its way: reading ahead would ask for more than that."""
        return self.demand is not None and self.demand.starting

    def mounted(self, limited: Collection[str]) -> None:
        """Tell the image server in which devices the kernel reads ahead only a little, until it knows better."""
        if self.demand is not None and limited:
            self.demand.mounted(limited)

    def end(self, code: int | None) -> dict[str, object]:
        """Tell the image server that the container has ended, with its exit code, None if it never began.

        Returns what the layers that were served have cost.
        """
        if self.demand is None:
            return {}
        cost = self.demand.end(code)
        self.demand.close()
        return cost

    def close(self) -> None:
        """Let the image server go; what is mounted stays."""
        if self.demand is not None:
            self.demand.close()


def layer_images(
    context: Context,
    layers: Sequence[LayerRef],
    *,
    environment: str = "",
    command: Sequence[str] = (),
    start_pack: bool = True,
    trace: bool = False,
) -> Images:
    """Return the image files of a stack.

    :param trace: serve all of it, and make a start pack of what is touched.
    :param environment: `owner/name` of what is started, and `command` what is started there: they say which start pack
        is of use. Without them none is.
    :raises EnvkitError: a layer cannot be had.
    """
    for layer in layers:
        touch(context.paths.layer(layer.tree))
    complete = {layer.tree: path for layer in layers if (path := _complete(context, layer.tree)) is not None}
    missing = [layer for layer in layers if layer.tree not in complete]
    if not missing and not trace:
        return Images(tuple(complete.items()))
    fetch = "demand" if trace else context.config.fetch
    if fetch == "offline":
        raise NotOnThisNode(missing)
    if fetch == "eager":
        from envkit.services.fill import fill_layer

        for layer in missing:
            complete[layer.tree] = f"{context.paths.layer(layer.tree)}/image"
            fill_layer(context, layer, complete[layer.tree])
        return Images(tuple((layer.tree, complete[layer.tree]) for layer in layers))
    from envkit.ondemand import holder

    holder.start_if_missing(context.paths)  # first: it starts while this process imports what it needs itself
    from envkit.services.ondemand import demand

    served = demand(
        context, layers, missing, environment=environment, command=command, start_pack=start_pack, trace=trace
    )
    try:
        return Images(tuple((layer.tree, served.path(layer.tree, complete)) for layer in layers), served)
    except BaseException:
        served.close()
        raise


def expect_demand(context: Context, env: EnvName) -> None:
    """Start the image server while a bucket is asked what a name means, if this node never heard of the environment.

    Asking takes as long as the server takes to start, and hardly a processor: time, too, to import what comes then.
    Call it before the store is first used.
    """
    if context.config.fetch != "demand" or not is_bucket(context.config.store):
        return
    try:
        stores = os.listdir(context.paths.records)
    except OSError:
        stores = []
    if not any(os.path.exists(f"{context.paths.records}/{store}/envs/{env}") for store in stores):
        from envkit.ondemand import holder

        holder.start_if_missing(context.paths)
        context.foresee(env, _import_for_new)


def _import_for_new() -> None:
    from envkit.services.ondemand import import_for_new

    import_for_new()


def _complete(context: Context, digest: str) -> str | None:
    """Return the path of a layer's complete image; None if there is none."""
    directory = context.paths.layer(digest)
    if complete_image(directory) is None:
        return None
    return f"{directory}/image"


def layer_tree(context: Context, digest: str) -> "Tree":
    """Return a layer's verified tree, from this node's cache or from the store."""
    from envkit.services.fill import load_tree

    return load_tree(context, digest)
