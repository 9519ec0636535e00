"""Whatever happens to the image server, its cache and its store: readers get the right bytes, or an error in time.

Real FUSE, EROFS and stores; the readers are processes that mount a layer and compare all that they read with what was
stored. Each harness is tried with a promise broken, which it has to notice. `scripts/torture` does more of the same.
"""

import contextlib
import os
import random
import signal
import time

import pytest
from faults.image_world import Hang, Node, Origin, right, wait_until
from faults.scenarios import SEED

from envkit.ondemand import holder
from envkit.ondemand.client import Client

pytestmark = pytest.mark.root

_KILLS = 12


@pytest.fixture(scope="module")
def origin(disk):
    """The environment that all nodes here read."""
    return Origin(f"{disk}/image-server")


@pytest.fixture
def new_node(scratch, origin):
    """A function that starts a node; all of them are gone in the end."""
    with contextlib.ExitStack() as nodes:
        numbers = iter(range(100))

        def make(**options):
            return nodes.enter_context(Node(f"{scratch}/n{next(numbers)}", origin, **options))

        yield make


def kill_server(node, times, rng):
    """Kill the server so many times, each time a little after another has begun to answer."""
    for _ in range(times):
        server = node.server
        time.sleep(rng.uniform(0, 0.15))
        node.kill(server)
        wait_until(lambda server=server: node.server != server, "another server is started")
        node.state()


def test_readers_notice_nothing_of_servers_that_are_killed(new_node):
    node = new_node()
    with node.readers(8, again=True) as readers:
        kill_server(node, _KILLS, random.Random(SEED))
        outcomes = [reader.result() for reader in readers]
    for outcome in outcomes:
        right(outcome)
    assert node.log.count("the image server ended") == _KILLS


def test_requests_that_a_killed_server_had_read_are_missed_if_nobody_answers_them(new_node):
    node = new_node(variants=("no-replay",))
    with pytest.raises(Hang), node.readers(8, again=True) as readers:
        kill_server(node, _KILLS, random.Random(SEED))
        for reader in readers:
            reader.result(bound=2)
