"""Owns the files that the image server serves: which layer a name means, under which node number, from which stores.

A file is named after its layer's digest; `DIGEST.RECORDING` is the same file for somebody whose first touches are
recorded, a mount of its own with a page cache of its own. Names and their numbers are in the journal, so that they mean
the same after a restart. Everything else is found again on the disk.
"""

import errno
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from envkit.cache.complete import has_place
from envkit.cache.layer import CachedLayer, CacheLost
from envkit.errors import EnvkitError
from envkit.model.ids import is_digest
from envkit.model.paths import Paths
from envkit.ondemand.fetcher import Fetcher
from envkit.ondemand.journal import Journal
from envkit.ondemand.log import complain
from envkit.ondemand.loop import Files, Waiting
from envkit.ondemand.prepare import prepare
from envkit.ondemand.reading import Streams
from envkit.ondemand.served import ServedLayer
from envkit.ondemand.sources import Stores, tree_from

_FIRST_NODE = 2
_NAME = re.compile(r"([0-9a-f]{64})(?:\.([0-9a-f]{8}))?")
MAX_NAMES = 10_000


class Watchers(Streams, Protocol):
    """Who has to know of reads, and of start packs that are on their way."""

    def touched(self, recording: str, digest: str, offset: int, length: int, *, missed: bool) -> None:
        """Take note of a read of somebody whose first touches are recorded."""


class Layers(Files):
    """All layers of a node, opened when they are first asked for.

    :ivar on_demand: called whenever a read has to wait for the store.
    """

    def __init__(self, paths: Paths, journal: Journal, fetcher: Fetcher, stores: Stores, watchers: Watchers) -> None:
        self._paths = paths
        self._journal = journal
        self._fetcher = fetcher
        self._stores = stores
        self._watchers = watchers
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._sources: dict[str, list[str]] = {}
        self._open: dict[str, ServedLayer] = {}
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self.on_demand: Callable[[], None] = lambda: None
        self._load(journal.load())

    def lookup(self, name: str) -> tuple[int, int]:
        """Return (node, size) of a layer's file."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        layer = self.layer(match[1])
        return self._number(name), layer.size

    def size(self, node: int) -> int:
        """Return the size of a layer's image in bytes."""
        return self.layer(self._named(node)[0]).size

    def names(self) -> list[tuple[int, bytes]]:
        """Return (node, name) of all files that were ever looked up."""
        return [(number, name.encode()) for number, name in enumerate(list(self._names), _FIRST_NODE)]

    def read(self, node: int, offset: int, length: int, waiting: Waiting) -> None:
        """Answer a read of an image, now or when its bytes have come."""
        digest, recording = self._named(node)
        layer = self.layer(digest)
        missed = layer.read(offset, length, waiting)
        if recording:
            self._watchers.touched(recording, digest, offset, min(length, layer.size - offset), missed=missed)

    def layer(self, digest: str) -> ServedLayer:
        """Return a layer, opened; OSError where it cannot be had."""
        layer = self._open.get(digest)
        if layer is not None:
            return layer
        with self._opening:
            layer = self._open.get(digest)
            if layer is None:
                try:
                    layer = self._opened(digest)
                except EnvkitError as error:
                    complain(f"layer {digest[:12]}: {error}")
                    raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
                self._open[digest] = layer
        return layer

    def opened(self) -> list[ServedLayer]:
        """Return the layers that are open now."""
        return list(self._open.values())

    def add_sources(self, digests: Iterable[str], store: str) -> None:
        """Note that layers can be had from a store; the one that was named last is asked first."""
        with self._lock:
            for digest in digests:
                if is_digest(digest):
                    known = self._sources.pop(digest, [])  # and to the end: the oldest are forgotten
                    self._sources[digest] = [store, *(name for name in known if name != store)][:4]
                    layer = self._open.get(digest)
                    if layer is not None:
                        layer.come_from([self._stores.source(name) for name in self._sources[digest]])
            while len(self._sources) > MAX_NAMES:
                del self._sources[next(iter(self._sources))]
            self._save()

    def forget_removed(self) -> None:
        """Close layers whose place in the cache was removed by somebody, so that their space becomes free."""
        for digest, layer in list(self._open.items()):
            if layer.idle and not has_place(self._paths.layer(digest)):
                with self._opening:
                    self._open.pop(digest, None)
                layer.cached.retire()

    def _opened(self, digest: str) -> ServedLayer:
        directory = self._paths.layer(digest)

        def reopen() -> CachedLayer:
            try:
                return CachedLayer.open(directory)
            except CacheLost as lost:
                complain(str(lost))
                stores = list(self._sources.get(digest, []))
                prepare(self._paths, digest, lambda: tree_from(self._stores, stores, digest), anew=True)
                return CachedLayer.open(directory)

        layer = ServedLayer(digest, reopen(), reopen, self._fetcher, self._watchers, self._on_demand)
        layer.come_from([self._stores.source(name) for name in self._sources.get(digest, [])])
        return layer

    @property
    def room_for_names(self) -> bool:
        """Whether there is room for names of recordings; files that are mounted need them more."""
        return len(self._names) < MAX_NAMES // 2

    def _on_demand(self) -> None:
        self.on_demand()

    def _named(self, node: int) -> tuple[str, str]:
        """Return (digest, recording) of a node; the second is empty for most."""
        number = node - _FIRST_NODE
        if not 0 <= number < len(self._names):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        digest, _, recording = self._names[number].partition(".")
        return digest, recording

    def _number(self, name: str) -> int:
        with self._lock:
            number = self._numbers.get(name)
            if number is None:
                if len(self._names) >= MAX_NAMES:
                    raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
                number = self._numbers[name] = len(self._names) + _FIRST_NODE
                self._names.append(name)
                self._save()
        return number

    def _save(self) -> None:
        self._journal.store({"names": self._names, "layers": self._sources, "stores": self._stores.given})

    def _load(self, state: Mapping[str, object]) -> None:
        names = state.get("names")
        self._names = [str(name) for name in names] if isinstance(names, list) else []
        self._numbers = {name: number for number, name in enumerate(self._names, _FIRST_NODE)}
        stores = state.get("stores")
        for given in stores.values() if isinstance(stores, dict) else ():
            self._stores.add(given)
        layers = state.get("layers")
        for digest, sources in _items(layers):
            self._sources[digest] = [str(name) for name in sources]


def _items(layers: object) -> Iterator[tuple[str, list[object]]]:
    if isinstance(layers, dict):
        for digest, sources in layers.items():
            if isinstance(sources, list):
                yield str(digest), sources
