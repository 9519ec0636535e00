"""Owns the stores that layers come from: what a client tells the image server of them, and opening them there.

The server outlives the client that started it and serves others, who may use other stores with other keys. So each
client says where its layers come from, with the keys that it uses itself. That is kept in memory only, in the journal,
so that a restarted server can go on; it is never written to a disk.
"""

import os
import threading

from envkit.errors import EnvkitError
from envkit.ondemand.fetcher import Source
from envkit.ondemand.given import PREFIXES, Given
from envkit.ondemand.log import complain
from envkit.store.base import Store
from envkit.store.settings import StoreSettings, is_bucket

_MAX_VALUE = 64 << 10
_MAX_STORES = 32


class Stores:
    """The stores that clients have named, each opened when something is first read from it."""

    def __init__(self) -> None:
        self._given: dict[str, Given] = {}
        self._opened: dict[str, Store] = {}
        self._lock = threading.Lock()

    def add(self, given: object) -> str:
        """Take what a client says of a store; return its name here. New keys replace those that were given before.

        :raises EnvkitError: it is not what `describe` returns.
        """
        if not isinstance(given, dict) or not all(
            isinstance(key, str) and isinstance(value, str) and len(value) <= _MAX_VALUE for key, value in given.items()
        ):
            raise EnvkitError("the description of a store is malformed")
        name = f"{given.get('url', '')} {given.get('endpoint', '')}".strip()
        with self._lock:
            if self._given.get(name) != given:
                self._given.pop(name, None)
                self._given[name] = given
                self._opened.pop(name, None)
            while len(self._given) > _MAX_STORES:
                del self._given[next(iter(self._given))]
        return name

    @property
    def given(self) -> dict[str, Given]:
        """Everything that clients said, by name; holds keys."""
        return dict(self._given)

    def source(self, name: str) -> Source:
        """Return a store as the fetcher sees it."""
        return Source(name, lambda key, start, length: self.store(name).get_range(key, start, length))

    def store(self, name: str) -> Store:
        """Return a store, opened.

        :raises EnvkitError: it cannot be opened.
        """
        with self._lock:
            store = self._opened.get(name)
            if store is None:
                given = self._given.get(name)
                if given is None:
                    raise EnvkitError(f"no client has said how to open the store {name.partition(' ')[0]}")
                store = self._opened[name] = _open(given)
        return store


def _open(given: Given) -> Store:
    url = given["url"]
    if not is_bucket(url):
        from envkit.store.directory import DirectoryStore

        return DirectoryStore(url)
    from envkit.store.bucket import Patience
    from envkit.store.connect import open_bucket

    if not url.startswith("s3://"):
        # Keys of Google and Azure are read by obstore, from the variables of this process: those of the last client.
        os.environ.update({key: value for key, value in given.items() if key.startswith(PREFIXES)})
    settings = StoreSettings(endpoint=given.get("endpoint", ""), region=given.get("region", ""))
    # Short tries: the fetcher tries again by itself, and somebody waits.
    patience = Patience(tries=3, total=10.0, request=30.0, stall=5.0, connect=3.0)
    return open_bucket(url, settings, environment=given, patience=patience)


def tree_from(stores: Stores, names: "list[str]", digest: str) -> bytes:
    """Return an encoded tree from the first store that has it.

    :raises EnvkitError: none has.
    """
    from envkit.store.objects import get_tree

    last = EnvkitError(f"no store is known for layer {digest[:12]}")
    for name in names:
        try:
            return get_tree(stores.store(name), digest)
        except EnvkitError as error:
            complain(str(error))
            last = error
    raise last
