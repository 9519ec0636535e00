"""Stores as clients name them: the right one with the newest keys, and keys that are seen nowhere."""

import json

import pytest

from envkit.errors import EnvkitError
from envkit.ondemand import sources
from envkit.ondemand.given import describe
from envkit.ondemand.sources import Stores, tree_from
from envkit.store.open import init_store
from envkit.store.settings import StoreSettings

SECRET = "hush-hush-hush"
S3 = {
    "url": "s3://bucket/place",
    "endpoint": "http://127.0.0.1:1",
    "region": "here",
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": SECRET,
}


def test_a_directory_is_its_path_and_nothing_else(tmp_path):
    assert describe(str(tmp_path), StoreSettings(), {"AWS_SECRET_ACCESS_KEY": SECRET}) == {"url": str(tmp_path)}


def test_a_bucket_goes_with_the_keys_of_the_caller():
    environment = {key: S3[key] for key in S3 if key.startswith("AWS_")} | {"AWS_REGION": "here", "HOME": "/nobody"}
    settings = StoreSettings(endpoint=S3["endpoint"], region="here")
    assert describe(S3["url"], settings, environment) == S3


def test_variables_of_other_tools_are_left_out():
    found = describe("gs://bucket/place", StoreSettings(), {"GOOGLE_X": "1", "AZURE_Y": "2", "PASSWORD": SECRET})
    assert found == {"GOOGLE_X": "1", "AZURE_Y": "2", "url": "gs://bucket/place", "endpoint": "", "region": ""}


@pytest.mark.parametrize("given", [None, [], "url", {"url": 5}, {5: "url"}, {"url": "x" * 70_000}])
def test_what_is_no_description_is_refused(given):
    stores = Stores()
    with pytest.raises(EnvkitError, match="malformed"):
        stores.add(given)
    assert stores.given == {}


def test_names_and_errors_hold_no_keys(capfd):
    stores = Stores()
    name = stores.add(S3)
    said = [name, stores.source(name).name, repr(stores), repr(stores.source(name))]
    with pytest.raises(EnvkitError) as caught:
        tree_from(stores, [name], "1" * 64)
    error = caught.value
    said += [str(error), repr(error), error.details or "", error.resolution or "", *capfd.readouterr()]
    assert S3["url"] in " ".join(said)
    assert SECRET not in " ".join(said)


def test_new_keys_take_the_place_of_old_ones():
    stores = Stores()
    name = stores.add(S3)
    old = stores.store(name)
    assert stores.add(dict(S3)) == name
    assert stores.store(name) is old
    assert stores.add(S3 | {"AWS_SECRET_ACCESS_KEY": "other"}) == name
    assert stores.store(name) is not old
    assert stores.given[name]["AWS_SECRET_ACCESS_KEY"] == "other"
    assert json.loads(json.dumps(stores.given)) == stores.given


def test_the_same_bucket_on_another_server_is_another_store():
    stores = Stores()
    assert stores.add(S3) != stores.add(S3 | {"endpoint": "http://127.0.0.1:2"})


def test_there_is_an_end_of_stores(monkeypatch):
    monkeypatch.setattr(sources, "_MAX_STORES", 3)
    stores = Stores()
    names = [stores.add({"url": f"/store{number}", "x": "1"}) for number in range(3)]
    stores.add({"url": "/store0", "x": "2"})
    stores.add({"url": "/store3"})
    assert list(stores.given) == [names[2], names[0], "/store3"]
    with pytest.raises(EnvkitError, match="no client has said how to open the store /store1"):
        stores.store(names[1])


def test_a_source_reads_ranges_of_objects(tmp_path):
    path = str(tmp_path / "store")
    init_store(path)
    stores = Stores()
    source = stores.source(stores.add({"url": path}))
    whole = source.get_range("format.json", 0, 20)
    assert source.get_range("format.json", 5, 10) == whole[5:15]


def test_a_tree_comes_from_the_first_store_that_has_it(tmp_path):
    stores = Stores()
    path = str(tmp_path / "store")
    init_store(path)
    names = [stores.add({"url": str(tmp_path / "none")}), stores.add({"url": path})]
    with pytest.raises(EnvkitError, match="has no object trees/"):
        tree_from(stores, names, "1" * 64)
    with pytest.raises(EnvkitError, match="no store is known for layer 111111111111"):
        tree_from(stores, [], "1" * 64)
