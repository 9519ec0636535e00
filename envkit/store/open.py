"""Owns which backend a URL names, and `format.json`: that a place is a store, of which format, and which one.

    {"format": 1, "id": "<32 hex>"}

Later fields may be added without a new format; readers ignore those that they do not know.
"""

import json
import os
import re
from contextlib import suppress

from envkit.errors import InvalidInput
from envkit.model.record import Record
from envkit.store import layout
from envkit.store.base import Store, is_component
from envkit.store.directory import DirectoryStore
from envkit.store.errors import NewerStore, ObjectNotFound, StoreUnreadable, StoreUnwritable, UnsupportedStore, reason

STORE_FORMAT = 1
MAX_FORMAT_BYTES = 65_536
_ID = re.compile(r"[0-9a-f]{32}")


class StoreFormat(Record):
    """What `format.json` says; `id` tells one store from another, also when their URLs change."""

    format: int
    id: str


def open_store(url: str, *, create: bool = False) -> Store:
    """Open the store at a path or URL. `create` (for the default store) makes one where there is nothing yet.

    :raises UnsupportedStore: the URL names a kind of store that this version cannot use.
    :raises StoreUnreadable: it cannot be read, or is no store.
    :raises NewerStore: a later envkit wrote it.
    """
    store = DirectoryStore(_directory(url))
    if create and _is_empty(store.url):
        return init_store(url)
    read_format(store)
    return store


def init_store(url: str) -> Store:
    """Make a store in a directory that is missing or empty; open it if somebody else made it meanwhile.

    :raises StoreUnreadable: the directory has something else in it.
    :raises StoreUnwritable: it cannot be made.
    """
    path = _directory(url)
    store = DirectoryStore(path)
    if _is_empty(path):
        _make_directory(path)
        document = {"format": STORE_FORMAT, "id": os.urandom(16).hex()}
        store.put_if_absent(layout.FORMAT, json.dumps(document, sort_keys=True).encode() + b"\n")
    read_format(store)
    return store


def read_format(store: Store) -> StoreFormat:
    """Read and check a store's `format.json`.

    :raises StoreUnreadable: there is none, or it is damaged.
    :raises NewerStore: it names a later format.
    """
    try:
        data = store.get(layout.FORMAT, limit=MAX_FORMAT_BYTES)
    except ObjectNotFound as error:
        raise StoreUnreadable(store.url, f"it is not an envkit store: it has no {layout.FORMAT}") from error
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(store) from error
    found = document.get("format") if isinstance(document, dict) else None
    if type(found) is not int or found < 1:
        raise _damaged(store)
    if found > STORE_FORMAT:
        raise NewerStore(store.url, found, STORE_FORMAT)
    identity = document.get("id")
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
        raise _damaged(store)
    return StoreFormat(format=found, id=identity)


def _damaged(store: Store) -> StoreUnreadable:
    return StoreUnreadable(
        store.url, f"its {layout.FORMAT} is damaged", resolution="restore this file from a copy of the store"
    )


def _directory(url: str) -> str:
    """Return the absolute path that a path or `file://` URL names; escapes in a URL are taken literally."""
    scheme, separator, rest = url.partition("://")
    if separator and "/" not in scheme:
        if scheme != "file":
            raise UnsupportedStore(url)
        if not rest.startswith("/"):
            raise InvalidInput(f"invalid store URL {url!r}", resolution="write it as file:///path")
        url = rest
    if not url or "\0" in url:
        raise InvalidInput(f"invalid store path {url!r}", resolution="give the path of a directory")
    return os.path.abspath(url)


def _is_empty(path: str) -> bool:
    """Tell whether a directory is missing or has nothing in it that could be an object (lost+found could not)."""
    try:
        return not any(is_component(name) for name in os.listdir(path))
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StoreUnreadable(path, reason(error)) from error


def _make_directory(path: str) -> None:
    """Make a directory of mode 0700 and what is missing above it, durably."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        parent = os.path.dirname(directory)
        try:
            with suppress(FileExistsError):
                os.mkdir(directory, mode=0o700)
            fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise StoreUnwritable(directory, reason(error)) from error
