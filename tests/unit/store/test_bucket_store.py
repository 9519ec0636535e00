"""A store in a bucket, against a server that says what the test wants: retries, doubtful puts, lies, and silence."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from stub_server import GONE, StubServer, answer, error, listing, partial

from envkit.errors import EXIT_STORE
from envkit.store.bucket import Patience
from envkit.store.connect import open_bucket
from envkit.store.errors import (
    ObjectNotFound,
    ObjectTooLarge,
    ObjectTruncated,
    StoreDenied,
    StoreFull,
    StoreUnreachable,
    StoreUnreadable,
    StoreUnwritable,
)
from envkit.store.faults import read_fault
from envkit.store.settings import StoreSettings

SECRET = "s3cr3t-s3cr3t-s3cr3t"
FAST = Patience(tries=3, total=20.0, request=10.0, stall=1.0, connect=2.0, pause=0.001, longest_pause=0.002)
KEY = "packs/ab/object"


@pytest.fixture
def server():
    server = StubServer()
    yield server
    server.close()


def bucket(endpoint, patience=FAST, url="s3://bucket/prefix", token=f"token-{SECRET}"):
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": token or "",
    }
    return open_bucket(url, StoreSettings(), environment=variables, patience=patience)


@pytest.fixture
def store(server):
    return bucket(server.endpoint)


def test_a_key_is_below_the_prefix_in_the_bucket(server, store):
    server.answers = [answer(), answer(200, b"12")]
    assert store.put_if_absent(KEY, (b"1", b"2")) is True
    assert store.get(KEY, limit=2) == b"12"
    assert server.requests == [("PUT", f"/bucket/prefix/{KEY}", b"12"), ("GET", f"/bucket/prefix/{KEY}", b"")]


@pytest.mark.parametrize("of_process", [None, "another key's"])
@pytest.mark.parametrize("own", [None, f"token-{SECRET}"])
def test_a_key_goes_with_its_own_token_and_with_no_other(server, monkeypatch, own, of_process):
    """obstore takes what it is not told from the variables of the process."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OTHER")
    if of_process is not None:
        monkeypatch.setenv("AWS_SESSION_TOKEN", of_process)
    server.answers = [answer(200, b"12")]
    assert bucket(server.endpoint, token=own).get(KEY, limit=2) == b"12"
    assert "Credential=AKIDEXAMPLE/" in server.fields["authorization"]
    assert server.fields.get("x-amz-security-token") == own


def test_a_put_that_finds_its_key_taken_lost_and_nothing_is_read(server, store):
    server.answers = [error(412, "PreconditionFailed")]
    assert store.put_if_absent(KEY, b"mine") is False
    assert server.methods == ["PUT"]


DOUBTFUL = [
    error(500, "InternalError"),
    error(503, "SlowDown"),
    GONE,
    answer(200, ETag=None),
    error(408, "RequestTimeout"),
]


@pytest.mark.parametrize("first", DOUBTFUL, ids=["500", "503", "gone", "no-etag", "408"])
@pytest.mark.parametrize(
    ("there", "won"), [(b"mine", True), (b"them", False), (b"theirs, longer", False), (b"", False)]
)
def test_a_doubtful_put_whose_key_is_taken_then_won_if_its_own_bytes_are_there(server, store, first, there, won):
    server.answers = [first, error(412, "PreconditionFailed"), answer(200, there)]
    assert store.put_if_absent(KEY, b"mine") is won
    assert server.methods == ["PUT", "PUT", "GET"]


def test_a_put_that_never_left_is_not_doubtful(server, store, monkeypatch):
    """Nothing listened at first, so the object that is there later is somebody else's, even in the same bytes."""
    endpoint = "http://127.0.0.1:1"
    unreachable = bucket(endpoint)
    with pytest.raises(StoreUnreachable):
        unreachable.put_if_absent(KEY, b"mine")
    server.answers = [error(412, "PreconditionFailed")]
    assert store.put_if_absent(KEY, b"mine") is False


