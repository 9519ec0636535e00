"""Owns the use cases that look after a node's cache: what is in it and for whom, fetching ahead, dropping, checking."""

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from envkit.cache import catalogue
from envkit.cache.catalogue import Item as Item
from envkit.cache.catalogue import layer_item, share
from envkit.cache.checking import Health, check_layer
from envkit.cache.complete import IMAGE, complete_image
from envkit.cache.errors import CacheBusy
from envkit.cache.usage import touch
from envkit.content import treefile
from envkit.drivers.files import locked, read_bounded
from envkit.errors import Damaged, EnvkitError, InvalidInput, NotFound, Unavailable
from envkit.model.ids import is_digest
from envkit.model.version import LayerRef, Version
from envkit.node.instance import live_holders, prepare
from envkit.node.session import list_sessions
from envkit.services.context import Context, require_root
from envkit.services.evicting import Dropped, Evicted, allowed, drop, in_use, keep_quota
from envkit.services.fill import fill_layer
from envkit.store import versions
from envkit.store.objects import MAX_STORED_TREE

_SHORT_DIGEST = r"[0-9a-f]{8,64}"


class QuotaTooSmall(Unavailable):
    """An environment does not fit into the cache."""

    def __init__(self, version: Version, limit: int) -> None:
        super().__init__(
            f"the cache may have {limit / 1e9:.1f} GB, which is too little for {version} beside what is in use",
            resolution="give it more with `cache_quota` in /etc/envkit/config.toml, or free space on its file system",
        )


@dataclass(frozen=True)
class Cached:
    """A layer in the cache, or a tree: which share of its content is there, whether it is in use now."""

    item: Item
    share: float
    in_use: bool


@dataclass(frozen=True)
class Listing:
    """What is in the cache, its bytes, and how many it may have."""

    entries: tuple[Cached, ...]
    bytes: int
    limit: int


@dataclass(frozen=True)
class Users:
    """Who needs a layer: versions of the store, open sessions, processes that have it mounted; what is cached of it."""

    digest: str
    item: Item | None
    share: float
    versions: tuple[str, ...]
    sessions: tuple[str, ...]
    processes: tuple[int, ...]


@dataclass(frozen=True)
class Warmed:
    """A version whose layers are all there now; how many of them had to be fetched."""

    version: str
    layers: int
    fetched: int


@dataclass(frozen=True)
class Checked:
    """What a check has found: each layer or tree with how it is; what was damaged beyond use was dropped."""

    found: tuple[tuple[Item, Health], ...]

    @property
    def damaged(self) -> list[Item]:
        """What could not be used, and was dropped."""
        return self._of(Health.DAMAGED)

    @property
    def mended(self) -> list[Item]:
        """Layers that had damaged chunks, which will be fetched again."""
        return self._of(Health.MENDED)

    @property
    def skipped(self) -> list[Item]:
        """Layers that the image server has open, or that have nothing to be compared with."""
        return [*self._of(Health.SERVED), *self._of(Health.UNKNOWN)]

    def _of(self, health: Health) -> list[Item]:
        return [item for item, found in self.found if found is health]


def listing(context: Context) -> Listing:
    """Return what is in the cache, what was used last first."""
    require_root("looking at the cache")
    items = catalogue.items(context.paths)
    used = in_use(context.paths)
    entries = [
        Cached(item=item, share=share(item.path) if item.kind == "layer" else 1.0, in_use=item.digest in used)
        for item in reversed(items)
    ]
    total = sum(item.bytes for item in items)
    return Listing(entries=tuple(entries), bytes=total, limit=allowed(context, total))


def why(context: Context, text: str) -> list[Users]:
    """Return who needs a layer, or each layer of an environment.

    :param text: an environment, or at least eight digits of a layer's digest.
    :raises NotFound: there is no such layer in the cache, and no such environment.
    """
    require_root("looking at the cache")
    digests = _digests(context, text)
    needing: dict[str, list[str]] = {digest: [] for digest in digests}
    for env in versions.list_environments(context.store):
        history = versions.read_history(context.store, env)
        for number in history.live:
            for digest in {layer.tree for layer in history.versions[number].layers} & needing.keys():
                needing[digest].append(f"{env}@{number}")
    sessions = list_sessions(context.paths)
    holders = live_holders(context.paths)
    return [
        Users(
            digest=digest,
            item=layer_item(context.paths, digest),
            share=share(context.paths.layer(digest)),
            versions=tuple(needing[digest]),
            sessions=tuple(str(s.env) for s in sessions if any(layer.tree == digest for layer in s.layers)),
            processes=tuple(holder.pid for holder in holders if digest in holder.layers),
        )
        for digest in digests
    ]


def collect(context: Context, *, dry_run: bool) -> Evicted:
    """Bring the cache down to its quota."""
    require_root("evicting from the cache")
    return keep_quota(context, dry_run=dry_run)


def drop_all(context: Context) -> Dropped:
    """Drop everything that nobody uses now."""
    require_root("dropping from the cache")
    return drop(context, catalogue.items(context.paths))


def drop_named(context: Context, names: Sequence[str]) -> Dropped:
    """Drop layers, or all layers of environments, with their trees, unless somebody uses them now.

    :raises NotFound: there is no such layer or environment.
    """
    require_root("dropping from the cache")
    doomed = {digest for name in names for digest in _digests(context, name)}
    return drop(context, [item for item in catalogue.items(context.paths) if item.digest in doomed])


