"""Owns a store in a bucket that must not be asked: what this node remembers of it, its version records.

They are the copies that `records` keeps. So a name means what it meant when this node last asked; everything else
that a store can do is an error here.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator

from envkit.store.base import Status, Store, is_key
from envkit.store.errors import ObjectNotFound, ObjectTooLarge, StoreUnreadable, StoreUnwritable
from envkit.store.records import make_private, read_copy

_NAMES = "of"


class OfflineStore(Store):
    """The version records of a store that are kept in a directory."""

    def __init__(self, url: str, directory: str) -> None:
        super().__init__(url)
        self._directory = directory

    def _get(self, key: str, limit: int) -> bytes:
        data = read_copy(f"{self._directory}/{key}", limit)
        if data is None:
            raise ObjectNotFound(self.url, key)
        if len(data) > limit:
            raise ObjectTooLarge(self.url, key, len(data), limit)
        return data

    def _list(self, prefix: str) -> Iterator[str]:
        keys = []
        for folder, _, names in os.walk(f"{self._directory}/{prefix}"):
            keys += [os.path.relpath(f"{folder}/{name}", self._directory) for name in names]
        return iter(sorted(filter(is_key, keys)))

    def _status(self, key: str) -> Status | None:
        raise self._refused(key)

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        raise self._refused(key)

    def _put_if_absent(self, key: str, pieces: Iterable[bytes]) -> bool:
        raise StoreUnwritable(self.url, "it must not be asked, as --offline says")

    def _delete(self, key: str) -> None:
        raise StoreUnwritable(self.url, "it must not be asked, as --offline says")

    def _refused(self, key: str) -> StoreUnreadable:
        return StoreUnreadable(self.url, f"{key} is not on this node, and the store must not be asked")


def remember(copies: str, url: str, endpoint: str, identity: str) -> None:
    """Note which store a URL is, for a time when it must not be asked. It is never needed, so nothing fails here."""
    if remembered(copies, url, endpoint) == identity:
        return
    path = _name(copies, url, endpoint)
    try:
        make_private(os.path.dirname(path))
        with open(f"{path}.{os.getpid()}.new", "w", encoding="ascii") as file:
            file.write(identity)
        os.replace(f"{path}.{os.getpid()}.new", path)
    except OSError:
        return


def open_offline(copies: str, url: str, endpoint: str) -> OfflineStore:
    """Return what this node remembers of the store at a URL.

    :raises StoreUnreadable: it has never read it.
    """
    identity = remembered(copies, url, endpoint)
    if identity is None:
        raise StoreUnreadable(url, "this node has never read it, and it must not be asked now")
    if not identity:
        raise StoreUnreadable(url, "what this node noted of it is damaged, and it must not be asked now")
    return OfflineStore(url, f"{copies}/{identity}")


def remembered(copies: str, url: str, endpoint: str) -> str | None:
    """Return which store a URL was when `remember` was last told; None if it never was, "" if the note is damaged."""
    try:
        with open(_name(copies, url, endpoint), encoding="ascii", errors="replace") as file:
            identity = file.read(64)
    except OSError:
        return None
    return identity if len(identity) == 32 and identity.isascii() and identity.isalnum() else ""


def _name(copies: str, url: str, endpoint: str) -> str:
    return f"{copies}/{_NAMES}/{hashlib.sha256(f'{url} {endpoint}'.encode()).hexdigest()}"
