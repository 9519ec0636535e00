"""Owns which backend a URL names, and `format.json`: that a place is a store, of which format, and which one.

    {"format": 1, "id": "<32 hex>", "probe": {...}}

`probe` is what was found out about the place when the store was made, if anything was. Later fields may be added
without a new format; readers ignore those that they do not know.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress

from envkit.errors import InvalidInput
from envkit.model.record import Record
from envkit.store import layout
from envkit.store.base import Store, is_component
from envkit.store.directory import DirectoryStore
from envkit.store.errors import NewerStore, ObjectNotFound, StoreUnreadable, StoreUnwritable, UnsupportedStore, reason
from envkit.store.settings import StoreSettings, is_bucket

STORE_FORMAT = 1
MAX_FORMAT_BYTES = 65_536
_ID = re.compile(r"[0-9a-f]{32}")


class StoreFormat(Record):
    """What `format.json` says; `id` tells one store from another, also when their URLs change."""

    format: int
    id: str


class Foreseen(Record):
    """What is known beforehand: a prefix that is listed first of all, and what can be done while the store is asked."""

    prefix: str
    meanwhile: Callable[[], object]


Check = Callable[[Store], Mapping[str, object]]


def open_store(
    url: str,
    *,
    create: bool = False,
    settings: StoreSettings | None = None,
    offline: bool = False,
    foreseen: "Foreseen | None" = None,
) -> Store:
    """Open the store at a path or URL. `create` (for the default store) makes one where there is nothing yet.

    :param offline: ask no server: of a store in a bucket only what this node remembers of it can be read.
    :param foreseen: what comes next; of a bucket it is asked at the same time. Without it, a bucket that this node
        knows is asked nothing yet, and what is raised here may come with its first use.
    :raises UnsupportedStore: the URL names a kind of store that this version cannot use.
    :raises StoreUnreadable: it cannot be read, or is no store.
    :raises NewerStore: a later envkit wrote it.
    """
    if is_bucket(url):
        return _open_bucket(url, settings or StoreSettings(), offline=offline, foreseen=foreseen)
    store = DirectoryStore(_directory(url))
    if create and _is_empty(store.url):
        return init_store(url)
    read_format(store)
    return store


def init_store(url: str, *, settings: StoreSettings | None = None, check: Check | None = None) -> Store:
    """Make a store where there is nothing yet; open it if somebody else made it meanwhile.

    :param check: finds out whether the place can be a store before it becomes one; what it returns is recorded.
    :raises StoreUnreadable: there is something else.
    :raises StoreUnwritable: it cannot be made.
    """
    if is_bucket(url):
        store = _bucket(url, settings or StoreSettings())
        if store.status(layout.FORMAT) is None and _is_empty_bucket(store):
            _write_format(store, check)
        read_format(store)
        return store
    path = _directory(url)
    if _is_empty(path):
        _make_directory(path)
        _write_format(DirectoryStore(path), check)
        _remove_empty(path)
    store = DirectoryStore(path)
    read_format(store)
    return store


def _write_format(store: Store, check: Check | None) -> None:
    document: dict[str, object] = {"format": STORE_FORMAT, "id": os.urandom(16).hex()}
    if check is not None:
        document["probe"] = check(store)
    store.put_if_absent(layout.FORMAT, json.dumps(document, sort_keys=True).encode() + b"\n")


def _bucket(url: str, settings: StoreSettings) -> Store:
    from envkit.store.connect import open_bucket  # late: takes longer than all of a warm run's reading

    return open_bucket(url, settings)


def _open_bucket(url: str, settings: StoreSettings, *, offline: bool, foreseen: "Foreseen | None") -> Store:
    if offline:
        from envkit.store.offline import open_offline

        return open_offline(settings.copies, url.rstrip("/"), settings.endpoint)
    store = _bucket(url, settings)
    if not settings.copies:
        read_format(store)
        return store
    from envkit.store.offline import remember, remembered
    from envkit.store.records import Listing, RecordCopies

    copies, shown = settings.copies, url.rstrip("/")

    def confirm() -> str:
        identity = read_format(store).id
        remember(copies, shown, settings.endpoint, identity)
        return f"{copies}/{identity}"

    if foreseen is None and (identity := remembered(copies, shown, settings.endpoint)):
        return RecordCopies(store, f"{copies}/{identity}", confirm=confirm)
    listing = None
    if foreseen is not None:
        import threading  # late: only who asks a bucket has use for it

        listing = Listing(store, foreseen.prefix)
        # Now, and not before: whatever is imported earlier delays the first request.
        threading.Thread(target=foreseen.meanwhile, name="meanwhile", daemon=True).start()
    return RecordCopies(store, confirm(), listing)


def _is_empty_bucket(store: Store) -> bool:
    return all(key.startswith(layout.PASSING) for key in store.list())


def read_format(store: Store) -> StoreFormat:
    """Read and check a store's `format.json`.

    :raises StoreUnreadable: there is none, or it is damaged.
    :raises NewerStore: it names a later format.
    """
    try:
        data = store.get(layout.FORMAT, limit=MAX_FORMAT_BYTES)
    except ObjectNotFound as error:
        make = f"check the URL, or make a store of it: envkit store init {store.url}" if is_bucket(store.url) else None
        raise StoreUnreadable(
            store.url, f"it is not an envkit store: it has no {layout.FORMAT}", resolution=make
        ) from error
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
        return not any(is_component(name) and f"{name}/" not in layout.PASSING for name in os.listdir(path))
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StoreUnreadable(path, reason(error)) from error


def _remove_empty(path: str) -> None:
    """Remove the directories of objects that were only there for a moment."""
    for name in layout.PASSING:
        for folder, _, _ in os.walk(f"{path}/{name.rstrip('/')}", topdown=False):
            with suppress(OSError):
                os.rmdir(folder)


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
