"""Owns keeping a node's cache within its quota: what is in use on this node, and letting go of what is not."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from envkit.cache import catalogue, quota
from envkit.cache.catalogue import Item
from envkit.drivers.files import locked, make_directory
from envkit.model.paths import Paths
from envkit.node.instance import live_holders, prepare
from envkit.node.session import list_sessions
from envkit.services.context import Context


@dataclass(frozen=True)
class Evicted:
    """What was evicted; how many bytes the cache has now, and how many it may have."""

    items: tuple[Item, ...]
    bytes: int
    limit: int


@dataclass(frozen=True)
class Dropped:
    """What was dropped, and what was kept because a job or a session has it or somebody is fetching it."""

    items: tuple[Item, ...]
    kept: tuple[Item, ...]


def in_use(paths: Paths) -> frozenset[str]:
    """Return the digests of the layers that running containers have mounted, and of those of open sessions."""
    mounted = {digest for holder in live_holders(paths) for digest in holder.layers}
    return frozenset(mounted | {layer.tree for session in list_sessions(paths) for layer in session.layers})


def allowed(context: Context, cached: int) -> int:
    """Return how many bytes the cache may have, now that it has so many."""
    make_directory(context.paths.layers)
    return quota.limit(context.config.cache_quota, context.paths.layers, cached)


def keep_quota(context: Context, *, dry_run: bool = False) -> Evicted:
    """Evict what was used longest ago until the cache is within its quota; remove what killed processes left.

    What is mounted, belongs to an open session or was used in the last minute stays, also over the quota.
    """
    paths = context.paths
    now = time.time()
    total = _total(catalogue.items(paths))
    limit = allowed(context, total)
    gone: list[Item] = []
    if total > limit:
        prepare(paths)
        with locked(paths.lock):
            gone = catalogue.evict(paths, in_use(paths), limit, now=now, dry_run=dry_run)
    if not dry_run:
        catalogue.sweep(paths, now=now)
    return Evicted(items=tuple(gone), bytes=total - _total(gone), limit=limit)


def drop(context: Context, items: Iterable[Item]) -> Dropped:
    """Drop layers and trees that nobody uses now."""
    paths = context.paths
    prepare(paths)
    gone, kept = [], []
    with locked(paths.lock):
        used = in_use(paths)
        for item in items:
            if item.digest not in used and (catalogue.remove(item) or not os.path.lexists(item.path)):
                gone.append(item)
            else:
                kept.append(item)
    catalogue.sweep(paths, now=time.time())
    return Dropped(items=tuple(gone), kept=tuple(kept))


def _total(items: Iterable[Item]) -> int:
    return sum(item.bytes for item in items)
