"""The files that the image server serves: names and numbers that stay the same, and what a name may mean."""

import errno
import os
import shutil

import pytest
from cache_support import plain_sample

from envkit.cache.layer import CacheBusy, create_partial
from envkit.model.paths import Paths
from envkit.ondemand import layers as layers_module
from envkit.ondemand.journal import Journal, create_journal
from envkit.ondemand.layers import Layers
from envkit.ondemand.sources import Stores

ONE, TWO, THREE = (number * 64 for number in "123")
_FIRST = 2


class Watchers:
    """Nothing is on its way; touches are kept."""

    def __init__(self):
        self.touches = []

    def expected(self, digest, granule):
        return False

    def wait(self, digest, granule, waiter):
        return False

    def touched(self, recording, digest, offset, length, *, missed):
        self.touches.append((recording, digest, offset, length, missed))


class Reader:
    def __init__(self):
        self.answers = []

    def answer(self, *data):
        self.answers.append(b"".join(data))

    def refuse(self, number):
        self.answers.append(number)


class Node:
    """Layers of a node, and a journal that the next server gets."""

    def __init__(self, root):
        self.paths = Paths(root=str(root), run=f"{root}/run")
        self.memory = create_journal()
        self.sample = plain_sample()
        self.made = []
        self.restart()

    def restart(self):
        """Have the layers be those of the next server."""
        self.forget()
        self.stores = Stores()
        self.watchers = Watchers()
        self.layers = Layers(self.paths, Journal(self.memory), None, self.stores, self.watchers)
        self.made.append(self.layers)

    def forget(self):
        for layers in self.made:
            for layer in layers.opened():
                layer.cached.retire()
        self.made.clear()

    def cache(self, digest):
        create_partial(self.paths.layer(digest), self.sample.map, self.sample.metadata)
        return digest

    def read(self, node, offset, length):
        reader = Reader()
        self.layers.read(node, offset, length, reader)
        return reader.answers


@pytest.fixture
def node(tmp_path):
    found = Node(tmp_path)
    yield found
    found.forget()
    os.close(found.memory)


def refused(number, call, *arguments):
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        call(*arguments)
    assert caught.value.errno == number


@pytest.mark.parametrize(
    "name", ["", "x", "..", ONE[:-1], ONE + "1", ONE.replace("1", "g"), f"{ONE}.", f"{ONE}.12", f"../{ONE}", f"{ONE}\n"]
)
def test_other_names_are_not_there(node, name):
    node.cache(ONE)
    refused(errno.ENOENT, node.layers.lookup, name)
    assert node.layers.names() == []


def test_names_have_numbers_and_sizes(node):
    for digest in (ONE, TWO):
        node.cache(digest)
    size = node.sample.map.size
    assert node.layers.lookup(ONE) == (_FIRST, size)
    assert node.layers.lookup(TWO) == (_FIRST + 1, size)
    assert node.layers.lookup(ONE) == (_FIRST, size)
    assert node.layers.lookup(f"{ONE}.0123abcd") == (_FIRST + 2, size)
    assert node.layers.size(_FIRST + 2) == size
    assert node.layers.names()[1] == (_FIRST + 1, TWO.encode())


def test_numbers_stay_the_same_for_the_next_server(node):
    for digest in (ONE, TWO):
        node.layers.lookup(node.cache(digest))
    node.restart()
    assert node.layers.lookup(TWO)[0] == _FIRST + 1
    assert node.layers.size(_FIRST) == node.sample.map.size
    assert node.layers.lookup(node.cache(THREE))[0] == _FIRST + 2


@pytest.mark.parametrize("number", [0, 1, _FIRST + 1, 10**9])
def test_numbers_that_mean_nothing_are_refused(node, number):
    node.layers.lookup(node.cache(ONE))
    refused(errno.ESTALE, node.layers.size, number)
    refused(errno.ESTALE, node.read, number, 0, 10)


def test_a_layer_that_cannot_be_had_is_an_error_and_can_be_had_later(node):
    refused(errno.EIO, node.layers.lookup, ONE)
    node.cache(ONE)
    assert node.layers.lookup(ONE)[0] == _FIRST


def test_a_layer_that_somebody_else_writes_is_an_error(node, monkeypatch):
    def busy(directory):
        raise CacheBusy(directory)

    node.cache(ONE)
    monkeypatch.setattr(layers_module.CachedLayer, "open", busy)
    refused(errno.EIO, node.layers.lookup, ONE)


def test_there_is_an_end_of_names(node, monkeypatch):
    monkeypatch.setattr(layers_module, "MAX_NAMES", 4)
    node.cache(ONE)
    assert node.layers.room_for_names
    node.layers.lookup(ONE)
    node.layers.lookup(f"{ONE}.00000001")
    assert not node.layers.room_for_names
    for number in (2, 3):
        node.layers.lookup(f"{ONE}.0000000{number}")
    refused(errno.ENFILE, node.layers.lookup, f"{ONE}.00000004")
    assert node.layers.lookup(ONE)[0] == _FIRST


def test_reads_of_a_recorded_file_are_told(node):
    number = node.layers.lookup(f"{node.cache(ONE)}.0123abcd")[0]
    plain = node.layers.lookup(ONE)[0]
    size = node.sample.map.size
    for which in (number, plain):
        assert node.read(which, 0, 4096) == [node.sample.image[:4096]]
    node.sample.put(node.layers.layer(ONE).cached, *range(4))
    assert node.read(number, size - 10, 4096) == [node.sample.image[-10:]]
    assert node.watchers.touches == [("0123abcd", ONE, 0, 4096, False), ("0123abcd", ONE, size - 10, 10, False)]


def test_the_store_that_was_named_last_is_asked_first(node):
    names = [node.stores.add({"url": f"/store{number}"}) for number in range(6)]
    for name in names:
        node.layers.add_sources([ONE, "no digest"], name)
    node.layers.add_sources([ONE], names[3])
    node.restart()
    assert node.layers._sources == {ONE: [names[3], names[5], names[4], names[2]]}
    assert [given["url"] for given in node.stores.given.values()] == [f"/store{number}" for number in range(6)]


def test_there_is_an_end_of_what_is_known_of_layers(node, monkeypatch):
    monkeypatch.setattr(layers_module, "MAX_NAMES", 3)
    store = node.stores.add({"url": "/store"})
    digests = [f"{number:064x}" for number in range(5)]
    node.layers.add_sources(digests, store)
    node.layers.add_sources(digests[2:3], store)
    assert list(node.layers._sources) == [digests[3], digests[4], digests[2]]


@pytest.mark.parametrize("name", ["", "map"])
def test_a_layer_whose_place_was_removed_is_opened_anew(node, name):
    number = node.layers.lookup(node.cache(ONE))[0]
    old = node.layers.layer(ONE)
    path = f"{node.paths.layer(ONE)}/{name}"
    os.unlink(path) if name else shutil.rmtree(path)
    node.layers.forget_removed()
    node.cache(ONE)
    assert node.read(number, 0, 100) == [node.sample.image[:100]]
    assert node.layers.layer(ONE) is not old


def test_a_layer_that_somebody_waits_for_is_not_forgotten(node, monkeypatch):
    node.layers.lookup(node.cache(ONE))
    layer = node.layers.layer(ONE)
    monkeypatch.setattr(type(layer), "idle", False)
    shutil.rmtree(node.paths.layer(ONE))
    node.layers.forget_removed()
    assert node.layers.layer(ONE) is layer
