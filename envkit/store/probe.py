"""Owns finding out whether a place keeps the promises that a store has to keep; `init` asks before it makes one.

Some servers accept the header that makes a put conditional and overwrite all the same; others let two writers at once
both win; some file systems have no hard links, some caches show old listings. A save that relied on those would be lost
without anybody knowing. Everything happens below `probe/`, and is removed in the end.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from envkit.errors import EnvkitError
from envkit.store import layout
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound, ObjectTruncated, StoreUnsuitable

WRITERS = 8
KEYS = 8
ROUNDS = 3
_SIZE = 4096
_OLD = 24 * 3600.0
# In the order of their characters, which is not that of directories.
_NAMES = ("B", "a-b", "a.b", "a/b", "a/c/d", "a0", "b")

Advance = Callable[[int], None]


def probe(store: Store, advance: Advance = lambda _count: None) -> dict[str, object]:
    """Try everything that envkit relies on; return what was found out, for `format.json`.

    :param advance: told of each of the STEPS.
    :raises StoreUnsuitable: it breaks a promise; says which.
    :raises StoreError: it cannot be used at all.
    """
    return _Probe(store, advance).run()


class _Probe:
    def __init__(self, store: Store, advance: Advance) -> None:
        self._store = store
        self._advance = advance
        self._prefix = f"{layout.PROBES}{os.urandom(8).hex()}/"
        self._written: set[str] = set()

    def run(self) -> dict[str, object]:
        try:
            for check in CHECKS:
                check(self)
                self._advance(1)
        finally:
            self._clean()
        return {
            "atomic_create": True,
            "delete": True,
            "exact_ranges": True,
            "list_after_write": True,
            "read_after_write": True,
            "racing_writers": WRITERS,
            "races": KEYS * ROUNDS,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def remove_old(self) -> None:
        """Remove what a killed probe left, a day later."""
        now = self._store.now()
        for key, status in list(self._store.list_status(layout.PROBES)):
            if status.modified < now - _OLD:
                self._store.delete(key)

    def reads_what_was_written(self) -> None:
        key, data = self._key("one"), os.urandom(_SIZE)
        self._require(self._put(key, data), "an object cannot be written: its key, which is new, is said to be taken")
        self._require(self._bytes(key) == data, "what was just written is not what is read")
        status = self._store.status(key)
        self._require(status is not None and status.size == _SIZE, "an object that was just written has another size")

    def never_overwrites(self) -> None:
        key, data = self._key("two"), os.urandom(_SIZE)
        self._put(key, data)
        for other in (os.urandom(_SIZE), data, b""):
            if self._put(key, other):
                self._fail("it overwrites objects that must stay (on S3: despite If-None-Match)")
            self._require(self._bytes(key) == data, "an object was changed by a write that said that it was refused")

    def reads_exact_ranges(self) -> None:
        key, data = self._key("ranges"), os.urandom(_SIZE)
        self._put(key, data)
        for start, end in ((0, 1), (1, 100), (1000, 3000), (_SIZE - 1, _SIZE), (0, _SIZE)):
            self._require(
                self._range(key, start, end - start) == data[start:end], "a part of an object is read wrongly"
            )
        self._require(
            self._range(key, _SIZE - 8, 16) is None, "a part that is beyond the end is read as if it was there"
        )

    def one_of_many_writers_wins(self) -> None:
        for number in range(ROUNDS):
            bodies = [bytes([writer]) * _SIZE for writer in range(WRITERS)]
            keys = [self._key(f"race-{number}-{key}") for key in range(KEYS)]
            winners = self._race(keys, bodies)
            for key in keys:
                found = winners[key]
                self._require(len(found) > 0, "of several writers at once none wins")
                self._require(
                    len(found) == 1,
                    f"of {WRITERS} writers at once {len(found)} were told that their object was stored",
                )
                self._require(
                    self._bytes(key) == bodies[found[0]],
                    "of several writers at once one wins, but another's object is there",
                )

    def lists_what_was_written(self) -> None:
        for number, name in enumerate(_NAMES):
            self._put(self._key(f"list/{name}"), bytes(number))
        prefix = self._key("list/")
        expected = [(f"{prefix}{name}", number) for number, name in enumerate(_NAMES)]
        found = [(key, status.size) for key, status in self._store.list_status(prefix)]
        self._require(sorted(found) == sorted(expected), "objects that were just written are not listed as they are")
        self._require(found == expected, "its listings are not in the order of the keys")
        below = list(self._store.list(self._key("list/a/")))
        self._require(below == [f"{prefix}a/b", f"{prefix}a/c/d"], "a listing below a prefix is wrong")

    def forgets_what_was_deleted(self) -> None:
        key = self._key("gone")
        self._put(key, b"1")
        self._store.delete(key)
        self._require(self._store.status(key) is None, "an object that was just deleted is still there")
        self._require(key not in self._store.list(self._prefix), "an object that was just deleted is still listed")
        self._require(self._put(key, b"2"), "the key of a deleted object stays taken")
        self._require(self._bytes(key) == b"2", "an object that was deleted comes back")

    def _race(self, keys: list[str], bodies: list[bytes]) -> dict[str, list[int]]:
        """Let writers put all keys at once; return who was told to have won each."""
        winners: dict[str, list[int]] = {key: [] for key in keys}
        barrier, failures = threading.Barrier(len(bodies)), list[EnvkitError]()

        def write(writer: int) -> None:
            try:
                for key in keys:
                    barrier.wait(120)
                    if self._put(key, bodies[writer]):
                        winners[key].append(writer)
            except EnvkitError as error:
                failures.append(error)
                barrier.abort()
            except threading.BrokenBarrierError:
                pass

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(len(bodies))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return winners

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _put(self, key: str, data: bytes) -> bool:
        self._written.add(key)
        return self._store.put_if_absent(key, data)

    def _bytes(self, key: str) -> bytes | None:
        try:
            return self._store.get(key, limit=2 * _SIZE)
        except ObjectNotFound:
            return None

    def _range(self, key: str, start: int, length: int) -> bytes | None:
        try:
            return self._store.get_range(key, start, length)
        except (ObjectNotFound, ObjectTruncated):
            return None

    def _require(self, kept: bool, broken: str) -> None:  # noqa: FBT001  # reads like the sentence that it is
        if not kept:
            self._fail(broken)

    def _fail(self, broken: str) -> None:
        raise StoreUnsuitable(self._store.url, broken)

    def _clean(self) -> None:
        with suppress(EnvkitError):  # what stays goes with a later probe
            for key in self._written:
                self._store.delete(key)


CHECKS: tuple[Callable[[_Probe], None], ...] = (
    _Probe.reads_what_was_written,
    _Probe.never_overwrites,
    _Probe.reads_exact_ranges,
    _Probe.lists_what_was_written,
    _Probe.forgets_what_was_deleted,
    _Probe.one_of_many_writers_wins,
    _Probe.remove_old,
)
STEPS = len(CHECKS)
