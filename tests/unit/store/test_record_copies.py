"""Copies of version records: they spare reads, and never show what the store does not have."""

import shutil

import pytest

from envkit.errors import Damaged
from envkit.model.ids import EnvName, EnvRef
from envkit.model.version import LayerRef, Version, VersionKind
from envkit.store import versions
from envkit.store.directory import DirectoryStore
from envkit.store.errors import StoreUnreadable
from envkit.store.open import init_store
from envkit.store.records import Listing, RecordCopies

SCI = EnvName(owner="alice", name="sci")
KEY = "envs/alice/sci/00000001.json"


class Counting(DirectoryStore):
    """A store that writes down what is read."""

    def __init__(self, path):
        super().__init__(path)
        self.read = []

    def _get(self, key, limit):
        self.read.append(key)
        return super()._get(key, limit)


@pytest.fixture
def place(tmp_path):
    init_store(str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def fresh(place):
    """A function that gives the store as another process would open it."""
    return lambda: RecordCopies(Counting(str(place / "store")), str(place / "copies"))


def publish(store, **fields):
    layer = LayerRef(tree="ab" * 32, entries=1, size=1, stored=1)
    draft = Version(env=SCI, number=1, kind=VersionKind.ENVIRONMENT, layers=(layer,), **fields)
    return versions.publish(store, draft, expected=None)


def resolve(store, text):
    return versions.resolve(store, EnvRef.parse(text, owner="alice"))


def test_a_record_is_read_once_a_machine(fresh, place):
    plain = DirectoryStore(str(place / "store"))
    for number in range(4):
        publish(plain, message=str(number))
    versions.delete(plain, SCI, [4], author="alice", created="")
    first = fresh()
    assert resolve(first, "sci@2").message == "1"
    assert {KEY.replace("01", "02"), KEY.replace("01", "05")} <= {*first._store.read}
    second = fresh()
    assert resolve(second, "sci@2").message == "1"
    assert second._store.read == []


def test_what_is_no_record_is_not_copied(fresh, place):
    store = fresh()
    store.put_if_absent("trees/ab/cd", b"1")
    list(store.list())
    store.get("trees/ab/cd", limit=9)
    store.get("trees/ab/cd", limit=9)
    assert store._store.read == ["trees/ab/cd"] * 2
    assert not (place / "copies").exists()


def test_a_record_that_is_gone_is_not_served_from_its_copy(fresh):
    publish(fresh())
    store = fresh()
    resolve(store, "sci")
    DirectoryStore(store._store.url).delete(KEY)
    assert versions.numbers(store, SCI) == []
    assert store._store.size(KEY) is None
    for reader in (store, fresh()):
        with pytest.raises(Exception, match="has no version 1"):
            versions.load(reader, SCI, 1)


def test_another_record_under_the_same_key_is_read_anew(fresh, place):
    publish(fresh(), message="one")
    assert resolve(fresh(), "sci").message == "one"
    DirectoryStore(str(place / "store")).delete(KEY)
    publish(fresh(), message="two")
    assert resolve(fresh(), "sci").message == "two"


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-1], lambda data: data + b"x", lambda data: data.replace(b"alice", b"mallo"), lambda data: b"\xff" * len(data)])  # fmt: skip
def test_a_damaged_copy_only_costs_a_read(fresh, place, spoil):
    publish(fresh(), message="mine")
    resolve(fresh(), "sci")
    copy = place / "copies" / KEY
    whole = copy.read_bytes()
    copy.write_bytes(spoil(whole))
    store = fresh()
    assert resolve(store, "sci").message == "mine"
    assert store._store.read == [KEY]
    assert copy.read_bytes() == whole


def test_copies_that_cannot_be_kept_are_done_without(fresh, place):
    publish(fresh())
    (place / "copies").write_bytes(b"a file in the way")
    assert resolve(fresh(), "sci").number == 1


def test_a_limit_holds_for_copies_too(fresh):
    publish(fresh())
    store = fresh()
    resolve(store, "sci")
    with pytest.raises(Exception, match="more than the 5 that it may have"):
        store.get(KEY, limit=5)


