"""Owns what lies in a node's cache: layers and trees, how large each is, when it was last used; and evicting them.

A layer is evicted by a rename, then its files go: whoever is killed in between leaves a place that the next eviction
removes. What is open or mounted serves on without its name.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Set

from envkit.cache import mapfile, readyfile
from envkit.cache.complete import complete_image
from envkit.cache.errors import CacheLost
from envkit.cache.locks import LOCK, WRITER, try_layer_lock
from envkit.cache.partial import PARTIAL
from envkit.cache.usage import last_used
from envkit.drivers.files import io_error, is_locked, remove_tree
from envkit.errors import EnvkitError
from envkit.model.ids import is_digest
from envkit.model.paths import Paths
from envkit.model.record import Record

EAGER = "eager"
"""Where, in a layer's place, all of it is fetched at once."""
FRESH = 60.0
"""Seconds for which nothing is evicted that was just used: its container may be about to mount it."""

_EVICTED = "~evicted."
_UNFINISHED = ".new"
_STALE = 600.0
_ABANDONED = 86_400.0


class Item(Record):
    """A layer or tree in the cache: bytes on the disk, time of its last use."""

    kind: str
    digest: str
    path: str
    bytes: int
    used: float


def items(paths: Paths) -> list[Item]:
    """Return what is in the cache, what was used longest ago first."""
    found = [*_layers(paths), *_trees(paths)]
    return sorted(found, key=lambda item: (item.used, item.digest, item.kind))


def layer_item(paths: Paths, digest: str) -> Item | None:
    """Return what the cache has of a layer; None if nothing."""
    directory = paths.layer(digest)
    if not os.path.isdir(directory):
        return None
    return Item(kind="layer", digest=digest, path=directory, bytes=_size(directory), used=last_used(directory))


def share(directory: str) -> float:
    """Return which share of a layer's content is there: 1 if it is complete, 0 if nothing of it can be used."""
    if complete_image(directory) is not None:
        return 1.0
    try:
        stored = mapfile.load(directory)
    except CacheLost:
        return 0.0
    ready, _ = readyfile.load(directory, stored)
    return stored.blocks.covered_by(ready) / (stored.blocks.covered or 1)


def is_busy(directory: str) -> bool:
    """Tell whether somebody makes a layer's files or fetches all of it."""
    return is_locked(f"{directory}/{LOCK}") or is_locked(f"{directory}/{EAGER}/{LOCK}")


def evict(paths: Paths, kept: Set[str], limit: int, *, now: float, dry_run: bool = False) -> list[Item]:
    """Evict what was used longest ago until the cache has at most `limit` bytes; return what went, or would go.

    The caller holds the lock under which layers are mounted, and lets `sweep` remove the files afterwards.

    :param kept: digests of what is mounted or belongs to a session.
    :param now: what was used less than a minute before this time stays, too.
    """
    listed = items(paths)
    total = sum(item.bytes for item in listed)
    gone = []
    for item in listed:
        if total <= limit:
            break
        if item.digest in kept or abs(now - item.used) < FRESH or is_busy(item.path):
            continue
        if dry_run or remove(item):
            gone.append(item)
            total -= item.bytes
    return gone


def remove(item: Item) -> bool:
    """Take a layer or tree out of the cache; return False if somebody is making it. `sweep` removes its files."""
    try:
        if item.kind != "layer":
            os.unlink(item.path)
            return True
        if is_busy(item.path):
            return False
        lock = try_layer_lock(item.path)
        if lock is None:
            return False
        try:
            os.rename(item.path, f"{os.path.dirname(item.path)}/{_EVICTED}{item.digest}.{os.urandom(4).hex()}")
        finally:
            os.close(lock)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise io_error(f"evict {item.path}", error) from error
    return True


def sweep(paths: Paths, *, now: float) -> None:
    """Remove the files of what was evicted, and what killed builders left behind."""
    for name in _names(paths.layers):
        path = f"{paths.layers}/{name}"
        if name.startswith(_EVICTED):
            try:
                remove_tree(path)
            except EnvkitError:
                if os.path.exists(path):  # else another process was at the same
                    raise
        elif is_digest(name):
            sweep_layer(path, now=now)


def sweep_layer(directory: str, *, now: float) -> None:
    """Remove unfinished files of a layer, and the partial file beside a complete image, if nobody is at them."""
    _sweep_eager(directory, now)
    doomed = [name for name in _names(directory) if name.endswith(_UNFINISHED)]
    superseded = os.path.exists(f"{directory}/{PARTIAL}") and complete_image(directory) is not None
    if not doomed and not superseded:
        return
    lock = try_layer_lock(directory)
    if lock is None:
        return
    try:
        for name in doomed:
            with contextlib.suppress(OSError):
                # The image server writes without this lock, but not for long.
                if now - os.stat(f"{directory}/{name}").st_mtime > _STALE:
                    os.unlink(f"{directory}/{name}")
        if superseded and not is_locked(f"{directory}/{WRITER}"):
            with contextlib.suppress(OSError):
                os.unlink(f"{directory}/{PARTIAL}")
    finally:
        os.close(lock)


def _sweep_eager(directory: str, now: float) -> None:
    """Remove what was fetched at once and then left, when the image is complete or nobody has gone on for a day."""
    place = f"{directory}/{EAGER}"
    try:
        left = now - os.stat(place).st_mtime > _ABANDONED
    except OSError:
        return
    if not left and complete_image(directory) is None:
        return
    lock = try_layer_lock(place)
    if lock is not None:
        try:
            remove_tree(place)
        finally:
            os.close(lock)


def _layers(paths: Paths) -> Iterator[Item]:
    for name in _names(paths.layers):
        item = layer_item(paths, name) if is_digest(name) else None
        if item is not None:
            yield item


def _trees(paths: Paths) -> Iterator[Item]:
    for name in filter(is_digest, _names(paths.trees)):
        path = f"{paths.trees}/{name}"
        with contextlib.suppress(OSError):
            status = os.stat(path, follow_symlinks=False)
            # Whoever uses a layer may need its tree again.
            used = max(status.st_mtime, last_used(paths.layer(name)))
            yield Item(kind="tree", digest=name, path=path, bytes=status.st_blocks * 512, used=used)


def _size(directory: str) -> int:
    """Return the bytes that a directory and all in it take on the disk."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in (".", *names):
            with contextlib.suppress(OSError):
                total += os.stat(f"{place}/{name}", follow_symlinks=False).st_blocks * 512
    return total


def _names(directory: str) -> Iterable[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
