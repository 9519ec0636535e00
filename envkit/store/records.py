"""Owns copies of version records on a node, so that resolving a name in a bucket does not read all of them each time.

Records never change, and a listing shows which there are; so a copy counts only for a record that this process has
listed, and only in the same size and age, and under the same tag where the store has those. The copy itself proves
nothing: its digest tells whether it is whole, and a copy that is not costs a read. What is below the directory may be
deleted at any time.

Which store it is need not be asked for this: if what was listed fits the copies of the store that a URL was before, it
is that one, as no two writers ever write the same record. For everything else it is asked first.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator

from envkit.errors import Damaged
from envkit.model.version import version_from_json
from envkit.store.base import Status, Store
from envkit.store.layout import ENVIRONMENTS, version_of


class Listing:
    """A listing that is on its way, in a thread of its own, and good for one answer."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.prefix = prefix
        self._found: list[tuple[str, Status]] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._list, args=(store,), name="listing", daemon=True)
        self._thread.start()

    def result(self) -> list[tuple[str, Status]]:
        """Wait for it; errors are those of `list_status`."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found

    def _list(self, store: Store) -> None:
        try:
            self._found = list(store.list_status(self.prefix))
        except Exception as error:  # noqa: BLE001  # whoever asks for the result gets it
            self._error = error


class RecordCopies(Store):
    """A store whose version records are kept in a directory, too. Everything else is passed on."""

    def __init__(
        self,
        store: Store,
        directory: str,
        listing: Listing | None = None,
        confirm: Callable[[], str] | None = None,
    ) -> None:
        """Keep the records of `store` in a directory; the first listing of its prefix may be on its way.

        :param confirm: where it is not certain that this is the store whose records the directory has: asks which one
            it is, and returns the directory of that. Called once, when copies do not answer.
        """
        super().__init__(store.url)
        self._store = store
        self._directory = directory
        self._listed: dict[str, Status] = {}
        self._listing = listing
        self._confirm = confirm
        self._confirming = threading.Lock()

    def _sure(self) -> Store:
        """The store itself, after making sure that it is one and which."""
        with self._confirming:
            if self._confirm is not None:
                self._directory = self._confirm()
                self._confirm = None
        return self._store

    def remove_leftovers(self, *, older_than: float) -> int:
        """Remove what killed writers left in the store itself."""
        return self._sure().remove_leftovers(older_than=older_than)

    def _get(self, key: str, limit: int) -> bytes:
        listed = self._listed.get(key)
        if listed is None:
            return self._sure().get(key, limit=limit)
        data = _read(f"{self._directory}/{key}", listed) if listed.size <= limit else None
        if data is None:
            data = self._sure().get(key, limit=limit)
            if len(data) == listed.size and _is_whole(key, data):
                _write(f"{self._directory}/{key}", listed, data)
        return data

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        return self._sure().get_range(key, start, length)

    def _put_if_absent(self, key: str, pieces: Iterable[bytes]) -> bool:
        return self._sure().put_if_absent(key, pieces)

    def _status(self, key: str) -> Status | None:
        return self._sure().status(key)

    def _delete(self, key: str) -> None:
        self._listed.pop(key, None)
        self._sure().delete(key)

    def _list(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self._list_status(prefix))

    def _list_status(self, prefix: str) -> Iterator[tuple[str, Status]]:
        for key in [key for key in self._listed if key.startswith(prefix)]:
            del self._listed[key]
        found = False
        for key, status in self._now(prefix):
            found = True
            if version_of(key) is not None:
                self._listed[key] = status
            yield key, status
        if not found:
            self._sure()  # or it is no store at all, and that is what has to be said

    def _now(self, prefix: str) -> Iterable[tuple[str, Status]]:
        listing, self._listing = self._listing, None
        if listing is not None and listing.prefix == prefix:
            return listing.result()
        store = self._store if prefix.startswith(ENVIRONMENTS) else self._sure()
        return store.list_status(prefix)


def _is_whole(key: str, data: bytes) -> bool:
    """Tell whether this is the record that the key says; what was damaged on its way must not be kept."""
    try:
        version = version_from_json(data, where=key)
    except Damaged:
        return False
    return (version.env, version.number) == version_of(key)


def _read(path: str, listed: Status) -> bytes | None:
    """Return a copy's bytes; None where there is none that can be used."""
    try:
        with open(path, "rb") as file:
            head, data = file.readline(256), file.read(listed.size + 1)
    except OSError:
        return None
    return data if len(data) == listed.size and head == _head(listed, data) else None


def read_copy(path: str, limit: int) -> bytes | None:
    """Return the record that a copy holds, whatever the store says of it now; None where there is no whole one."""
    try:
        with open(path, "rb") as file:
            head, data = file.readline(256), file.read(limit + 1)
    except OSError:
        return None
    return data if head.partition(b" ")[0] == hashlib.sha256(data).hexdigest().encode() else None


def _write(path: str, listed: Status, data: bytes) -> None:
    """Keep a copy; it is never needed, so that whatever fails is passed over, and nothing is synced."""
    temporary = f"{path}.{os.getpid()}.new"
    with contextlib.suppress(OSError):
        make_private(os.path.dirname(path))
        try:
            with open(temporary, "wb") as file:
                file.write(_head(listed, data) + data)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)


def make_private(directory: str) -> None:
    """Make a directory and what is missing above it, all of it private."""
    try:
        os.mkdir(directory, mode=0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_private(os.path.dirname(directory))
        os.mkdir(directory, mode=0o700)


def _head(listed: Status, data: bytes) -> bytes:
    tag = f" {hashlib.sha256(listed.tag.encode()).hexdigest()}" if listed.tag else ""
    return f"{hashlib.sha256(data).hexdigest()} {listed.modified!r}{tag}\n".encode()
