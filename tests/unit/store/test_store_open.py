"""Which directory is a store, and who may make one."""

import json
import os
import stat

import pytest

from envkit.errors import EXIT_STORE, EXIT_USAGE, InvalidInput
from envkit.store.errors import NewerStore, StoreUnreadable, StoreUnsuitable, StoreUnwritable, UnsupportedStore
from envkit.store.open import init_store, open_store, read_format


@pytest.mark.parametrize("make", [lambda path: None, os.mkdir], ids=["missing", "empty"])
def test_the_default_store_is_made_where_there_is_nothing(tmp_path, make):
    path = str(tmp_path / "envkit")
    make(path)
    store = open_store(path, create=True)
    assert store.url == path
    assert read_format(open_store(path)) == read_format(store)


def test_a_new_store_is_private_to_root_with_all_that_was_made_above_it(tmp_path):
    init_store(str(tmp_path / "a/b/store"))
    for made in ("a", "a/b", "a/b/store"):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == 0o700


@pytest.mark.parametrize("make", [lambda path: None, os.mkdir], ids=["missing", "empty"])
def test_any_other_store_is_not_made_by_opening_it(tmp_path, make):
    path = str(tmp_path / "store")
    make(path)
    with pytest.raises(StoreUnreadable) as caught:
        open_store(path)
    assert caught.value.exit_code == EXIT_STORE
    assert "whether its filesystem is mounted" in caught.value.resolution
    assert not os.path.exists(path + "/format.json")


@pytest.mark.parametrize("way", [init_store, lambda path: open_store(path, create=True), open_store])
def test_a_directory_with_other_things_is_not_taken_for_a_store(tmp_path, way):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreUnreadable, match=r"it is not an envkit store: it has no format.json"):
        way(str(tmp_path))
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_fresh_filesystem_counts_as_empty(tmp_path):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "~tmp.0123").write_bytes(b"a killed init")
    assert read_format(open_store(str(tmp_path), create=True)).format == 1


def test_two_stores_have_two_identities(tmp_path):
    stores = [init_store(str(tmp_path / name)) for name in "ab"]
    assert read_format(stores[0]).id != read_format(stores[1]).id


def test_a_newer_store_is_refused_by_number(tmp_path):
    (tmp_path / "format.json").write_text('{"format": 7}')
    with pytest.raises(NewerStore, match="has format 7, this envkit reads format 1") as caught:
        open_store(str(tmp_path))
    assert caught.value.resolution == "update envkit"
    assert caught.value.exit_code == EXIT_STORE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        '{"format": "1"}',
        '{"format": 0}',
        '{"format": true, "id": "00000000000000000000000000000000"}',
        '{"format": 1}',
        '{"format": 1, "id": 5}',
        '{"format": 1, "id": "short"}',
        '{"format": 1, "id": "0000000000000000000000000000000G"}',
        "[" * 60_000,
        "\xff",
    ],
)
def test_a_damaged_format_is_told_as_such(tmp_path, text):
    (tmp_path / "format.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreUnreadable, match=r"its format.json is damaged"):
        open_store(str(tmp_path))


def test_fields_of_later_releases_are_ignored(tmp_path):
    (tmp_path / "format.json").write_text('{"format": 1, "id": "%s", "probe": {"if_match": false}}' % ("ab" * 16))
    assert read_format(open_store(str(tmp_path))).id == "ab" * 16


@pytest.mark.parametrize("url", ["https://host/x", "oci://host", "S3://bucket"])
def test_unknown_kinds_of_stores_are_refused(url):
    with pytest.raises(UnsupportedStore) as caught:
        open_store(url)
    kind = url.partition("//")[0]
    assert caught.value.brief == f"stores of the kind {kind}// are not supported by this version: {url}"
    assert caught.value.resolution.startswith("give the path of a directory, or s3://BUCKET/PREFIX")
    assert caught.value.exit_code == EXIT_USAGE


def test_what_a_check_finds_is_recorded_and_its_leftovers_are_gone(tmp_path):
    def check(store):
        store.put_if_absent("probe/abc/x/1", b"")
        store.delete("probe/abc/x/1")
        return {"works": True}

    init_store(str(tmp_path / "store"), check=check)
    document = json.loads((tmp_path / "store/format.json").read_bytes())
    assert document["probe"] == {"works": True}
    assert os.listdir(tmp_path / "store") == ["format.json"]


def test_a_place_that_fails_the_check_does_not_become_a_store(tmp_path):
    def check(store):
        store.put_if_absent("probe/abc/1", b"left by a kill")
        raise StoreUnsuitable(store.url, "it forgets")

    for _ in range(2):
        with pytest.raises(StoreUnsuitable, match="cannot be a store: it forgets"):
            init_store(str(tmp_path / "store"), check=check)
    assert not (tmp_path / "store/format.json").exists()
    init_store(str(tmp_path / "store"))


def test_a_store_is_not_checked_again(tmp_path):
    init_store(str(tmp_path / "store"))
    init_store(str(tmp_path / "store"), check=lambda store: pytest.fail("it was"))


def test_a_file_url_names_a_directory(tmp_path):
    assert init_store(f"file://{tmp_path}/s").url == f"{tmp_path}/s"
    with pytest.raises(InvalidInput, match="invalid store URL 'file://host/x'"):
        open_store("file://host/x")


def test_a_path_may_be_relative_and_hold_what_looks_like_a_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert init_store("./s3://x").url == f"{tmp_path}/s3:/x"
    assert open_store("s3:/x").url == f"{tmp_path}/s3:/x"


@pytest.mark.parametrize("url", ["", "a\0b"])
def test_a_path_that_cannot_be_one_is_refused(url):
    with pytest.raises(InvalidInput, match="invalid store path"):
        open_store(url)


def test_a_file_is_no_store(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    for way in (open_store, init_store, lambda url: open_store(url, create=True)):
        with pytest.raises(StoreUnreadable, match=r"cannot read the store .*/file: Not a directory"):
            way(str(path))


def test_a_store_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((StoreUnwritable, StoreUnreadable), match="Not a directory"):
        init_store(str(tmp_path / "file/below"))
    with pytest.raises(StoreUnwritable, match="cannot write to the store /proc/nothing"):
        init_store("/proc/nothing")