def test_a_conflict_is_no_answer_until_the_object_is_there(server, store):
    server.answers = [error(409, "ConditionalRequestConflict"), answer(404), answer()]
    assert store.put_if_absent(KEY, b"mine") is True
    assert server.methods == ["PUT", "HEAD", "PUT"]
    server.answers = [error(409, "BlobAlreadyExists"), answer(200, length=4)]
    assert store.put_if_absent(KEY, b"mine") is False


def test_a_put_that_is_refused_for_ever_says_that_it_may_be_tried_again(server, store):
    server.answers = [error(503, "SlowDown")] * 3
    with pytest.raises(StoreUnwritable, match="says HTTP 503 SlowDown") as caught:
        store.put_if_absent(KEY, b"mine")
    assert server.methods == ["PUT"] * FAST.tries
    assert caught.value.exit_code == EXIT_STORE
    assert "try again" in caught.value.resolution


FINAL = [
    (error(403, "AccessDenied"), StoreDenied, "may not do this in the bucket bucket"),
    (error(403, "SignatureDoesNotMatch"), StoreDenied, "the key in AWS_ACCESS_KEY_ID is not accepted by http"),
    (error(403, "InvalidAccessKeyId"), StoreDenied, "is not accepted by"),
    (error(400, "ExpiredToken"), StoreDenied, "session token .* has expired"),
    (error(403, "RequestTimeTooSkewed"), StoreDenied, "this machine's clock is wrong"),
    (error(404, "NoSuchBucket"), StoreUnreadable, "has no bucket bucket"),
    (
        error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
        StoreDenied,
        "the region is not that of",
    ),
    (error(301, "PermanentRedirect"), StoreDenied, "the region is not that of"),
    (error(507, "InsufficientStorage"), StoreFull, "is full"),
    (error(501, "NotImplemented"), (StoreUnreadable, StoreUnwritable), "cannot do what envkit needs"),
    (error(400, "SomethingNew"), (StoreUnreadable, StoreUnwritable), "says HTTP 400 SomethingNew"),
]
VERBS = {
    "get": lambda store: store.get(KEY, limit=99),
    "range": lambda store: store.get_range(KEY, 0, 1),
    "put": lambda store: store.put_if_absent(KEY, b"mine"),
    "list": lambda store: list(store.list()),
    "delete": lambda store: store.delete(KEY),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("reply", "kind", "text"), FINAL, ids=[row[2][:20] for row in FINAL])
def test_what_will_not_pass_is_told_at_once(server, store, verb, reply, kind, text):
    server.answers = [reply]
    with pytest.raises(kind, match=text) as caught:
        VERBS[verb](store)
    assert len(server.requests) == 1
    assert "s3://bucket/prefix" in caught.value.brief
    assert caught.value.resolution


def test_a_wrong_region_is_told_with_the_right_one(server, store):
    server.answers = [error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")]
    with pytest.raises(StoreDenied) as caught:
        store.get(KEY, limit=9)
    assert caught.value.resolution == "set the region to eu-west-1"


@pytest.mark.parametrize("verb", [*VERBS, "status"])
@pytest.mark.parametrize("reply", [error(500, "InternalError"), error(503, "SlowDown"), error(429, "Busy"), GONE, (b"nonsense\r\n\r\n", 0.0)])  # fmt: skip
def test_what_may_pass_is_tried_a_bounded_number_of_times(server, store, verb, reply):
    server.answers = [reply] * 9
    with pytest.raises((StoreUnreadable, StoreUnwritable)):
        {**VERBS, "status": lambda store: store.status(KEY)}[verb](store)
    assert len(server.requests) == FAST.tries


def test_what_passes_is_not_noticed(server, store):
    server.answers = [error(503, "SlowDown"), GONE, answer(200, b"bytes")]
    assert store.get(KEY, limit=9) == b"bytes"
    server.answers = [error(500, "InternalError"), partial(b"34", 3, 10)]
    assert store.get_range(KEY, 3, 2) == b"34"
    server.answers = [error(500, "InternalError"), answer(200, length=7)]
    assert store.size(KEY) == 7


def test_a_body_that_is_cut_short_is_read_again(server, store):
    server.answers = [answer(200, b"0123456789", sent=4), answer(200, b"0123456789")]
    assert store.get(KEY, limit=10) == b"0123456789"
    server.answers = [partial(b"3456", 3, 10, sent=2), partial(b"3456", 3, 10)]
    assert store.get_range(KEY, 3, 4) == b"3456"
    assert server.methods == ["GET"] * 4


def test_a_body_that_is_always_cut_short_is_an_error(server, store):
    server.answers = [answer(200, b"0123456789", sent=4)] * 3
    with pytest.raises(StoreUnreadable, match="broke off"):
        store.get(KEY, limit=10)


def test_an_object_that_claims_to_be_too_large_is_not_read(server, store):
    server.answers = [answer(200, b"x", length=1 << 40, hang=30.0)]
    started = time.monotonic()
    with pytest.raises(ObjectTooLarge):
        store.get(KEY, limit=100)
    assert time.monotonic() - started < 20
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [answer(200, b"0123456789"), partial(b"0123", 0, 10), partial(b"345", 3, 10), partial(b"34567", 3, 10), answer(206, b"3456")],
    ids=["whole", "other start", "shorter", "longer", "no range"],
)  # fmt: skip
def test_a_range_that_is_another_one_is_never_data(server, store, reply):
    server.answers = [reply] * 3 + [answer(200, length=10)]
    with pytest.raises(StoreUnreadable):
        store.get_range(KEY, 3, 4)


