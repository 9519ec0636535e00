"""What a store must promise before it is made; each promise is broken here once, and the probe has to see it."""

import threading
from collections.abc import Iterable

import pytest

from envkit.errors import EXIT_STORE
from envkit.store import layout
from envkit.store.base import Status, Store
from envkit.store.errors import ObjectNotFound, ObjectTruncated, StoreUnreadable, StoreUnsuitable
from envkit.store.probe import CHECKS, STEPS, probe

_LOCK = threading.Lock()


class MemoryStore(Store):
    """A store that keeps all promises, in memory; subclasses break one each."""

    def __init__(self):
        super().__init__("memory")
        self.objects = {}

    def _get(self, key, limit):
        del limit
        if key not in self.objects:
            raise ObjectNotFound(self.url, key)
        return self.objects[key]

    def _get_range(self, key, start, length):
        data = self.get(key, limit=1 << 20)
        if start + length > len(data):
            raise ObjectTruncated(self.url, key, len(data), start + length)
        return data[start : start + length]

    def _put_if_absent(self, key, pieces: Iterable[bytes]):
        data = b"".join(pieces)
        with _LOCK:
            if key in self.objects:
                return False
            self.objects[key] = data
            return True

    def _status(self, key):
        return Status(size=len(self.objects[key]), modified=1000.0) if key in self.objects else None

    def _delete(self, key):
        self.objects.pop(key, None)

    def _list(self, prefix):
        return iter(sorted(key for key in self.objects if key.startswith(prefix)))


class Overwrites(MemoryStore):
    """Takes no notice of If-None-Match."""

    def _put_if_absent(self, key, pieces):
        self.objects[key] = b"".join(pieces)
        return True


class OverwritesQuietly(MemoryStore):
    """Says that the key was taken, and overwrites."""

    def _put_if_absent(self, key, pieces):
        taken = key in self.objects
        self.objects[key] = b"".join(pieces)
        return not taken


class ManyWin(MemoryStore):
    """Looks, and writes later, as a server without a lock does."""

    def __init__(self):
        super().__init__()
        self.together = threading.Barrier(8)

    def _put_if_absent(self, key, pieces):
        taken = key in self.objects
        if "/race-" in key:
            self.together.wait(30)
        if not taken:
            self.objects[key] = b"".join(pieces)
        return not taken


class LastStays(MemoryStore):
    """Tells one writer that it won, and keeps what another wrote."""

    def _put_if_absent(self, key, pieces):
        data = b"".join(pieces)
        won = super()._put_if_absent(key, (data,))
        if "/race-" in key and not won:
            self.objects[key] = data
        return won


class NobodyWins(MemoryStore):
    """Refuses all that come together."""

    def _put_if_absent(self, key, pieces):
        won = super()._put_if_absent(key, pieces)
        return won and "/race-" not in key


class ReadsLate(MemoryStore):
    """Shows an object only when it is asked a second time."""

    def __init__(self):
        super().__init__()
        self.asked = set()

    def _get(self, key, limit):
        if key not in self.asked:
            self.asked.add(key)
            raise ObjectNotFound(self.url, key)
        return super()._get(key, limit)


class WrongSizes(MemoryStore):
    """Says that everything is empty."""

    def _status(self, key):
        status = super()._status(key)
        return None if status is None else status.replace(size=0)


class WholeForPart(MemoryStore):
    """Takes no notice of Range."""

    def _get_range(self, key, start, length):
        return self.get(key, limit=1 << 20)


class ShiftedRanges(MemoryStore):
    """Is off by one."""

    def _get_range(self, key, start, length):
        return super()._get_range(key, start + 1, length)


class ShortRanges(MemoryStore):
    """Gives what there is of a range, without a word that it is less."""

    def _get_range(self, key, start, length):
        return self.get(key, limit=1 << 20)[start : start + length]


class ListsLate(MemoryStore):
    """Does not list what was written last."""

    def _list(self, prefix):
        newest = list(self.objects)[-1:]
        return (key for key in super()._list(prefix) if key not in newest)


