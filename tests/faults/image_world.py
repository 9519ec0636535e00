"""A small environment in a store, nodes that have it served on demand, and readers that compare what they read.

No container is needed: readers mount the layer's file themselves, in namespaces of their own, each with a page cache of
its own, so that each of them asks the image server for everything.
"""

import contextlib
import hashlib
import json
import os
import random
import select
import signal
import time
import traceback

import pytest
from faults.image_variants import starting
from stored_support import Lab

from envkit.cache import mapfile
from envkit.config.model import Config
from envkit.drivers import libc, mount
from envkit.drivers.files import remove_tree
from envkit.model.paths import Paths
from envkit.node.instance import prepare
from envkit.ondemand import holder
from envkit.ondemand.client import Client
from envkit.services.context import Context
from envkit.services.layers import layer_images

BOUND = 60.0
"""Seconds after which whatever takes so long is taken to hang."""


class Origin:
    """An environment `lab/sci` of one layer, and what its files hold: SHA-256 by path."""

    def __init__(self, place, *, seed=20260131, store=None):
        rng = random.Random(seed)
        files = _files(rng)
        self.lab = Lab(place, store=store)
        self.store = self.lab.store_path
        self.version = self.lab.save("sci", files)
        self.layer = self.version.layers[0]
        self.expected = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        self.bytes = sum(map(len, files.values()))


