"""A store in a bucket of a real S3 server, through the command line: all that is done with one, and all that goes wrong."""

import contextlib
import glob
import json
import os
import pathlib
import signal
import socket
import stat
import time

import pytest
from commandline import ALICE, Envkit, wait_until
from s3_support import OTHER_KEY, OTHER_SECRET, SECRET, s3_variables

pytestmark = [pytest.mark.root, pytest.mark.lxc]

WRONG = "wrong-s3cr3t"


class Bucket(Envkit):
    """The command line with a store in a bucket; the variables of AWS are those of the test's server."""

    def __init__(self, root, server, url, **variables):
        super().__init__(root, store=url)
        self.url = url
        self._settings |= server.variables | variables

    def without(self, *names):
        for name in names:
            del self._settings[name]
        return self


@pytest.fixture(scope="module")
def bucket(new_root, s3, tiny_root):
    """A store with the base `tiny` and the environment `lab/env`, of two versions."""
    envkit = Bucket(new_root().root, s3, s3.new_url())
    assert envkit("store", "init", envkit.url).ok() == ""
    assert envkit("base", "import", "tiny", tiny_root).ok() == "base/tiny@1"
    with envkit.session("env", script="echo one >/opt/text; head -c 3000000 /dev/urandom >/opt/blob"):
        envkit("save", "env", "-m", "first").ok()
        envkit.inside("env", "echo two >/opt/text").ok()
        envkit("save", "env", "-m", "second").ok()
    return envkit


@pytest.fixture
def other(bucket, s3):
    """A function that gives a command line that differs in some variables of AWS, or in its store."""
    return lambda url=None, **variables: Bucket(bucket.root, s3, url or bucket.url, **variables)


def test_an_environment_lives_in_a_bucket(bucket):
    assert [row["environment"] for row in bucket.json("list")] == ["lab/env"]
    assert bucket.sh("env", "cat /opt/text").ok() == "two"
    assert bucket.sh("env@1", "cat /opt/text").ok() == "one"
    assert "first" in bucket("log", "env").ok()
    assert "/opt/blob" in bucket("files", "env@1", "--changed").ok()


def test_another_node_runs_what_this_one_saved(bucket, new_root, s3):
    node = Bucket(new_root().root, s3, bucket.url)
    assert node.sh("env", "cat /opt/text; wc -c </opt/blob").ok() == "two\n3000000"


def test_a_version_that_is_deleted_is_gone_on_a_node_that_has_a_copy_of_its_record(bucket):
    bucket.saved("gone", "echo x >/opt/x")
    assert bucket.sh("gone", "cat /opt/x").ok() == "x"
    copies = pathlib.Path(bucket.root, "cache/records")
    assert list(copies.glob("*/envs/lab/gone/00000001.json"))
    assert (copies.stat().st_mode & 0o777) == 0o700
    bucket("delete", "gone", "--yes").ok()
    bucket.sh("gone", "true").fails(125, "no environment lab/gone")


def test_the_same_file_is_stored_once(bucket):
    with bucket.session("copy", origin="env", script="cp /opt/blob /opt/copy"):
        saved = bucket.json("save", "copy")
    assert saved["stored"] < 100_000


def test_a_store_knows_what_was_found_out_about_its_server(bucket, s3):
    document = json.loads(s3.open(bucket.url).get("format.json", limit=9999))
    assert document["format"] == 1
    assert document["probe"]["atomic_create"] is True
    assert list(s3.open(bucket.url).list("probe/")) == []
    assert "is a store" in bucket("store", "init", bucket.url).stderr


def test_a_server_where_two_writers_win_is_refused(new_root, racy_s3):
    """Swift without the lock that tests put before it: the probe meets a real server that breaks a promise."""
    url = racy_s3.new_url()
    envkit = Bucket(new_root().root, racy_s3, url)
    refused = envkit("store", "init", url).fails(7, f"{url} cannot be a store: of ", "writers at once")
    assert "were told that their object was stored" in refused.stderr
    assert list(racy_s3.open(url).list()) == []
    envkit("list").fails(7, "it is not an envkit store")


