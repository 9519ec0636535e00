"""Owns what a store is: immutable objects under checked keys, and the verbs that every backend has.

The public verbs check keys on their way in and out, so that a backend never sees a path that leaves the store.
What the keys mean is `layout`'s; which backend a URL names is `open`'s.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from envkit.model.record import Record
from envkit.store.errors import StoreUnreadable

MAX_KEY = 1024
MAX_COMPONENT = 255
_COMPONENT = re.compile(r"[A-Za-z0-9._-]+")


def is_component(name: str) -> bool:
    """Tell whether a name can be one component of a key."""
    return len(name) <= MAX_COMPONENT and _COMPONENT.fullmatch(name) is not None and name not in (".", "..")


def is_key(text: str) -> bool:
    """Tell whether text is a key: components of letters, digits, `.`, `_` and `-`, with slashes between them."""
    return len(text) <= MAX_KEY and all(is_component(part) for part in text.split("/"))


class Status(Record):
    """What a store knows of an object: its size in bytes, and when it was written, in seconds by the store's clock.

    `tag` is the store's name for these bytes, an ETag, where it has names for them.
    """

    size: int
    modified: float
    tag: str = ""


class Store(ABC):
    """Objects by key. Safe to use from several threads and processes at once.

    Keys are never changed once written; an invalid key is a mistake of the caller and raises ValueError. Every verb
    raises StoreUnreadable or StoreUnwritable when the backend fails.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, key: str, *, limit: int) -> bytes:
        """Return a whole object of at most `limit` bytes.

        :raises ObjectNotFound: there is none.
        :raises ObjectTooLarge: it is larger.
        """
        return self._get(_checked(key), limit)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return exactly the bytes `start` to `start + length` of an object.

        :raises ObjectNotFound: there is none.
        :raises ObjectTruncated: it ends earlier.
        """
        if start < 0 or length < 0:
            raise ValueError(f"invalid range {start}+{length}")
        return self._get_range(_checked(key), start, length)

    def put_if_absent(self, key: str, data: bytes | Iterable[bytes]) -> bool:
        """Write an object unless its key is taken; on return it is durable, whoever wrote it.

        :returns: True if this call wrote it, False if it was there.
        :raises StoreFull: there is no space; nothing of the object is left.
        """
        return self._put_if_absent(_checked(key), (data,) if isinstance(data, bytes) else data)

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes, or None if there is none."""
        status = self.status(key)
        return None if status is None else status.size

    def status(self, key: str) -> Status | None:
        """Return the size and the age of an object, or None if there is none."""
        return self._status(_checked(key))

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._delete(_checked(key))

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below `prefix`, in order of their characters; `prefix` is empty or ends with a slash.

        Objects whose names are no keys belong to somebody else and are left out.
        """
        return filter(is_key, self._list(_checked_prefix(prefix)))

    def list_status(self, prefix: str = "") -> Iterator[tuple[str, Status]]:
        """Yield keys as `list` does, each with its status; what is deleted meanwhile may be left out."""
        return ((key, status) for key, status in self._list_status(_checked_prefix(prefix)) if is_key(key))

    def now(self) -> float:
        """Return the time by the clock that ages objects, in seconds: that of an object written for this."""
        key = f"clock/{os.urandom(8).hex()}"
        self.put_if_absent(key, b"")
        try:
            status = self.status(key)
        finally:
            self.delete(key)
        if status is None:
            raise StoreUnreadable(self.url, "an object that was just written is not there")
        return status.modified

    def remove_leftovers(self, *, older_than: float) -> int:
        """Remove what killed writers left that never became an object, if older than so many seconds; return how many.

        Backends in which nothing of that kind can be left do nothing.
        """
        del older_than
        return 0

    @abstractmethod
    def _get(self, key: str, limit: int) -> bytes: ...

    @abstractmethod
    def _get_range(self, key: str, start: int, length: int) -> bytes: ...

    @abstractmethod
    def _put_if_absent(self, key: str, pieces: Iterable[bytes]) -> bool: ...

    @abstractmethod
    def _status(self, key: str) -> Status | None: ...

    @abstractmethod
    def _delete(self, key: str) -> None: ...

    @abstractmethod
    def _list(self, prefix: str) -> Iterator[str]: ...

    def _list_status(self, prefix: str) -> Iterator[tuple[str, Status]]:
        """Backends whose listings say so much override this."""
        for key in self._list(prefix):
            if is_key(key) and (status := self._status(key)) is not None:
                yield key, status


def _checked(key: str) -> str:
    if not is_key(key):
        raise ValueError(f"invalid key {key!r}")
    return key


def _checked_prefix(prefix: str) -> str:
    if prefix and not (prefix.endswith("/") and is_key(prefix[:-1])):
        raise ValueError(f"invalid prefix {prefix!r}")
    return prefix
