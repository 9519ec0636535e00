"""What every store must do, whatever is behind it."""

import multiprocessing

import pytest

from envkit.errors import Conflict
from envkit.model.ids import EnvName
from envkit.model.version import LayerRef, Version, VersionKind
from envkit.store import versions
from envkit.store.base import MAX_COMPONENT, MAX_KEY
from envkit.store.errors import ObjectNotFound, ObjectTooLarge, ObjectTruncated
from envkit.store.open import init_store, open_store, read_format

BACKENDS = ["directory"]
RACERS = 16
ROUNDS = 10


@pytest.fixture(params=BACKENDS)
def url(request, tmp_path):
    """The URL of a new, empty store."""
    assert request.param == "directory"
    where = str(tmp_path / "store")
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


def _race(work, *arguments):
    """Run `work(racer, barrier, results, *arguments)` in as many processes as there are racers; return all results."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(RACERS), context.SimpleQueue()
    racers = [context.Process(target=work, args=(n, barrier, results, *arguments)) for n in range(RACERS)]
    for racer in racers:
        racer.start()
    found = [results.get() for _ in racers]
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * RACERS
    return found


def _put_all(racer, barrier, results, url):
    store = open_store(url)
    won = []
    for number in range(ROUNDS):
        barrier.wait(30)
        won.append(store.put_if_absent(f"race/{number}", b"%d" % racer * 1000))
    results.put((racer, won))


def test_of_sixteen_processes_that_put_one_key_exactly_one_wins(url, store):
    found = _race(_put_all, url)
    for number in range(ROUNDS):
        winners = [racer for racer, won in found if won[number]]
        assert len(winners) == 1
        assert store.get(f"race/{number}", limit=1 << 20) == b"%d" % winners[0] * 1000


def _draft(env, author):
    layer = LayerRef(tree="ab" * 32, entries=1, size=1, stored=1)
    return Version(env=env, number=1, kind=VersionKind.ENVIRONMENT, layers=(layer,), author=author)


def _publish_all(racer, barrier, results, url, *, expect):
    store = open_store(url)
    won = []
    for number in range(ROUNDS // 2):
        barrier.wait(30)
        try:
            env = EnvName(owner="alice", name=f"e{number}")
            won.append(versions.publish(store, _draft(env, f"r{racer}"), expected=1 if expect else None).number)
        except Conflict:
            won.append(None)
    results.put((racer, won))


def _publish_expected(racer, barrier, results, url):
    _publish_all(racer, barrier, results, url, expect=True)


def _publish_any(racer, barrier, results, url):
    _publish_all(racer, barrier, results, url, expect=False)


def test_of_sixteen_processes_that_publish_one_version_exactly_one_wins(url, store):
    found = _race(_publish_expected, url)
    for number in range(ROUNDS // 2):
        env = EnvName(owner="alice", name=f"e{number}")
        winners = [racer for racer, won in found if won[number] is not None]
        assert len(winners) == 1
        assert [past.version.author for past in versions.history(store, env)] == [f"r{winners[0]}"]


def test_sixteen_processes_that_take_any_number_get_one_each(url, store):
    found = _race(_publish_any, url)
    for number in range(ROUNDS // 2):
        env = EnvName(owner="alice", name=f"e{number}")
        assert sorted(won[number] for _, won in found) == list(range(1, RACERS + 1))
        assert len(versions.history(store, env)) == RACERS
