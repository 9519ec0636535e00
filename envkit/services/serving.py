"""Owns what can be seen of this node's image server: what it has fetched, who waited how long, which files that was."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from envkit.cache import mapfile
from envkit.cache.errors import CacheLost
from envkit.errors import Conflict, EnvkitError
from envkit.model.blockmap import BlockMap
from envkit.model.tree import Kind, Tree, display_path
from envkit.node.instance import prepare
from envkit.ondemand import holder
from envkit.ondemand.client import Client
from envkit.services.context import Context, require_root
from envkit.services.layers import layer_tree


class ServerInUse(Conflict):
    """The image server cannot end: containers use its files."""

    def __init__(self) -> None:
        super().__init__(
            "containers use the image server", resolution="end them first, or give --force and let their reads fail"
        )


@dataclass(frozen=True)
class ServedLayer:
    """One layer that is served: bytes of its content, of those the ones that are here, and fetched ones, compressed.

    `reads` of the kernel, `waits` those that had to wait, for `stalled` seconds in all. `files` are paths that were
    fetched because somebody read them, if that was asked for, in that order.
    """

    digest: str
    size: int
    ready: int
    fetched: int
    reads: int
    waits: int
    stalled: float
    files: tuple[str, ...] = ()

    @property
    def hit_rate(self) -> float:
        """The share of reads that did not have to wait."""
        return 1 - self.waits / self.reads if self.reads else 1.0


@dataclass(frozen=True)
class ServerState:
    """The image server: pid, clients, what it fetched (requests, bytes ...), its estimates of the link, its layers."""

    pid: int
    clients: int
    fetched: dict[str, int]
    round_trip: float
    bandwidth: float
    layers: tuple[ServedLayer, ...]


def server_state(context: Context, *, files: bool = False) -> ServerState | None:
    """Return how this node's image server is; None if there is none, as nothing needs it.

    :param files: say also which files were pulled.
    """
    require_root("looking at the image server")
    client = Client.find(context.paths)
    if client is None:
        return None
    try:
        layers: list[ServedLayer] = []
        while True:
            answer, _ = client.ask({"op": "state", "first": len(layers)})
            rows = answer["layers"]
            layers += [ServedLayer(**row) for row in (rows if isinstance(rows, list) else ())]
            if answer.get("more") is not True:
                break
        if files:
            layers = [_with_files(context, client, layer) for layer in layers]
    finally:
        client.close()
    return ServerState(
        **{name: answer[name] for name in ("pid", "clients", "fetched", "round_trip", "bandwidth")},  # type: ignore[arg-type]
        layers=tuple(layers),
    )


def server_state_json(state: ServerState | None) -> dict[str, object]:
    """Return the state of the image server for `--json`."""
    if state is None:
        return {"running": False}
    rows = [asdict(layer) | {"hit_rate": round(layer.hit_rate, 4)} for layer in state.layers]
    return {"running": True} | asdict(state) | {"layers": rows}


def keep_server(context: Context) -> bool:
    """Be the image server's holder, in the foreground, until it is stopped; return False if there is one already."""
    require_root("starting the image server")
    prepare(context.paths)
    held = holder.begin(context.paths, keep=True)
    if held is not None:
        holder.hold(held, held.spawn("server"))
    return held is not None


def stop_server(context: Context, *, force: bool) -> bool:
    """End the image server if nothing uses it, or in any case; return whether there is none any more."""
    require_root("ending the image server")
    return Client.stop(context.paths, force=force)


def _with_files(context: Context, client: Client, layer: ServedLayer) -> ServedLayer:
    answer, _ = client.ask({"op": "pulled", "digest": layer.digest})
    ranges = answer["ranges"]
    if not isinstance(ranges, list) or not ranges:
        return layer
    try:
        blocks = mapfile.load(context.paths.layer(layer.digest)).blocks
        paths = dict.fromkeys(_pulled(layer_tree(context, layer.digest), blocks, ranges))
    except (CacheLost, EnvkitError):
        return layer  # the cache was cleared meanwhile: nobody can tell any more
    return ServedLayer(**{**asdict(layer), "files": tuple(display_path(path) for path in paths)})


def _pulled(tree: Tree, blocks: BlockMap, ranges: Sequence[Sequence[int]]) -> Iterator[bytes]:
    """Yield the paths of files that ranges of a layer's image belong to; of files with the same content, the first."""
    places: dict[int, list[tuple[int, int, bytes]]] = {}
    for entry in tree.entries:
        if entry.kind is Kind.FILE:
            for segment in entry.segments:
                place = (segment.offset, segment.offset + segment.length, entry.path)
                places.setdefault(segment.chunk, []).append(place)
    for offset, length in ranges:
        for extent in blocks.lookup(offset, length):
            for start, end, path in places.get(extent.chunk, ()):
                if start < extent.offset + extent.length and extent.offset < end:
                    yield path
                    break