def warm(context: Context, names: Sequence[str]) -> list[Warmed]:
    """Fetch all of some environments now.

    :raises NotFound: one of them does not exist; nothing is fetched then.
    :raises QuotaTooSmall: the cache cannot hold one of them.
    """
    require_root("filling the cache")
    return [_warm(context, version) for version in [versions.resolve(context.store, context.ref(n)) for n in names]]


def check(context: Context) -> Checked:
    """Compare all that is in the cache with its digests; drop what is damaged, whoever uses it.

    What is mounted stays mounted: containers that run keep what they have.
    """
    require_root("checking the cache")
    items = catalogue.items(context.paths)
    found = []
    with context.progress.step("checking", total=sum(item.bytes for item in items), unit="bytes") as step:
        for item in items:
            health = _check_layer(item) if item.kind == "layer" else _check_tree(item)
            if health is not None:
                found.append((item, health))
            step.advance(item.bytes)
    _remove_damaged(context, [item for item, health in found if health is Health.DAMAGED])
    return Checked(found=tuple(found))


def listing_json(found: Listing) -> dict[str, object]:
    """Return a listing for `--json`."""
    entries = [{**_item_json(e.item), "share": round(e.share, 4), "in_use": e.in_use} for e in found.entries]
    return {"bytes": found.bytes, "limit": found.limit, "entries": entries}


def users_json(users: Users) -> dict[str, object]:
    """Return who needs a layer for `--json`."""
    return {
        "digest": users.digest,
        "cached": None if users.item is None else {**_item_json(users.item), "share": round(users.share, 4)},
        "versions": list(users.versions),
        "sessions": list(users.sessions),
        "processes": list(users.processes),
    }


def evicted_json(done: Evicted) -> dict[str, object]:
    """Return what was evicted for `--json`."""
    return {"bytes": done.bytes, "limit": done.limit, "evicted": [_item_json(item) for item in done.items]}


def dropped_json(done: Dropped) -> dict[str, object]:
    """Return what was dropped for `--json`."""
    return {"dropped": [_item_json(item) for item in done.items], "kept": [_item_json(item) for item in done.kept]}


def warmed_json(done: Iterable[Warmed]) -> list[dict[str, object]]:
    """Return what was fetched for `--json`."""
    return [asdict(item) for item in done]


def checked_json(done: Checked) -> list[dict[str, object]]:
    """Return what a check has found for `--json`."""
    return [{**_item_json(item), "health": health.value} for item, health in done.found]


def _item_json(item: Item) -> dict[str, object]:
    used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item.used))
    return {"kind": item.kind, "digest": item.digest, "bytes": item.bytes, "used": used}


def _digests(context: Context, text: str) -> list[str]:
    """Return the digest of the layer that a text names, or those of an environment's layers, the lowest first."""
    if re.fullmatch(_SHORT_DIGEST, text):
        known = {item.digest for item in catalogue.items(context.paths) if item.digest.startswith(text)}
        if len(known) > 1:
            raise InvalidInput(f"{len(known)} layers begin with {text}", resolution="give more digits")
        if known or is_digest(text):
            return [*(known or {text})]
    try:
        version = versions.resolve(context.store, context.ref(text))
    except NotFound as error:
        if re.fullmatch(_SHORT_DIGEST, text):
            raise NotFound(f"the cache has no layer {text}, and the store no such environment") from error
        raise
    return list(dict.fromkeys(layer.tree for layer in version.layers))


def _warm(context: Context, version: Version) -> Warmed:
    layers = {layer.tree: layer for layer in version.layers}
    missing = [layer for layer in layers.values() if not _is_complete(context, layer)]
    for layer in layers.values():
        touch(context.paths.layer(layer.tree))
    for layer in missing:
        fill_layer(context, layer, f"{context.paths.layer(layer.tree)}/{IMAGE}")
    if not all(_is_complete(context, layer) for layer in layers.values()):
        raise QuotaTooSmall(version, allowed(context, sum(item.bytes for item in catalogue.items(context.paths))))
    return Warmed(version=str(version), layers=len(layers), fetched=len(missing))


def _is_complete(context: Context, layer: LayerRef) -> bool:
    return complete_image(context.paths.layer(layer.tree)) is not None


def _check_layer(item: Item) -> Health | None:
    try:
        health = check_layer(item.path)
    except CacheBusy:
        return Health.SERVED
    return None if health is Health.EMPTY else health


def _check_tree(item: Item) -> Health | None:
    data = read_bounded(item.path, MAX_STORED_TREE)
    if data is None:
        return None
    try:
        treefile.decode(data, item.digest)
    except Damaged:
        return Health.DAMAGED
    return Health.WHOLE


def _remove_damaged(context: Context, items: Sequence[Item]) -> None:
    if not items:
        return
    prepare(context.paths)
    with locked(context.paths.lock):
        for item in items:
            if not catalogue.remove(item) and os.path.lexists(item.path):
                raise EnvkitError(
                    f"{item.path} is damaged, but somebody is fetching it", resolution="check again when that has ended"
                )
    catalogue.sweep(context.paths, now=time.time())