def test_a_range_beyond_the_end_is_told_with_the_size(server, store):
    server.answers = [error(416, "InvalidRange"), answer(200, length=10)]
    with pytest.raises(ObjectTruncated, match="10 bytes instead of 14"):
        store.get_range(KEY, 10, 4)
    server.answers = [error(416, "InvalidRange"), answer(404)]
    with pytest.raises(ObjectNotFound):
        store.get_range(KEY, 10, 4)


def test_a_missing_object_is_no_failure(server, store):
    server.answers = [error(404, "NoSuchKey"), answer(404), answer(404), error(404, "NoSuchKey")]
    with pytest.raises(ObjectNotFound):
        store.get(KEY, limit=1)
    assert store.size(KEY) is None
    assert store.status(KEY) is None
    store.delete(KEY)


def test_a_listing_goes_over_pages_and_leaves_the_prefix_off(server, store):
    server.answers = [listing("prefix/a/1", ("prefix/a/2", 5), token="t"), listing("prefix/a/3")]
    assert [(key, status.size) for key, status in store.list_status("a/")] == [("a/1", 1), ("a/2", 5), ("a/3", 1)]
    assert all("prefix=prefix%2Fa%2F" in target for _, target, _ in server.requests)


def test_a_listing_that_fails_goes_on_behind_what_it_had(server, store):
    page = [f"prefix/{number:04}" for number in range(1000)]
    server.answers = [listing(*page, token="t"), error(500, "InternalError"), listing("prefix/1000")]
    assert len(list(store.list())) == 1001
    assert "start-after=prefix%2F0999" in server.requests[-1][1]


BAD_LISTINGS = {
    "backwards": listing("prefix/b", "prefix/a"),
    "twice": listing("prefix/a", "prefix/a"),
    "elsewhere": listing("other/a"),
    "prefix of a name": listing("prefixed/a"),
}


@pytest.mark.parametrize("reply", BAD_LISTINGS.values(), ids=BAD_LISTINGS)
def test_a_listing_that_lies_is_an_error(server, store, reply):
    server.answers = [reply]
    with pytest.raises(StoreUnreadable, match="out of order"):
        list(store.list())


def test_a_page_that_comes_again_is_an_error(server, store):
    server.answers = [listing(*(f"prefix/{number:03}" for number in range(300)), token="t")] * 3
    with pytest.raises(StoreUnreadable, match="out of order"):
        list(store.list())


def test_a_listing_without_an_end_ends(server):
    server.answers = [listing(token="t")] * 100_000
    with pytest.raises(StoreUnreachable, match="does not answer in time"):
        list(bucket(server.endpoint, Patience(total=1.0)).list())
    server.answers.clear()


def test_a_listing_that_is_none_is_an_error(server, store):
    server.answers = [answer(200, b"<html>Welcome to the hotel</html>"[:9])] * 3
    with pytest.raises(StoreUnreadable):
        list(store.list())


