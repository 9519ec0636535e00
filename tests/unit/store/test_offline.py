"""What a node can read of a store in a bucket that it must not ask."""

import pytest

from envkit.errors import EXIT_STORE, NotFound
from envkit.model.ids import EnvName, EnvRef
from envkit.model.version import LayerRef, Version, VersionKind
from envkit.store import versions
from envkit.store.directory import DirectoryStore
from envkit.store.errors import StoreUnreadable, StoreUnwritable
from envkit.store.offline import open_offline, remember, remembered
from envkit.store.open import Foreseen, init_store, open_store
from envkit.store.records import RecordCopies
from envkit.store.settings import StoreSettings

SCI = EnvName(owner="alice", name="sci")
URL = "s3://bucket/prefix"
ENDPOINT = "http://127.0.0.1:1"
IDENTITY = "ab" * 16


@pytest.fixture
def copies(tmp_path):
    """Where copies are after a node has resolved the latest of two versions."""
    init_store(str(tmp_path / "store"))
    store = DirectoryStore(str(tmp_path / "store"))
    layer = LayerRef(tree="cd" * 32, entries=1, size=1, stored=1)
    for message in ("one", "two"):
        draft = Version(env=SCI, number=1, kind=VersionKind.ENVIRONMENT, layers=(layer,), message=message)
        versions.publish(store, draft, expected=None)
    assert resolve(RecordCopies(store, str(tmp_path / "copies" / IDENTITY)), "sci").message == "two"
    remember(str(tmp_path / "copies"), URL, ENDPOINT, IDENTITY)
    return tmp_path / "copies"


def resolve(store, text):
    return versions.resolve(store, EnvRef.parse(text, owner="alice"))


def test_a_name_means_what_it_meant_when_the_store_was_last_asked(copies):
    settings = StoreSettings(endpoint=ENDPOINT, copies=str(copies))
    store = open_store(URL + "/", settings=settings, offline=True)
    assert resolve(store, "sci").message == "two"
    assert resolve(store, "sci@2").message == "two"
    with pytest.raises(NotFound):
        resolve(store, "sci@1")  # it was never read here
    with pytest.raises(NotFound):
        resolve(store, "other")


def test_nothing_else_of_the_store_is_there(copies):
    store = open_offline(str(copies), URL, ENDPOINT)
    for verb in (
        lambda: store.get_range("packs/ab/cd", 0, 1),
        lambda: store.size("packs/ab/cd"),
    ):
        with pytest.raises(StoreUnreadable, match="must not be asked") as caught:
            verb()
        assert caught.value.exit_code == EXIT_STORE
    for verb in (lambda: store.put_if_absent("a/b", b"x"), lambda: store.delete("a/b")):
        with pytest.raises(StoreUnwritable, match="--offline"):
            verb()


@pytest.mark.parametrize(("url", "endpoint"), [(URL, ""), ("s3://bucket", ENDPOINT)])
def test_another_store_is_not_taken_for_this_one(copies, url, endpoint):
    with pytest.raises(StoreUnreadable, match="never read"):
        open_offline(str(copies), url, endpoint)


@pytest.mark.parametrize("junk", [b"", b"../../../etc", b"\xff\xfe", b"x" * 1000])
def test_a_damaged_note_is_an_error(copies, junk):
    (note,) = (copies / "of").iterdir()
    note.write_bytes(junk)
    with pytest.raises(StoreUnreadable):
        open_offline(str(copies), URL, ENDPOINT)


def test_a_damaged_copy_is_not_there(copies):
    path = copies / IDENTITY / "envs/alice/sci/00000002.json"
    path.write_bytes(path.read_bytes().replace(b'"two"', b'"six"'))
    with pytest.raises(NotFound):
        resolve(open_offline(str(copies), URL, ENDPOINT), "sci")


def test_noting_fails_for_nobody(tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    remember(str(tmp_path / "file"), URL, ENDPOINT, IDENTITY)
    with pytest.raises(StoreUnreadable):
        open_offline(str(tmp_path / "file"), URL, ENDPOINT)


def test_a_bucket_that_this_node_knows_is_asked_which_store_it_is_when_that_matters(tmp_path, monkeypatch):
    class Counting(DirectoryStore):
        def _get(self, key, limit):
            read.append(key)
            return super()._get(key, limit)

    read = []
    init_store(str(tmp_path / "store"))
    monkeypatch.setattr("envkit.store.open._bucket", lambda url, settings: Counting(str(tmp_path / "store")))
    settings = StoreSettings(endpoint=ENDPOINT, copies=str(tmp_path / "copies"))
    open_store(URL, settings=settings)
    assert read == ["format.json"]
    store = open_store(URL, settings=settings)
    assert read == ["format.json"]
    assert store.size("format.json")
    assert read == ["format.json"] * 2
    open_store(URL, settings=settings.replace(endpoint="http://127.0.0.1:2"))
    assert read == ["format.json"] * 3
    foreseen = Foreseen(prefix="envs/alice/sci/", meanwhile=lambda: None)
    open_store(URL, settings=settings, foreseen=foreseen)
    assert read == ["format.json"] * 4


def test_a_damaged_note_only_costs_a_question(tmp_path, copies):
    (note,) = (copies / "of").iterdir()
    assert remembered(str(copies), URL, ENDPOINT) == IDENTITY
    for damage in (b"", b"\xff" * 32, b"../" * 11, IDENTITY.encode() + b"0"):
        note.write_bytes(damage)
        assert remembered(str(copies), URL, ENDPOINT) == ""
    note.unlink()
    assert remembered(str(copies), URL, ENDPOINT) is None