@pytest.mark.parametrize("wrong", ["flipped", "another"])
def test_a_record_that_is_damaged_on_its_way_is_not_kept(fresh, place, wrong):
    for message in ("a", "b"):
        publish(fresh(), message=message)
    shutil.rmtree(place / "copies", ignore_errors=True)
    other = DirectoryStore(str(place / "store")).get(KEY.replace("01", "02"), limit=1 << 20)
    store = fresh()
    usual = store._store._get

    def damaged(key, limit):
        data = usual(key, limit)
        return other if wrong == "another" else data.replace(b'"a"', b'"c"')

    store._store._get = damaged
    with pytest.raises(Damaged):
        resolve(store, "sci@1")
    store._store._get = usual
    assert resolve(store, "sci@1").message == "a"
    assert resolve(fresh(), "sci@1").message == "a"


def test_a_listing_that_was_on_its_way_answers_once(place):
    store = DirectoryStore(str(place / "store"))
    publish(store)
    copies = RecordCopies(store, str(place / "copies"), Listing(store, "envs/alice/sci/"))
    copies._listing._thread.join()
    publish(store)
    assert list(copies.list("envs/alice/sci/")) == [KEY]
    assert len(list(copies.list("envs/alice/sci/"))) == 2


def test_a_listing_of_something_else_answers_nothing(place):
    store = DirectoryStore(str(place / "store"))
    publish(store)
    copies = RecordCopies(store, str(place / "copies"), Listing(store, "envs/alice/other/"))
    assert list(copies.list("envs/alice/sci/")) == [KEY]


def test_a_listing_that_failed_fails_who_asks_for_it(place):
    store = DirectoryStore(str(place / "none" / "store"))
    listing = Listing(store, "no prefix")
    with pytest.raises(ValueError, match="invalid prefix"):
        RecordCopies(store, str(place / "copies"), listing)._now("no prefix")


def unasked():
    raise AssertionError("the store was asked which one it is")


def other_store():
    raise StoreUnreadable("there", "it is not an envkit store")


def test_copies_that_a_listing_confirms_need_no_other_question(fresh, place):
    publish(fresh(), message="mine")
    resolve(fresh(), "sci")
    store = RecordCopies(Counting(str(place / "store")), str(place / "copies"), confirm=unasked)
    assert resolve(store, "sci").message == "mine"
    assert store._store.read == []


def test_a_store_that_was_made_anew_is_noticed_and_store_which_one_it_is(fresh, place):
    publish(fresh(), message="old")
    resolve(fresh(), "sci")
    kept = (place / "copies" / KEY).read_bytes()
    shutil.rmtree(place / "store")
    init_store(str(place / "store"))
    publish(DirectoryStore(str(place / "store")), message="new")
    asked = []

    def confirm():
        asked.append(True)
        return str(place / "others")

    store = RecordCopies(Counting(str(place / "store")), str(place / "copies"), confirm=confirm)
    assert resolve(store, "sci").message == "new"
    assert resolve(store, "sci").message == "new"
    assert asked == [True]
    assert store._store.read == [KEY]
    assert (place / "copies" / KEY).read_bytes() == kept
    assert (place / "others" / KEY).exists()


@pytest.mark.parametrize(
    "verb",
    [
        lambda store: list(store.list("envs/alice/sci/")),  # there is nothing
        lambda store: list(store.list("trees/")),
        lambda store: list(store.list()),
        lambda store: store.get("format.json", limit=1 << 16),
        lambda store: store.get_range("format.json", 0, 1),
        lambda store: store.size("format.json"),
        lambda store: store.put_if_absent("trees/ab/cd", b"1"),
        lambda store: store.delete("trees/ab/cd"),
    ],
)
def test_everything_else_asks_first_whether_it_is_a_store(place, verb):
    store = RecordCopies(DirectoryStore(str(place / "store")), str(place / "copies"), confirm=other_store)
    for _ in range(2):
        with pytest.raises(StoreUnreadable, match="not an envkit store"):
            verb(store)
    assert list(DirectoryStore(str(place / "store")).list()) == ["format.json"]


def test_a_record_of_the_same_size_and_age_is_another_one_if_its_tag_is(place):
    class Tagging(Counting):
        tag = "one"

        def _list_status(self, prefix):
            return ((key, status.replace(modified=1.0, tag=self.tag)) for key, status in super()._list_status(prefix))

    plain = DirectoryStore(str(place / "store"))
    publish(plain)
    for tag, read in (("one", [KEY]), ("one", []), ("two", [KEY]), ("two", []), ("", [KEY])):
        store = RecordCopies(Tagging(plain.url), str(place / "copies"))
        store._store.tag = tag
        resolve(store, "sci")
        assert store._store.read == read