def test_folders_that_other_tools_made_are_no_objects(server, store):
    server.answers = [listing(("prefix/", 0), ("prefix/a-b", 1), ("prefix/a/", 0), ("prefix/a/c", 1))]
    assert list(store.list()) == ["a-b", "a/c"]


def test_an_object_that_no_path_can_name_is_told_by_name(server, store):
    server.answers = [listing("prefix/a//b")]
    with pytest.raises(StoreUnreadable, match="prefix/a//b") as caught:
        list(store.list())
    assert "remove that object" in caught.value.resolution


def test_no_secret_is_told_even_where_the_server_repeats_all_it_got(server, store):
    echo = f"<StringToSign>AWS4 {SECRET}</StringToSign><SignatureProvided>{SECRET}</SignatureProvided>"
    for verb in VERBS.values():
        server.answers = [error(403, "SignatureDoesNotMatch", echo)]
        with pytest.raises(StoreDenied) as caught:
            verb(store)
        told = caught.value
        assert SECRET not in f"{told} {told.details} {told.resolution}"
        assert told.__suppress_context__
    assert SECRET not in repr(vars(store))


def test_silence_ends(server):
    quick = bucket(server.endpoint, Patience(tries=2, total=5.0, request=0.4, stall=0.2, connect=1.0, pause=0.001))
    for verb in VERBS.values():
        server.answers = [(b"", 3.0)] * 2
        with pytest.raises(StoreUnreachable, match="does not answer in time"):
            verb(quick)
    server.answers = [answer(200, b"0123456789", sent=4, hang=3.0)] * 2
    with pytest.raises(StoreUnreachable, match="does not answer in time"):
        quick.get(KEY, limit=10)


def test_no_try_begins_after_the_total(server):
    impatient = bucket(server.endpoint, Patience(tries=100, total=0.3, request=5.0, pause=0.1, longest_pause=0.1))
    server.answers = [error(503, "SlowDown")] * 100
    with pytest.raises(StoreUnreadable):
        impatient.get(KEY, limit=1)
    assert 2 <= len(server.requests) <= 8


def test_a_signal_ends_the_wait(server, store):
    server.answers = [(b"", 20.0)]
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    slow = bucket(server.endpoint, Patience(tries=1, request=15.0, stall=15.0))
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        slow.get(KEY, limit=1)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("http://127.0.0.1:1", "nothing listens at http://127.0.0.1:1"),
        ("http://no.such.host.invalid", "the name of http://no.such.host.invalid is not known"),
    ],
)
def test_a_server_that_is_not_there_is_named(endpoint, text):
    with pytest.raises(StoreUnreachable, match=text):
        bucket(endpoint).get(KEY, limit=1)


def test_a_server_without_tls_is_not_talked_to_in_the_clear(server):
    server.answers = [answer(200, b"x")] * 3
    with pytest.raises(StoreUnreachable, match="does not speak TLS"):
        bucket(server.endpoint.replace("http:", "https:")).get(KEY, limit=1)
    assert server.requests == []


def test_a_forked_process_is_told_instead_of_waiting_for_ever(server, store):
    server.answers = [answer(200, b"x")]
    store.get(KEY, limit=1)
    child = os.fork()
    if not child:
        try:
            bucket(server.endpoint).get(KEY, limit=1)
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_an_interrupted_process_ends_without_a_crash(server):
    """What waits in obstore's threads must not keep the process, nor bring it down on its way out."""
    server.answers = [(b"", 20.0)]
    code = (
        "import os, signal, threading\n"
        "from envkit.store.connect import open_bucket\n"
        "from envkit.store.settings import StoreSettings\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    open_bucket('s3://bucket', StoreSettings()).get('a', limit=1)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    variables = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_a_refusal_by_the_cloud_that_was_asked_for_keys_is_not_taken_for_the_stores(server, store):
    refused = "Error performing token request: Error performing GET http://169.254.169.254/x in 1ms - Server returned"
    assert read_fault(ValueError(f"{refused} non-2xx status code: 403 Forbidden: no")).kind == "no-keys"
    server.answers = [answer(403, b"<Error><Code>AccessDenied</Code><Message>http://169.254.169.254</Message></Error>")]
    with pytest.raises(StoreDenied, match="may not do this"):
        store.get(KEY, limit=1)
