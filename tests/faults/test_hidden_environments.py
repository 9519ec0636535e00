"""A server whose listings leave out environments, without an error: a collection finds them, or stops; it loses none."""

import pytest
from aging import DAY, HOUR
from fault_proxy import FaultProxy, Rule
from faults.bucket_world import bucket_of, make_by_hand
from stored_support import Lab

from envkit.services import collecting
from envkit.services.marking import CollectionStopped, Marker
from envkit.services.verifying import verify

LIVE = "/envs/lab/live/"


@pytest.fixture
def proxy(s3):
    host, _, port = s3.endpoint.removeprefix("http://").partition(":")
    with FaultProxy(host, int(port)) as proxy:
        yield proxy


@pytest.fixture
def lab(s3, proxy, tmp_path, monkeypatch):
    """A store with two environments that a collection has seen, one of which got another version since then."""
    for name, value in (s3.variables | {"AWS_ENDPOINT_URL": proxy.endpoint}).items():
        monkeypatch.setenv(name, value)
    url = s3.new_url()
    make_by_hand(s3, url)
    lab = Lab(tmp_path, store=url)
    lab.bucket = bucket_of(s3, url)
    lab.save("live", {"a": b"one" * 9_000})
    lab.save("other", {"a": b"other" * 9_000})
    collecting.collect(lab.fresh_context())
    lab.save("live", {"a": b"two" * 9_000})
    lab.delete(lab.save("gone", {"a": b"gone" * 9_000}))
    return lab


@pytest.fixture
def collect(lab, monkeypatch):
    """A function that collects; each time it is days later than the time before."""
    passed = 0.0
    now = collecting._Clock.now
    monkeypatch.setattr(collecting._Clock, "now", lambda self: now(self) + passed)

    def later():
        nonlocal passed
        passed += 8 * DAY + 5 * HOUR
        return collecting.collect(lab.fresh_context())

    return later


def _damages(lab, proxy):
    proxy.rules = []
    return verify(lab.fresh_context(), data=True).damages


@pytest.mark.parametrize("hides", [LIVE, LIVE + "00000002", "/envs/lab/", "/(envs/lab/live|roots)/0*[12]"])
def test_what_listings_leave_out_is_found(lab, proxy, collect, hides):
    proxy.rules = [Rule("hole", listing=True, times=None, hides=hides)]
    done = [collect() for _ in range(4)]
    assert proxy.met >= 4
    assert sum(one.deleted.versions for one in done if one.deleted) == (0 if hides == "/envs/lab/" else 1)
    assert _damages(lab, proxy) == []


def test_a_first_listing_that_is_shown_again_and_again_loses_nothing(lab, proxy, collect):
    proxy.rules = [Rule("stale", listing=True, key="prefix=[^&]*/(envs|roots)/", times=None)]
    for _ in range(4):
        collect()
    assert proxy.met >= 8
    assert _damages(lab, proxy) == []


def test_believing_listings_loses_an_environment(lab, proxy, collect, monkeypatch):
    """The same as above, without the list of environments: that is noticed."""
    monkeypatch.setattr(Marker, "_with_known", lambda _self, listed: listed)
    proxy.rules = [Rule("hole", listing=True, times=None, hides=LIVE)]
    for _ in range(4):
        collect()
    assert {version for damage in _damages(lab, proxy) for version in damage.versions} == {"lab/live@1", "lab/live@2"}


def test_records_that_the_server_lost_stop_it(lab, proxy, collect):
    lab.bucket.delete(["envs/lab/live/00000001.json", "envs/lab/live/00000002.json"])
    before = set(lab.store.list("packs/"))
    for _ in range(2):
        with pytest.raises(CollectionStopped, match=r"no longer has lab/live@1, the newest of what"):
            collect()
    assert set(lab.store.list("packs/")) == before
