"""A real S3 server for tests, once a run of pytest; each test works below a prefix of its own in its bucket."""

import contextlib
import http.client
import os
import shutil
import subprocess
import tempfile
import uuid
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from gates import skip_or_fail

from envkit.store.open import init_store
from envkit.store.settings import StoreSettings

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = f"{CHECKOUT}/scripts/s3-server"
SWIFT = os.environ.get("ENVKIT_SWIFT_VENV", "/opt/envkit-swift")
DISK = os.environ.get("ENVKIT_TEST_DIR", "/var/tmp")
KEY, SECRET = "test:tester", "testing"
OTHER_KEY, OTHER_SECRET = "other:other", "othering"


class S3Server(NamedTuple):
    """A server that runs: its address, and the variables with which tools reach it."""

    endpoint: str
    directory: str

    @property
    def variables(self):
        return s3_variables(self.endpoint)

    def new_url(self):
        """The URL of a place that is empty."""
        return f"s3://envkit/{uuid.uuid4().hex}"

    def new_store(self, url=None):
        """A new store in this server."""
        url = url or self.new_url()
        with variables(self.variables):
            return init_store(url)

    def open(self, url, *, patience=None, endpoint=None):
        """The backend at a URL, whether a store is there or not."""
        from envkit.store.connect import open_bucket  # late: not every run of tests needs obstore

        return open_bucket(url, StoreSettings(), environment=s3_variables(endpoint or self.endpoint), patience=patience)

    def swift(self, method, path, body=b""):
        """Do what S3 tools cannot, with Swift's own interface; return the HTTP status."""
        headers = _ask(self.endpoint, "GET", "/auth/v1.0", {"X-Auth-User": KEY, "X-Auth-Key": SECRET})[1]
        token = {"X-Auth-Token": headers["X-Auth-Token"]}
        return _ask(self.endpoint, method, f"/v1/AUTH_test/{path}", token, body)[0]


def s3_variables(endpoint, key=KEY, secret=SECRET):
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
    }


@contextlib.contextmanager
def variables(values):
    """Set variables of this process for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _ask(endpoint, method, path, headers, body=b""):
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body=body or None, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers


def lack_of_server():
    """Why no server can be started here, or None."""
    if not os.access(f"{SWIFT}/bin/swift-proxy-server", os.X_OK):
        return f"there is no Swift in {SWIFT}: run scripts/provision --test"
    if shutil.which("memcached", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin") is None:
        return "memcached is not installed: run scripts/provision --test"
    return None


@contextlib.contextmanager
def running_server(*options):
    """Start a server of its own; `--racy` leaves out the lock that makes Swift's conditional put atomic."""
    directory = tempfile.mkdtemp(prefix="envkit-s3-", dir=DISK)
    process = subprocess.Popen([SCRIPT, *options, directory], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        settings = dict(line.removeprefix("export ").strip().split("=", 1) for line in process.stdout)
        assert "AWS_ENDPOINT_URL" in settings, process.stderr.read()
        yield S3Server(settings["AWS_ENDPOINT_URL"], directory)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
        process.stderr.close()
        shutil.rmtree(directory)


def _need_server(config):
    missing = lack_of_server()
    if missing is not None:
        skip_or_fail(config, missing)


@pytest.fixture(scope="session")
def s3(pytestconfig):
    """The server that tests share."""
    _need_server(pytestconfig)
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def racy_s3(pytestconfig):
    """A server on which two writers at once can both win."""
    _need_server(pytestconfig)
    with running_server("--racy") as server:
        yield server
