"""What every store must do, whatever is behind it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from racing import CROWDED_ROUNDS, RACERS, ROUNDS, publish_any, publish_expected, put_all, race

from envkit.model.ids import EnvName
from envkit.store import versions
from envkit.store.base import MAX_COMPONENT, MAX_KEY
from envkit.store.errors import ObjectNotFound, ObjectTooLarge, ObjectTruncated
from envkit.store.open import init_store, open_store, read_format
from envkit.store.probe import probe

BACKENDS = ["directory", "s3"]


@pytest.fixture(params=BACKENDS)
def url(request, tmp_path, monkeypatch):
    """The URL of a new, empty store."""
    if request.param == "directory":
        where = str(tmp_path / "store")
    else:
        server = request.getfixturevalue("s3")
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        where = server.new_url()
    init_store(where)
    return where


@pytest.fixture
def store(url):
    return open_store(url)


def test_what_was_put_is_read_back(store):
    assert store.put_if_absent("packs/ab/one", b"hello") is True
    assert store.get("packs/ab/one", limit=5) == b"hello"
    assert store.size("packs/ab/one") == 5


def test_pieces_are_joined(store):
    assert store.put_if_absent("a/b", (piece for piece in (b"one", b"", b"two"))) is True
    assert store.get("a/b", limit=10) == b"onetwo"


def test_an_object_may_be_empty(store):
    assert store.put_if_absent("a/empty", b"") is True
    assert store.get("a/empty", limit=0) == b""
    assert store.size("a/empty") == 0
    assert store.get_range("a/empty", 0, 0) == b""


def test_a_taken_key_keeps_its_bytes(store):
    store.put_if_absent("a/b", b"first")
    assert store.put_if_absent("a/b", b"second") is False
    assert store.get("a/b", limit=10) == b"first"


def test_a_missing_object_is_named(store):
    for read in (lambda: store.get("no/such", limit=9), lambda: store.get_range("no/such", 0, 1)):
        with pytest.raises(ObjectNotFound, match="has no object no/such") as caught:
            read()
        assert caught.value.key == "no/such"
    assert store.size("no/such") is None


def test_an_object_over_the_limit_is_not_read(store):
    store.put_if_absent("a/b", b"123456")
    with pytest.raises(ObjectTooLarge, match=r"a/b in the store .* has 6 bytes, more than the 5 that it may have"):
        store.get("a/b", limit=5)


def test_a_range_is_exact(store):
    store.put_if_absent("a/b", b"0123456789")
    assert store.get_range("a/b", 3, 4) == b"3456"
    assert store.get_range("a/b", 0, 10) == b"0123456789"
    assert store.get_range("a/b", 10, 0) == b""


@pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (1 << 40, 1)])
def test_a_range_beyond_the_end_is_an_error(store, start, length):
    store.put_if_absent("a/b", b"0123456789")
    with pytest.raises(ObjectTruncated, match=f"a/b in the store .* has 10 bytes instead of {start + length}"):
        store.get_range("a/b", start, length)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1)])
def test_a_negative_range_is_a_mistake(store, start, length):
    with pytest.raises(ValueError, match="invalid range"):
        store.get_range("a/b", start, length)


def test_listing_is_complete_and_in_order_of_characters(store):
    keys = ["a/b/c", "a/b-c", "a/b.c", "a/b/a", "a/B", "a/0", "b", "ab/x", "a/_", "a/b0/z"]
    for key in keys:
        store.put_if_absent(key, b"")
    assert list(store.list()) == sorted([*keys, "format.json"])
    assert list(store.list("a/")) == sorted(key for key in keys if key.startswith("a/"))
    assert list(store.list("a/b/")) == ["a/b/a", "a/b/c"]
    assert list(store.list("nothing/here/")) == []


def test_a_listing_knows_sizes_and_ages_and_is_complete_over_many_objects(store):
    before = store.now()
    sizes = {f"many/{number:03}": number % 7 for number in range(60)}
    for key, size in sizes.items():
        store.put_if_absent(key, bytes(size))
    listed = list(store.list_status("many/"))
    assert [(key, status.size) for key, status in listed] == sorted(sizes.items())
    assert all(before - 2 <= status.modified <= store.now() + 2 for _, status in listed)
    assert abs(store.status("many/000").modified - listed[0][1].modified) <= 1
    assert list(store.list("clock/")) == []


def test_a_large_object_is_one_object(store):
    data = b"".join(b"%07d\n" % number for number in range(1 << 20))
    assert store.put_if_absent("packs/large", data) is True
    assert store.get("packs/large", limit=len(data)) == data
    assert store.get_range("packs/large", len(data) - 8, 8) == data[-8:]
    assert store.put_if_absent("packs/large", data) is False


def test_a_store_keeps_the_promises_that_init_asks_for(store):
    found = probe(store)
    assert found["atomic_create"] is True
    assert list(store.list("probe/")) == []


def test_threads_share_a_store(store):
    def work(number):
        data = bytes([number]) * 1000
        assert store.put_if_absent(f"threads/{number}", data) is True
        assert store.get_range(f"threads/{number}", 10, 20) == data[10:30]
        return store.size(f"threads/{number}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(32))) == [1000] * 32


def test_a_deleted_object_is_gone_and_its_key_is_free(store):
    store.put_if_absent("a/b", b"1")
    store.put_if_absent("a/c", b"2")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert store.size("a/b") is None
    assert list(store.list("a/")) == ["a/c"]
    assert store.put_if_absent("a/b", b"3") is True


@pytest.mark.parametrize(
    "key",
    ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.", "a b", "a\n", "a\x00b", "ä", "a\\b", "a~", "a*b", "x" * (MAX_COMPONENT + 1), "/".join(["x" * 100] * (MAX_KEY // 100 + 1))],
)  # fmt: skip
def test_a_key_that_could_leave_the_store_is_refused_by_every_verb(store, key):
    verbs = [
        lambda: store.get(key, limit=1),
        lambda: store.get_range(key, 0, 1),
        lambda: store.put_if_absent(key, b""),
        lambda: store.size(key),
        lambda: store.delete(key),
    ]
    for verb in verbs:
        with pytest.raises(ValueError, match="invalid key"):
            verb()
    if key:
        with pytest.raises(ValueError, match="invalid prefix"):
            store.list(key + "/")


def test_a_prefix_is_a_whole_component(store):
    with pytest.raises(ValueError, match="invalid prefix 'a'"):
        store.list("a")


def test_a_failing_source_leaves_nothing_behind(store):
    def source():
        yield b"half"
        raise RuntimeError("the session is gone")

    with pytest.raises(RuntimeError, match="the session is gone"):
        store.put_if_absent("a/b", source())
    assert list(store.list("a/")) == []
    assert store.put_if_absent("a/b", b"whole") is True


def test_a_store_knows_its_format_and_keeps_its_identity(store, url):
    assert read_format(store).format == 1
    assert read_format(open_store(url)).id == read_format(store).id
    init_store(url)
    assert read_format(open_store(url)).id == read_format(store).id


def test_of_sixteen_processes_that_put_one_key_exactly_one_wins(url, store):
    found = race(put_all, url)
    for number in range(ROUNDS):
        winners = [racer for racer, won in found if won[number]]
        assert len(winners) == 1
        assert store.get(f"race/{number}", limit=1 << 20) == b"%d" % winners[0] * 1000


def test_of_sixteen_processes_that_publish_one_version_exactly_one_wins(url, store):
    found = race(publish_expected, url)
    for number in range(ROUNDS):
        env = EnvName(owner="alice", name=f"e{number}")
        winners = [racer for racer, won in found if won[number] is not None]
        assert len(winners) == 1
        assert [past.version.author for past in versions.history(store, env)] == [f"r{winners[0]}"]


def test_sixteen_processes_that_take_any_number_get_one_each(url, store):
    found = race(publish_any, url)
    for number in range(CROWDED_ROUNDS):
        env = EnvName(owner="alice", name=f"e{number}")
        assert sorted(won[number] for _, won in found) == list(range(1, RACERS + 1))
        assert len(versions.history(store, env)) == RACERS
