"""Where start packs are found and left: the best of the store's and of this node's, and nothing damaged."""

import os

import pytest
from start_support import Images

from envkit.content.startpacker import encode
from envkit.model.ids import EnvName
from envkit.model.startpack import GRANULE
from envkit.ondemand import startplaces
from envkit.ondemand.fetcher import Source
from envkit.ondemand.startplaces import StartPlaces
from envkit.store import starts
from envkit.store.directory import DirectoryStore
from envkit.store.errors import StoreUnreadable, StoreUnwritable

ENV = EnvName(owner="lab", name="sci")


class ReadOnly(DirectoryStore):
    """A store of which somebody may only read."""

    def _put_if_absent(self, key, pieces):
        raise StoreUnwritable(self.url, "Permission denied")


class Unreadable(ReadOnly):
    """A store that is not there."""

    def _list_status(self, prefix):
        raise StoreUnreadable(self.url, "No such file or directory")


@pytest.fixture
def images():
    return Images(40 * GRANULE, 8 * GRANULE)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "store").mkdir()
    return lambda kind=DirectoryStore: places(tmp_path, kind)


def places(tmp_path, kind):
    store = kind(str(tmp_path / "store"))
    return StartPlaces(store, Source(store.url, store.get_range), str(tmp_path / "cache/starts"))


def made(images, entry_point="true", count=40):
    return encode(images.layers, entry_point, images.all_granules()[:count], images.read, level=1)


def find(place, images, entry_point="true"):
    return place.find(ENV, [layer.digest for layer in images.layers], entry_point)


def content(found):
    """Return the whole object as a stream would get it."""
    rest = found.source.get_range(found.key, len(found.head), found.pack.size - len(found.head))
    return found.head + rest


def test_what_was_kept_is_found_by_everybody(place, images, tmp_path):
    encoded = made(images)
    assert find(place(), images) is None
    assert place().keep(ENV, encoded).number == 1
    found = find(place(), images)
    assert (found.pack, found.local) == (encoded.pack, False)
    assert content(found) == b"".join((encoded.header, *encoded.frames))
    assert find(place(), Images(GRANULE)) is None
    assert place().find(EnvName(owner="lab", name="b"), [layer.digest for layer in images.layers], "true") is None
    assert not os.path.exists(tmp_path / "cache")


def test_the_same_entry_point_is_better_than_a_newer_one(place, images):
    for entry_point in ("true", "make"):
        place().keep(ENV, made(images, entry_point))
    assert find(place(), images).pack.entry_point == "true"
    assert find(place(), images, "make").pack.entry_point == "make"
    assert find(place(), images, "gcc").pack.entry_point in ("make", "true")


def test_where_the_store_takes_nothing_this_node_keeps_it(place, images, tmp_path):
    place().keep(ENV, made(images, count=5))
    encoded = made(images, count=9)
    assert place(ReadOnly).keep(ENV, encoded).number == 2
    found = find(place(ReadOnly), images)
    assert (found.pack, found.local) == (encoded.pack, True)
    assert content(found) == b"".join((encoded.header, *encoded.frames))
    assert os.stat(tmp_path / "cache/starts").st_mode & 0o777 == 0o700
    assert [start.number for start in starts.list_all(DirectoryStore(str(tmp_path / "store")))] == [1]
    place().keep(ENV, made(images, count=11))
    place().keep(ENV, made(images, count=12))
    assert len(find(place(ReadOnly), images).pack.granules) == 12


def test_a_store_that_cannot_be_read_is_passed_over(place, images, capfd):
    assert find(place(Unreadable), images) is None
    assert "start packs cannot be listed" in capfd.readouterr().err
    assert place(Unreadable).keep(ENV, made(images)).number == 1
    assert find(place(Unreadable), images).local


def test_nothing_is_kept_where_nothing_can_be(place, images, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert place(ReadOnly).keep(ENV, made(images)) is None
    assert find(place(ReadOnly), images) is None


def damage(store, start, data):
    store.delete(start.key)
    store.put_if_absent(start.key, data)


def test_what_is_damaged_is_passed_over_for_the_next_one(place, images, tmp_path, capfd):
    store = DirectoryStore(str(tmp_path / "store"))
    first = made(images, count=3)
    place().keep(ENV, first)
    second = place().keep(ENV, made(images, count=4))
    damage(store, second, store.get(second.key, limit=1 << 20)[:-1])
    assert find(place(), images).pack == first.pack
    assert "a start pack is not used" in capfd.readouterr().err
    damage(store, second, b"")
    assert find(place(), images).pack == first.pack


def test_one_that_lies_under_the_name_of_another_is_passed_over(place, images, tmp_path):
    other = Images(4 * GRANULE, seed=3)
    store = DirectoryStore(str(tmp_path / "store"))
    wrong = made(other, count=2)
    for entry_point, stack in (("true", made(images).pack.stack), ("make", other.pack()[0].stack)):
        pieces = [wrong.header, *wrong.frames]
        starts.put(store, ENV, stack=stack, entry_point=entry_point, digest=wrong.pack.digest, pieces=pieces)
    assert find(place(), images) is None
    assert find(place(), other, "make") is None


def test_the_oldest_go_where_they_take_too_much_space(place, images, monkeypatch, tmp_path):
    sizes = []
    for entry_point in ("first", "second", "third"):
        start = place(ReadOnly).keep(ENV, made(images, entry_point))
        path = tmp_path / "cache/starts" / start.key
        os.utime(path, (len(sizes), len(sizes)))
        sizes.append(start.size)
    monkeypatch.setattr(startplaces, "MAX_KEPT_BYTES", sum(sizes[:2]) + 100)
    place(ReadOnly).keep(ENV, made(images, "fourth", count=1))
    kept = starts.list_all(DirectoryStore(str(tmp_path / "cache/starts")))
    assert starts.entry_name("first") not in {start.entry for start in kept}
    assert starts.entry_name("fourth") in {start.entry for start in kept}