FAILING = {
    "wrong secret": (dict(AWS_SECRET_ACCESS_KEY=WRONG), "the key in AWS_ACCESS_KEY_ID is not accepted by http"),
    "wrong key": (dict(AWS_ACCESS_KEY_ID="nobody"), "is not accepted by http"),
    "another's key": (dict(AWS_ACCESS_KEY_ID=OTHER_KEY, AWS_SECRET_ACCESS_KEY=OTHER_SECRET), "may not do this in the bucket envkit"),
    "wrong region": (dict(AWS_REGION="eu-mars-1"), "hint: set the region to us-east-1"),
    "nobody listens": (dict(AWS_ENDPOINT_URL="http://127.0.0.1:1"), "nothing listens at http://127.0.0.1:1"),
    "no such host": (dict(AWS_ENDPOINT_URL="http://no.such.host.invalid"), "the name of http://no.such.host.invalid is not known"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILING)
def test_a_store_that_cannot_be_used_is_one_clear_line(bucket, other, case):
    variables, text = FAILING[case]
    envkit = other(**variables)
    before = os.listdir(f"{bucket.root}/sessions") if os.path.isdir(f"{bucket.root}/sessions") else []
    for outcome in (
        envkit("list").fails(7, text),
        envkit.sh("env", "true").fails(125, text),
        envkit("create", "new", "--base", "tiny", "--no-shell").fails(7, text),
        envkit("store", "init", f"{bucket.url}-new").fails(7, text),
    ):
        for secret in (SECRET, WRONG, OTHER_SECRET, "Signature=", "AWS4-HMAC", "Authorization"):
            assert secret not in outcome.stderr.replace("AWS_SECRET_ACCESS_KEY", "")
    assert (os.listdir(f"{bucket.root}/sessions") if os.path.isdir(f"{bucket.root}/sessions") else []) == before


def test_places_that_are_no_stores_are_told(other):
    other("s3://no-such-bucket/place")("list").fails(7, "has no bucket no-such-bucket", "make the bucket first")
    other("s3://no-such-bucket")("store", "init", "s3://no-such-bucket").fails(7, "has no bucket no-such-bucket")
    other("s3://envkit/nothing")("list").fails(
        7, "it is not an envkit store", "make a store of it: envkit store init s3://envkit/nothing"
    )
    other("s3://AKID:wrong-s3cr3t@envkit")("list").fails(2, "must not have a user name or password in it")


def test_a_place_with_other_things_does_not_become_a_store(other, s3):
    url = s3.new_url()
    s3.open(url).put_if_absent("thesis.tex", b"precious")
    other(url)("store", "init", url).fails(7, "it is not an envkit store")
    assert list(s3.open(url).list()) == ["thesis.tex"]


def test_settings_that_cannot_be_used_are_told(other, place):
    other(AWS_ENDPOINT_URL="nonsense")("list").fails(2, "invalid endpoint 'nonsense'")
    other(AWS_PROFILE="nosuch")("list").fails(2, "there is no profile 'nosuch'")
    file = place / "credentials"
    file.write_text(f"[default]\naws_secret_access_key {WRONG}\n")
    broken = other(AWS_SHARED_CREDENTIALS_FILE=str(file)).without("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    told = broken("list").fails(2, f"cannot read {file}: line 2")
    assert WRONG not in told.stderr


def test_keys_endpoint_and_region_may_come_from_the_files_of_aws(bucket, other, place, s3):
    variables = s3_variables(s3.endpoint)
    (place / "credentials").write_text(
        "[lab]\naws_access_key_id = {AWS_ACCESS_KEY_ID}\naws_secret_access_key = {AWS_SECRET_ACCESS_KEY}\n".format(
            **variables
        )
    )
    (place / "config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {s3.endpoint}\n")
    envkit = other(
        AWS_SHARED_CREDENTIALS_FILE=str(place / "credentials"), AWS_CONFIG_FILE=str(place / "config"), AWS_PROFILE="lab"
    ).without(*variables)
    assert [row["environment"] for row in envkit.json("list")] == [row["environment"] for row in bucket.json("list")]
    del envkit._settings["AWS_PROFILE"]
    envkit._settings["ENVKIT_AWS_PROFILE"] = "lab"
    assert envkit.sh("env", "cat /opt/text").ok() == "two"
    os.chown(place / "credentials", ALICE.uid, ALICE.gid)
    envkit("list").fails(2, "it belongs neither to you nor to root")


def test_no_root_is_needed_to_make_a_store_or_to_look_at_it(bucket, other, as_nobody, s3):
    url = s3.new_url()
    assert "is a store" in as_nobody(other(url), "store", "init", url).stderr
    assert "lab/env" in as_nobody(bucket, "list").ok()
    assert "/opt/text" in as_nobody(bucket, "log", "env").ok() + as_nobody(bucket, "files", "env", "--changed").ok()


def test_ctrl_c_ends_the_wait_for_a_silent_server(other):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        envkit = other(AWS_ENDPOINT_URL=f"http://127.0.0.1:{silent.getsockname()[1]}")
        process = envkit.start("list")
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            started = time.monotonic()
            _, err = process.communicate(timeout=60)
            assert time.monotonic() - started < 30  # whoever waits for the server waits for a minute
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_jobs_of_this_machine_have_the_keys_that_are_in_variables_alone(bucket):
    here = {"ENVKIT_QUEUE_KIND": "local"}
    script = "cat /opt/text; env; until test -e /opt/go; do sleep 0.1; done"
    job = bucket("submit", "-e", "lab/env", "--", "sh", "-c", script, env=here).ok()
    path = f"{bucket.root}/queue/jobs/{job}/script"
    try:
        wait_until(lambda: b"two" in bucket("logs", job, env=here).out, "it to run")
        with open(path, encoding="utf-8") as file:
            assert SECRET in file.read()
        assert [stat.S_IMODE(os.stat(place).st_mode) for place in (path, f"{bucket.root}/queue")] == [0o600, 0o700]
        lines = []
        for place in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError), open(place, "rb") as file:
                lines.append(file.read())
        words = b"\0".join(lines).split(b"\0")
        assert b"task" in words  # it is among them
        assert not [word for word in words if b"AWS_SECRET" in word or word == SECRET.encode()]
    finally:
        bucket("ssh", job, "--", "touch", "/opt/go", env=here)
        bucket("wait", job, "--timeout", "50", env=here)
    assert "AWS_" not in bucket("result", job, env=here).ok()
    assert not os.path.exists(path)
