"""Owns where a node finds start packs and leaves those that it makes: in the store, or here where that takes none.

What the node keeps lies in a directory of the cache that is laid out as a store, and may be deleted at any time.
"""

import os
from collections.abc import Sequence

from envkit.content.startpack import StartPack, read_head
from envkit.content.startpacker import Encoded
from envkit.drivers.files import make_directory
from envkit.errors import Damaged, EnvkitError
from envkit.model.ids import EnvName
from envkit.model.record import Record
from envkit.model.startpack import stack_digest
from envkit.ondemand.fetcher import Source
from envkit.ondemand.log import complain
from envkit.store import starts
from envkit.store.base import Store
from envkit.store.directory import DirectoryStore
from envkit.store.errors import StoreError
from envkit.store.starts import Start

MAX_KEPT_BYTES = 512 << 20
_ATTEMPTS = 3


class Found(Record):
    """A start pack that can be used: its header, the first bytes of the object, and where the rest can be had."""

    pack: StartPack
    start: Start
    head: bytes
    source: Source
    local: bool

    @property
    def key(self) -> str:
        return self.start.key


class StartPlaces:
    """Start packs for stacks whose layers come from one store.

    :ivar source: the store as the fetcher sees it.
    """

    def __init__(self, store: Store, source: Source, directory: str) -> None:
        self._store = store
        self._source = source
        self._directory = directory

    def find(self, env: EnvName, layers: Sequence[str], entry_point: str) -> Found | None:
        """Return the best start pack for a stack, by the digests of its layers; None where there is none.

        One of the same entry point is better than all others. Asks the store twice. What is damaged, or cannot be
        read, is complained about and passed over.
        """
        stack = stack_digest(layers)
        remote = {start.key: start for start in self._listed(self._store, env)}
        local = {start.key: start for start in self._listed(self._kept(), env)}
        for start in starts.candidates([*remote.values(), *local.values()], stack, entry_point)[:_ATTEMPTS]:
            try:
                return self._opened(start, stack, local=start.key not in remote)
            except (Damaged, StoreError) as error:
                complain(f"a start pack is not used: {error}")
        return None

    def keep(self, env: EnvName, made: Encoded) -> Start | None:
        """Store a start pack for everybody, or where the store takes none, for this node; None if neither works."""
        pieces = (made.header, *made.frames)
        try:
            return self._put(self._store, env, made.pack, pieces)
        except StoreError:
            pass  # most who run environments may only read the store
        try:
            make_directory(self._directory)
            # Higher than what the store has, or it would never be used.
            above = max((start.number for start in self._listed(self._store, env)), default=0)
            start = self._put(DirectoryStore(self._directory), env, made.pack, pieces, above=above)
            self._prune()
        except EnvkitError as error:
            complain(f"a start pack is not kept: {error}")
            return None
        return start

    def _put(
        self, store: Store, env: EnvName, pack: StartPack, pieces: Sequence[bytes], above: int = 0
    ) -> Start | None:
        return starts.put(
            store,
            env,
            stack=pack.stack,
            entry_point=pack.entry_point,
            digest=pack.digest,
            pieces=pieces,
            above=above,
        )

    def _kept(self) -> Store | None:
        return DirectoryStore(self._directory) if os.path.isdir(self._directory) else None

    def _listed(self, store: Store | None, env: EnvName) -> list[Start]:
        try:
            return [] if store is None else starts.list_of(store, env)
        except StoreError as error:
            complain(f"start packs cannot be listed: {error}")
            return []

    def _opened(self, start: Start, stack: str, *, local: bool) -> Found:
        store: Store = DirectoryStore(self._directory) if local else self._store
        pack, head = read_head(lambda at, length: store.get_range(start.key, at, length), start.size, start.digest)
        if pack.stack != stack or starts.entry_name(pack.entry_point) != start.entry:
            raise Damaged(f"{start.key} in the store {store.url} is a start pack of something else")
        source = Source(self._directory, store.get_range) if local else self._source
        return Found(pack=pack, start=start, head=head, source=source, local=local)

    def _prune(self) -> None:
        """Remove the oldest of those that are kept here, where they take too much space."""
        store = DirectoryStore(self._directory)
        left = MAX_KEPT_BYTES
        for start in sorted(starts.list_all(store), key=lambda start: start.modified, reverse=True):
            left -= start.size
            if left < 0:
                store.delete(start.key)
