"""Owns the use of the image server by a starting container: its layers' places in the cache, and the server's files.

On the path of `envkit run`: what makes those places is imported where one is missing.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module

from envkit.cache.complete import has_place
from envkit.errors import EnvkitError
from envkit.model.version import LayerRef
from envkit.ondemand.client import Client
from envkit.ondemand.given import describe
from envkit.ondemand.messages import ServerGone
from envkit.services.context import Context

_PACKING = 900.0
"""Seconds for which a start pack is waited for, where somebody asked for one."""
_ATTEMPTS = 5
_MAKING_PLACES = (
    "concurrent.futures.thread",
    "envkit.ondemand.prepare",
    "envkit.store.objects",
    "envkit.store.parallel",
)


class Demand:
    """Layers that are served on demand to one container.

    :ivar recording: its first touches are recorded, so that it mounts files of its own.
    :ivar starting: they are recorded, or a start pack brings them.
    """

    def __init__(self, context: Context, client: Client, stack: str, *, trace: bool) -> None:
        """Ask how to mount; with `trace` a start pack is made at the end, and waited for."""
        self._context = context
        self._client = client
        self._trace = trace
        self._stack = stack
        answer, _ = client.ask({"op": "prepared", "stack": stack})
        self._suffix = f".{answer['recording']}" if answer.get("recording") else ""
        self._whole = answer.get("whole") is True
        self.recording = bool(self._suffix)
        self.starting = self.recording or answer.get("streaming") is True

    def path(self, digest: str, complete: Mapping[str, str]) -> str:
        """Return the path that a layer is to be mounted from; `complete` are the images that this node has."""
        if digest in complete and not self._whole:
            return complete[digest]
        return self._client.path(digest + self._suffix)

    def mounted(self, limited: Collection[str]) -> None:
        """Tell in which devices the kernel reads ahead only a little; a server that is gone leaves it so."""
        with contextlib.suppress(EnvkitError):
            self._client.ask({"op": "mounted", "stack": self._stack, "devices": sorted(limited)})

    def end(self, code: int | None) -> dict[str, object]:
        """Tell that the container has ended, with its exit code; return what it has cost, if that is known."""
        message = {"op": "end", "stack": self._stack, "code": code}
        try:
            if not self._trace:
                cost = self._client.ask(message)[0]
            else:
                with self._context.progress.step("making the start pack"):
                    cost = self._client.ask(message, patience=_PACKING)[0]
            if cost.get("bytes"):
                from envkit.services.evicting import keep_quota

                keep_quota(self._context)
        except EnvkitError:  # the server was restarted meanwhile: nobody knows, and the job has its result
            return {}
        return cost

    def close(self) -> None:
        """Let the server go; what is mounted stays."""
        self._client.close()


def demand(
    context: Context,
    layers: Sequence[LayerRef],
    missing: Sequence[LayerRef],
    *,
    environment: str,
    command: Sequence[str],
    start_pack: bool,
    trace: bool,
) -> Demand:
    """Have the layers of a stack that this node does not have served on demand.

    :raises EnvkitError: a tree cannot be had, or the image server does not start.
    """
    digests = [layer.tree for layer in layers]
    message = {
        "op": "begin",
        "layers": digests,
        "served": [layer.tree for layer in missing],
        "environment": environment,
        "command": list(command),
        "start_pack": start_pack,
        "trace": trace,
    }
    new = [layer for layer in missing if not has_place(context.paths.layer(layer.tree))]
    if not new:
        return _persistently(context, digests, message, lambda: None)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        # Meanwhile the server starts, and looks for the start pack.
        return _persistently(context, digests, message, pool.submit(_prepare, context, new).result)


def import_for_new() -> None:
    """Import what it takes to make places for layers: worth the time while there is something to wait for."""
    from envkit.ondemand.lean import import_msgspec

    import_msgspec()
    for name in _MAKING_PLACES:
        import_module(name)


def _persistently(
    context: Context, digests: Sequence[str], message: Mapping[str, object], prepared: Callable[[], object]
) -> Demand:
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(ServerGone):  # killed; another is there soon
            return _begin(context, digests, message, prepared)
    return _begin(context, digests, message, prepared)


def _begin(
    context: Context, digests: Sequence[str], message: Mapping[str, object], prepared: Callable[[], object]
) -> Demand:
    """Have a stack served.

    :param prepared: waits until all layers have their places.
    :raises ServerGone: the server was restarted meanwhile; the next one knows nothing of it.
    """
    client = Client.connect(context.paths)
    try:
        store = client.open(digests, describe(context.store.url, context.store_settings, os.environ))
        begun, _ = client.ask({**message, "store": store})
        prepared()
        return Demand(context, client, str(begun["stack"]), trace=message["trace"] is True)
    except BaseException:
        client.close()
        raise


def _prepare(context: Context, layers: Sequence[LayerRef]) -> None:
    """Make the layers' places in the cache, several at once: most of it is waiting for the store."""
    import_for_new()
    from envkit.ondemand.prepare import prepare
    from envkit.store.objects import get_tree
    from envkit.store.parallel import each

    def one(layer: LayerRef) -> None:
        prepare(context.paths, layer.tree, lambda: get_tree(context.store, layer.tree))

    for _ in each(one, layers):
        pass
