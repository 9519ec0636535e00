"""`envkit copy`: between stores, through the real command line; killed at every step, and repeated."""

import json
import os
import random
import shutil
import signal
import tempfile

import pytest
from commandline import Envkit
from s3_support import s3_variables, variables
from stored_support import Lab

from envkit.drivers.crash import POINTS
from envkit.model.ids import EnvName
from envkit.model.tree import Kind
from envkit.services.comparing import Contents
from envkit.services.diff import _views
from envkit.services.environments import resolve
from envkit.store import layout, versions
from envkit.store.open import init_store, open_store

STEPS = [point for point in POINTS if point.startswith("copy:")]


class Pair:
    """A node whose store has an environment, and an empty store beside it."""

    def __init__(self, place, url, variables):
        self.lab = Lab(place / "lab")
        self.here = Envkit(self.lab.root, store=self.lab.store_path)
        self.there = Envkit(f"{place}/there", store=url)
        self.url = url
        self.variables = variables

    def copy(self, *words, env=None, **options):
        return self.here("copy", *words, "--to", self.url, env=self.variables | (env or {}), **options)

    def versions(self, name="sci"):
        history = versions.read_history(self.store(), EnvName(owner="lab", name=name))
        return [(number, history.versions[number].message) for number in history.live]

    def store(self):
        with variables(self.variables):
            return open_store(self.url)

    def objects(self, prefix=""):
        """The objects of the destination with their ages; leases and the like left out."""
        kept = (layout.PACKS, layout.TREES, layout.ENVIRONMENTS)
        return {key: status for key, status in self.store().list_status(prefix) if key.startswith(kept)}

    def contents(self, name="sci", *, store=None):
        """Every file that the newest version shows, read from a store by a node without a cache."""
        with variables(self.variables), tempfile.TemporaryDirectory() as place:
            lab = Lab(place, store=store or self.url)
            version = resolve(lab.context, name)
            _, view = _views(lab.context, (), version.layers)
            with Contents(lab.context) as contents:
                return {
                    path: contents.read(view, entry, limit=1 << 30)
                    for path, entry in view.entries.items()
                    if entry.kind is Kind.FILE
                }


def noise(seed, size):
    return random.Random(seed).randbytes(size)


@pytest.fixture(params=["directory", "s3"])
def pair(request, tmp_path):
    if request.param == "directory":
        init_store(f"{tmp_path}/other")
        made = Pair(tmp_path, f"{tmp_path}/other", {})
    else:
        server = request.getfixturevalue("s3")
        url = server.new_url()
        server.new_store(url)
        made = Pair(tmp_path, url, s3_variables(server.endpoint))
    layers = [{f"opt/{layer}/{n}": noise(layer * 100 + n, 150_000) for n in range(6)} for layer in range(3)]
    base = made.lab.save("base/tiny", layers[0], message="the base")
    made.lab.save("sci", layers[1], layers[2], below=base, message="two layers")
    return made


def test_a_version_goes_to_another_store_and_runs_without_the_first(pair):
    outcome = pair.copy("sci")
    assert outcome.ok() == "lab/sci@1"
    assert outcome.stderr.splitlines()[0] == f"copied lab/sci@1 to lab/sci@1 in {pair.url}"
    expected = pair.contents(store=pair.lab.store_path)
    shutil.move(pair.lab.store_path, f"{pair.lab.store_path}-away")
    assert pair.contents() == expected
    assert len(expected) == 18
    info = json.loads(pair.there("info", "sci", "--json", env=pair.variables).ok())
    assert info["origin"].startswith("lab/sci@1 in store ")
    assert info["message"] == "two layers"


def test_a_second_copy_does_nothing_and_says_so(pair):
    pair.copy("sci").ok()
    before = pair.objects()
    again = pair.copy("sci")
    assert again.ok() == "lab/sci@1"
    assert again.stderr.splitlines() == [f"lab/sci@1 is already there: lab/sci@1 in {pair.url}", "sent 0 B"]
    assert pair.objects() == before
    result = json.loads(pair.copy("sci", "--json").stdout)
    assert result == {
        "store": pair.url,
        "versions": [{"source": "lab/sci@1", "version": "lab/sci@1", "already": True}],
        "sent": 0,
    }


def test_a_history_goes_along_under_another_name(pair):
    pair.lab.save("sci", {"x": b"1"}, message="three")
    assert pair.copy("sci", "--history", "--as", "paper").ok() == "lab/paper@1\nlab/paper@2"
    assert pair.versions("paper") == [(1, "two layers"), (2, "three")]


@pytest.mark.parametrize("point", STEPS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_copy_that_is_killed_leaves_nothing_half_and_is_finished_by_the_next(pair, point, count):
    killed = pair.copy("sci", "--history", env={"ENVKIT_CRASH": f"{point}@{count}"})
    if killed.code == 0:
        assert count > 1, f"{point} was never reached"
        return
    assert killed.code == -signal.SIGKILL
    arrived = pair.objects()
    if pair.versions():
        assert point == "copy:published"
        assert pair.contents() == pair.contents(store=pair.lab.store_path)
    again = json.loads(pair.copy("sci", "--json").ok())
    assert pair.objects().items() >= arrived.items(), "something was written again"
    assert pair.versions() == [(1, "two layers")]
    assert pair.contents() == pair.contents(store=pair.lab.store_path)
    new = [status.size for key, status in pair.objects().items() if key not in arrived]
    sizes = sum(status.size for key, status in pair.objects(layout.PACKS).items() if key not in arrived)
    assert again["sent"] >= sizes
    assert again["sent"] <= sum(new)
    assert "two layers" in pair.there("info", "sci", env=pair.variables).ok()


def test_errors_name_the_store_that_they_come_from(pair, tmp_path):
    (pack, *_) = [f"{place}/{name}" for place, _, names in os.walk(f"{pair.lab.store_path}/packs") for name in names]
    os.chmod(pack, 0o600)
    with open(pack, "r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    pair.copy("sci").fails(6, os.path.basename(pack), f"in the store {pair.lab.store_path}")
    assert pair.versions() == []
    pair.here("copy", "sci", "--to", str(tmp_path / "nowhere")).fails(7, f"cannot read the store {tmp_path}/nowhere")
    pair.here("copy", "sci", "--to", pair.lab.store_path).fails(2, "is the store that the environment is in already")
    pair.here("copy", "nothing", "--to", pair.url, env=pair.variables).fails(3, "no environment lab/nothing")


@pytest.mark.parametrize("pair", ["s3"], indirect=True)
def test_a_store_that_cannot_be_reached_is_named_without_secrets(pair):
    wrong = {"AWS_SECRET_ACCESS_KEY": "hush-hush-hush"}
    outcome = pair.copy("sci", env=wrong)
    assert outcome.code != 0
    assert pair.url in outcome.stderr
    assert "hush" not in outcome.stderr
    assert pair.versions() == []


def test_a_bucket_is_asked_before_a_pack_is_sent_again(s3, monkeypatch):
    store = s3.open(s3.new_url())
    data = noise(1, 1 << 20)
    assert store.put_if_absent("packs/aa/big", data) is True

    def sent(*_arguments, **_options):
        raise AssertionError("it was sent again")

    monkeypatch.setattr("envkit.store.bucket.obstore.put", sent)
    assert store.put_if_absent("packs/aa/big", data) is False
    with pytest.raises(AssertionError):
        store.put_if_absent("packs/aa/other", data)
