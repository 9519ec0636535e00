"""Which bucket, prefix, endpoint and keys a URL and the settings mean."""

import pytest

from envkit.errors import EXIT_USAGE, InvalidInput
from envkit.store.connect import open_bucket
from envkit.store.errors import UnusableCredentials
from envkit.store.settings import StoreSettings, is_bucket

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}
AZURE = {"AZURE_STORAGE_ACCOUNT_NAME": "account"}


def opened(url, settings=None, **environment):
    return open_bucket(url, settings or StoreSettings(), environment={**KEYS, **AZURE, **environment})


def test_only_urls_of_buckets_are_buckets():
    assert all(map(is_bucket, ("s3://b", "gs://b/p", "az://b")))
    assert not any(map(is_bucket, ("s3", "s3:/b", "./s3://b", "/srv/s3://b", "file:///x", "S3://b")))


@pytest.mark.parametrize(
    ("url", "shown", "prefix"),
    [
        ("s3://bucket", "s3://bucket", ""),
        ("s3://bucket/", "s3://bucket", ""),
        ("s3://bucket/a", "s3://bucket/a", "a/"),
        ("s3://bucket/a/b.c/", "s3://bucket/a/b.c", "a/b.c/"),
        ("gs://bucket/a", "gs://bucket/a", "a/"),
        ("az://container/a", "az://container/a", "a/"),
    ],
)
def test_a_url_is_a_bucket_and_a_prefix(url, shown, prefix):
    store = opened(url)
    assert store.url == shown
    assert store._prefix == prefix


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///a", "s3://bu cket", "s3://bucket/a//b", "s3://bucket/../b", "s3://bucket/ä", "s3://bucket?x=1", "s3://bucket/a?b", "s3://-b", "s3://bucket\n"],
)  # fmt: skip
def test_what_is_no_bucket_is_refused(url):
    with pytest.raises(InvalidInput, match="invalid store URL") as caught:
        opened(url)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("url", ["s3://AKID:s3cr3t@bucket", "s3://AKID:s3cr3t@bucket/p", "gs://s3cr3t@bucket"])
def test_a_key_in_a_url_is_refused_and_not_repeated(url):
    with pytest.raises(InvalidInput) as caught:
        opened(url)
    assert "s3cr3t" not in caught.value.brief


@pytest.mark.parametrize("endpoint", ["host", "ftp://host", "http://", "http://host:99999", "http://h ost", "http://[::1", "https://host?x=1", "http://host:0"])  # fmt: skip
@pytest.mark.parametrize("url", ["s3://bucket", "gs://bucket", "az://bucket"])
def test_an_endpoint_that_is_none_is_refused(url, endpoint):
    with pytest.raises(InvalidInput, match="invalid endpoint"):
        opened(url, StoreSettings(endpoint=endpoint))


def test_a_key_in_an_endpoint_is_refused_and_not_repeated():
    with pytest.raises(InvalidInput) as caught:
        opened("s3://bucket", StoreSettings(endpoint="https://AKID:s3cr3t@host"))
    assert "s3cr3t" not in caught.value.brief


def test_without_an_endpoint_it_is_the_cloud_itself():
    assert opened("s3://bucket", AWS_REGION="eu-west-1")._place.server == "https://s3.eu-west-1.amazonaws.com"
    assert opened("gs://bucket")._place.server == "https://storage.googleapis.com"
    assert opened("az://bucket")._place.server == "https://account.blob.core.windows.net"


def test_azure_needs_to_know_whose_container_it_is():
    with pytest.raises(UnusableCredentials, match="whose container") as caught:
        open_bucket("az://container", StoreSettings(), environment={})
    assert "AZURE_STORAGE_ACCOUNT_NAME" in caught.value.resolution


def test_keys_that_cannot_be_read_are_told_and_not_shown(tmp_path, monkeypatch):
    file = tmp_path / "key.json"
    file.write_text('{"private_key": "s3cr3t"')
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(file))
    with pytest.raises(UnusableCredentials, match="cannot use the settings and keys for gs://bucket") as caught:
        opened("gs://bucket", GOOGLE_SERVICE_ACCOUNT=str(file))
    assert "s3cr3t" not in f"{caught.value} {caught.value.resolution}"
    assert caught.value.__suppress_context__