class ListsAnyhow(MemoryStore):
    """Lists in the order of directories."""

    def _list(self, prefix):
        return iter(sorted(super()._list(prefix), key=lambda key: key.split("/")))


class ListsBelowAnything(MemoryStore):
    """Takes no notice of the prefix."""

    def _list(self, prefix):
        return super()._list("/".join(prefix.split("/")[:2]) + "/")


class ListsDeleted(MemoryStore):
    """Goes on listing what is gone."""

    def __init__(self):
        super().__init__()
        self.gone = {}

    def _delete(self, key):
        self.gone[key] = self.objects.pop(key, b"")

    def _list(self, prefix):
        return iter(sorted({*super()._list(prefix), *(key for key in self.gone if key.startswith(prefix))}))

    def _list_status(self, prefix):
        return ((key, Status(size=len(self.objects.get(key, b"")), modified=1000.0)) for key in self._list(prefix))


class DeletesNothing(MemoryStore):
    """Says that it deleted."""

    def _delete(self, key):
        pass


class KeysStayTaken(MemoryStore):
    """Does not give the key of a deleted object again."""

    def __init__(self):
        super().__init__()
        self.used = set()

    def _put_if_absent(self, key, pieces):
        if key in self.used:
            return False
        self.used.add(key)
        return super()._put_if_absent(key, pieces)


BROKEN = {
    Overwrites: "it overwrites objects that must stay",
    OverwritesQuietly: "changed by a write that said that it was refused",
    ManyWin: "of 8 writers at once 8 were told that their object was stored",
    LastStays: "one wins, but another's object is there",
    NobodyWins: "of several writers at once none wins",
    ReadsLate: "what was just written is not what is read",
    WrongSizes: "has another size",
    WholeForPart: "a part of an object is read wrongly",
    ShiftedRanges: "a part of an object is read wrongly",
    ShortRanges: "beyond the end",
    ListsLate: "are not listed as they are",
    ListsAnyhow: "not in the order of the keys",
    ListsBelowAnything: "listed",
    ListsDeleted: "still listed",
    DeletesNothing: "just deleted is still there",
    KeysStayTaken: "stays taken",
}


@pytest.mark.parametrize(("kind", "text"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_store_that_breaks_a_promise_is_refused_with_the_promise(kind, text):
    store = kind()
    with pytest.raises(StoreUnsuitable, match="memory cannot be a store: ") as caught:
        probe(store)
    assert text in caught.value.broken
    assert caught.value.exit_code == EXIT_STORE
    assert caught.value.resolution


def test_a_store_that_keeps_them_all_passes_and_is_left_empty():
    store = MemoryStore()
    steps = []
    found = probe(store, steps.append)
    assert found == {
        "atomic_create": True,
        "delete": True,
        "exact_ranges": True,
        "list_after_write": True,
        "read_after_write": True,
        "racing_writers": 8,
        "races": 24,
        "time": found["time"],
    }
    assert store.objects == {}
    assert len(steps) == STEPS == len(CHECKS)


def test_a_refused_store_is_left_as_it_was():
    store = ManyWin()
    store.objects["somebody/else"] = b"1"
    with pytest.raises(StoreUnsuitable):
        probe(store)
    assert list(store.objects) == ["somebody/else"]


def test_what_a_killed_probe_left_goes_a_day_later():
    class Aging(MemoryStore):
        def _status(self, key):
            status = super()._status(key)
            return status and status.replace(modified=1000.0 if "old" in key else 100_000.0)

    store = Aging()
    store.objects |= {f"{layout.PROBES}old/1": b"", f"{layout.PROBES}young/1": b""}
    probe(store)
    assert list(store.objects) == [f"{layout.PROBES}young/1"]


def test_a_failure_of_the_store_is_told_as_that():
    class Failing(MemoryStore):
        def _put_if_absent(self, key, pieces):
            if "race-1" in key:
                raise StoreUnreadable(self.url, "it went away")
            return super()._put_if_absent(key, pieces)

    with pytest.raises(StoreUnreadable, match="it went away"):
        probe(Failing())