def _files(rng):
    """Return contents by path: a few hundred small files, and some large ones, half of it compressible."""
    words = [rng.randbytes(5).hex().encode() for _ in range(200)]
    files = {}
    for number in range(320):
        size = rng.choice((0, 10, 700, 3000, 5000, 17_000, 40_000))
        data = rng.randbytes(size) if number % 2 else b" ".join(rng.choices(words, k=size // 11))
        files[f"usr/lib/d{number % 17}/f{number}"] = data
    for number in range(5):
        files[f"opt/large/random{number}"] = rng.randbytes(3_000_000 + 12_345 * number)
        block = b" ".join(rng.choices(words, k=40_000))
        files[f"opt/large/text{number}"] = block * 5 + rng.randbytes(number * 100)
    return files


class Node:
    """A node with nothing in its cache, on which a layer of the origin is served. A context manager.

    :param store: where the layer is fetched from, the origin's own store by default.
    :param variants: of the image server, see `image_variants`.
    :param started: the server runs from the beginning.
    """

    def __init__(self, place, origin, *, store=None, variants=(), through_loop=False, started=True, **settings):
        self.origin = origin
        self.root = str(place)
        self.through_loop = through_loop
        self.context = Context(Config(root=self.root, store=store or origin.store, owner="lab", **settings))
        self.paths = Paths.at(self.root)
        self.layer = origin.layer
        self.variants = ("quick-restart", "no-background", "unfinished", *variants)
        self.images = None
        self._started = started

    def __enter__(self):
        prepare(self.paths)
        if self._started:
            self.open()
        return self

    def __exit__(self, *_):
        self.close_for_good()

    def close_for_good(self):
        """End it and remove all that it has."""
        self.shut(force=True)
        assert not os.path.exists(self.paths.images) or not os.path.ismount(self.paths.images)
        remove_tree(self.paths.run)
        remove_tree(self.root)

    @property
    def store(self):
        """Where its store is."""
        return self.context.config.store

    def open(self, *, store=None, **options):
        """Have the layer served, by a server that is there already or is started now."""
        self.close()
        context = self.context
        if store is not None:
            context = Context(Config(root=self.root, store=store, owner="lab"))
        with starting(*self.variants):
            self.images = layer_images(context, [self.layer], **options)

    def close(self):
        """Let the server go."""
        if self.images is not None:
            self.images.close()
            self.images = None

    def shut(self, *, force=False):
        """End the image server; return what it has complained about."""
        self.close()
        assert Client.stop(self.paths, force=force), "the image server does not end"
        return self.log

    def restart(self):
        """End the image server and start another: what the cache has on disk is all that it knows."""
        self.shut()
        self.open()

    @property
    def path(self):
        """The path of the layer's file in this process."""
        return self.images.files[0][1]

    @property
    def directory(self):
        """The layer's place in the cache."""
        return self.paths.layer(self.layer.tree)

    @property
    def log(self):
        """What the image server has complained about so far."""
        with contextlib.suppress(FileNotFoundError), open(self.paths.images_log, encoding="utf-8") as file:
            return file.read()
        return ""

    @property
    def holder(self):
        return holder.pids(self.paths)[0]

    @property
    def server(self):
        return holder.pids(self.paths)[1]

    def kill(self, *pids, number=signal.SIGKILL):
        """Send a signal to processes of the image server."""
        assert set(pids) <= set(holder.pids(self.paths)), "these are none of the image server's"
        for pid in pids:
            os.kill(pid, number)

    def state(self):
        """What the server says of itself."""
        client = Client.find(self.paths)
        try:
            return client.ask({"op": "state"})[0]
        finally:
            client.close()

    @property
    def fetched(self):
        """Bytes of chunks that the server has fetched since it was started."""
        return sum(layer["fetched"] for layer in self.state()["layers"])

    @property
    def stored(self):
        """Bytes that all chunks of the layer have in the store."""
        return sum(chunk.stored for chunk in mapfile.load(self.directory).map.chunks)

    def read(self, *, bound=BOUND, **options):
        """Read the whole tree once in a process of its own; return what came of it."""
        with self.readers(1, **options) as (reader,):
            return reader.result(bound=bound)

    @contextlib.contextmanager
    def readers(self, count, **options):
        """Start readers; those that have not ended in the end are killed."""
        started = [Reader(self, number, **options) for number in range(count)]
        try:
            yield started
        finally:
            for reader in started:
                reader.kill()
            until = time.monotonic() + 3
            if not all([reader.ended(seconds=max(0.0, until - time.monotonic())) for reader in started]):
                Client.stop(self.paths, force=True)  # they wait for the server where no signal reaches them
            for reader in started:
                assert reader.ended(seconds=10)
                reader.close()

    def wait_until(self, condition, what, *, seconds=BOUND):
        """Wait for something that has to come; not for ever."""
        wait_until(condition, what, seconds=seconds)


def wait_until(condition, what, *, seconds=BOUND):
    """Wait for something that has to come; not for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.005)


class Hang(AssertionError):
    """A reader did not come to an end."""


class Reader:
    """A process that mounts the layer and reads all of its files, again and again if `again`, until `stop`.

    :param most: it reads so many files, all by default.
    :param opens: the process connects to the image server itself, and starts it where there is none.
    :param first: called in the process before it begins.
    """

    def __init__(self, node, number, *, again=False, opens=False, most=None, first=lambda: None):
        self._told, tell = os.pipe()
        hear, self._stop = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._told)
                os.close(self._stop)
                os.nice(5)
                first()
                if opens:
                    node.images = None
                    node.open()
                outcome = _read_trees(node, number, most, hear if again else None)
            except BaseException as error:  # noqa: BLE001  # everything is told
                outcome = {"errors": [f"{type(error).__name__}: {error} {traceback.format_exc()[-800:]}"]}
            os.write(tell, json.dumps(outcome).encode()[:60_000])
            os._exit(0)
        os.close(tell)
        os.close(hear)
        self._process = os.pidfd_open(self.pid)
        self._result = None

    def stop(self):
        """Have it end after the tree that it is reading."""
        if self._stop >= 0:
            # Its end alone says nothing: readers that were started later have a copy of it.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._stop, b"x")
            os.close(self._stop)
            self._stop = -1

    def result(self, *, bound=BOUND):
        """Wait for its end; return {"rounds", "errors", "wrong"}.

        :raises Hang: it does not end.
        """
        self.stop()
        if self._result is None:
            poll = select.poll()
            poll.register(self._told, select.POLLIN)
            if not poll.poll(bound * 1000):
                raise Hang(f"reader {self.pid} did not end within {bound:g} s")
            data = os.read(self._told, 1 << 16)
            self._result = {"rounds": 0, "errors": [], "wrong": []} | json.loads(data or b'{"errors": ["killed"]}')
        return self._result

    def kill(self):
        """Send it SIGKILL, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, *, seconds):
        """Wait for its end, at most so long; tell whether it has ended."""
        return bool(select.select([self._process], [], [], seconds)[0])

    def close(self):
        """Forget it."""
        self.stop()
        os.waitpid(self.pid, 0)
        os.close(self._process)
        os.close(self._told)


def _read_trees(node, number, most, hear):
    """Read trees as `Reader` says; return what came of it."""
    mount.enter_private_namespace()
    target = f"{node.root}/mnt{number}"
    os.makedirs(target, exist_ok=True)
    rng = random.Random(number)
    outcome = {"rounds": 0, "errors": [], "wrong": []}
    while True:
        try:
            mount.mount_image(node.path, target, through_loop=node.through_loop, direct=True)
            try:
                _compare(node.origin.expected, target, rng, most, outcome)
            finally:
                libc.umount(target)
        except Exception as error:  # noqa: BLE001  # a reader's error is what is looked for
            outcome["errors"].append(f"{type(error).__name__}: {error}")
        outcome["rounds"] += 1
        if hear is None or outcome["errors"] or outcome["wrong"] or select.select([hear], [], [], 0)[0]:
            return outcome


def _compare(expected, target, rng, most, outcome):
    paths = sorted(expected)
    rng.shuffle(paths)
    there = sorted(os.path.relpath(f"{place}/{name}", target) for place, _, names in os.walk(target) for name in names)
    if there != sorted(expected):
        outcome["wrong"].append("the list of files")
    for path in paths[:most]:
        try:
            with open(f"{target}/{path}", "rb", buffering=0) as file:
                data = file.read()
        except OSError as error:
            outcome["errors"].append(f"{path}: {error.strerror}")
            continue
        if hashlib.sha256(data).hexdigest() != expected[path]:
            outcome["wrong"].append(f"{path}: {data.count(0)} of {len(data)} bytes are 0")


def right(outcome, *, rounds=1):
    """Assert that a reader met neither an error nor a wrong byte."""
    assert (outcome["errors"], outcome["wrong"]) == ([], []), outcome
    assert outcome["rounds"] >= rounds


@pytest.fixture(scope="session")
def origin(disk):
    """The environment that all nodes read."""
    return Origin(f"{disk}/image-origin")


@pytest.fixture
def new_node(scratch, origin):
    """A function that makes a node; all of them are gone in the end."""
    with contextlib.ExitStack() as nodes:
        numbers = iter(range(100))

        def make(*, place=None, origin=origin, **options):
            return nodes.enter_context(Node(place or f"{scratch}/n{next(numbers)}", origin, **options))

        yield make


def kill_server(node, times, rng):
    """Kill the server so many times, each time a little after another has begun to answer."""
    for _ in range(times):
        server = node.server
        time.sleep(rng.uniform(0, 0.15))
        node.kill(server)
        wait_until(lambda server=server: node.server != server, "another server is started")
        node.state()


@contextlib.contextmanager
def store_away(node):
    """Have a node's store be gone for a while."""
    os.rename(node.store, f"{node.store}.away")
    try:
        yield
    finally:
        if not os.path.exists(node.store):
            store_back(node)


def store_back(node):
    """Have a node's store be there again."""
    os.rename(f"{node.store}.away", node.store)
