"""Whatever happens to the processes of the image server: readers get the right bytes, or an error in time.

Real FUSE, EROFS and stores; the readers are processes that mount a layer and compare all that they read with what was
stored. Each harness is tried with a promise broken, which it has to notice. `scripts/torture` does more of the same.
"""

import contextlib
import os
import random
import signal
import threading
import time

import pytest
from faults.image_world import Hang, kill_server, right, store_away, store_back, wait_until
from faults.scenarios import SEED

from envkit.ondemand import holder
from envkit.ondemand.client import Client
from envkit.ondemand.messages import ServerGone

pytestmark = pytest.mark.root

_KILLS = 12


def test_readers_notice_nothing_of_servers_that_are_killed(new_node):
    node = new_node()
    with node.readers(8, again=True) as readers:
        kill_server(node, _KILLS, random.Random(SEED))
        outcomes = [reader.result() for reader in readers]
    for outcome in outcomes:
        right(outcome)
    assert node.log.count("the image server ended") == _KILLS


def test_requests_that_nobody_answers_after_a_kill_are_noticed(new_node):
    node, chance = new_node(variants=("no-replay",)), random.Random(SEED)
    with pytest.raises(Hang):
        for _ in range(8):  # a kill may come when nothing is asked for
            with node.readers(8, again=True) as readers:
                kill_server(node, 4, chance)
                for reader in readers:
                    reader.result(bound=2)


def test_a_loop_device_over_the_server_survives_kills(new_node):
    node = new_node(through_loop=True)
    with node.readers(2, again=True) as readers:
        kill_server(node, 3, random.Random(SEED))
        for reader in readers:
            right(reader.result())


def test_holder_and_server_replace_each_other(new_node):
    node = new_node()
    with node.readers(4, again=True) as readers:
        first = node.holder
        node.kill(first)
        wait_until(lambda: node.holder != first, "another holder is started")
        kill_server(node, 2, random.Random(SEED))
        second = node.holder
        node.kill(second)
        wait_until(lambda: node.holder != second, "a third holder is started")
        for reader in readers:
            right(reader.result())
    assert len(processes(node)) == 2


def test_both_killed_at_once_costs_errors_and_no_more(new_node):
    node, other = new_node(), new_node()
    with node.readers(4, again=True) as readers, other.readers(1, again=True) as others:
        wait_until(lambda: node.state()["layers"][0]["fetched"] > 0, "something is read")
        node.kill(*holder.pids(node.paths))
        for reader in readers:
            outcome = reader.result(bound=10)
            assert outcome["errors"]
            assert outcome["wrong"] == []
        right(others[0].result())
    node.open()
    right(node.read())


def test_a_server_that_stands_still_is_waited_for(new_node):
    node = new_node()
    server = node.server
    node.kill(server, number=signal.SIGSTOP)
    with node.readers(4) as readers:
        assert not any(reader.ended(seconds=0.5) for reader in readers)
        node.kill(server, number=signal.SIGCONT)
        for reader in readers:
            right(reader.result())


def test_a_server_that_stands_still_can_be_ended(new_node):
    node = new_node()
    node.kill(*holder.pids(node.paths), number=signal.SIGSTOP)
    with node.readers(3) as readers:
        assert not any(reader.ended(seconds=0.2) for reader in readers)
        assert Client.stop(node.paths, force=True)
        for reader in readers:
            outcome = reader.result(bound=5)
            assert outcome["errors"]
            assert outcome["wrong"] == []
    assert processes(node) == []


def signals():
    """Have this process get a signal every two milliseconds, and ignore it."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)


def read_with_signals(node):
    """Have a reader wait for the store and get signals meanwhile; return what came of it."""
    with store_away(node), node.readers(1, first=signals) as (reader,):
        # A reader whose reads end with every signal may never come to ask for anything.
        wait_until(lambda: node.state()["fetched"]["retries"] or reader.ended(seconds=0), "something is waited for")
        reader.ended(seconds=0.1)
        store_back(node)
        return reader.result()


def test_signals_that_a_reader_survives_cost_it_nothing(new_node):
    right(read_with_signals(new_node()))


def test_reads_that_end_with_every_signal_are_noticed(new_node):
    assert read_with_signals(new_node(variants=("interrupts",)))["errors"]


def test_a_killed_reader_does_not_wait_for_the_store(new_node):
    node = new_node()
    with store_away(node), node.readers(2) as (killed, other):
        wait_until(lambda: node.state()["fetched"]["retries"], "something is waited for")
        assert not killed.ended(seconds=0.2)
        killed.kill()
        assert killed.ended(seconds=5)
        assert not other.ended(seconds=0)
        store_back(node)
        right(other.result())


def test_eight_cold_starts_at_once_fetch_everything_once(new_node):
    node = new_node(started=False)
    with node.readers(8, opens=True) as readers:
        for reader in readers:
            right(reader.result())
    state = node.state()
    assert state["layers"][0]["fetched"] == node.stored
    assert state["fetched"]["bytes"] <= 1.05 * node.stored
    assert len(processes(node)) == 2


@pytest.mark.parametrize("operation", ["open", "begin", "prepared"])
def test_a_start_survives_a_restart_of_the_server(new_node, monkeypatch, operation):
    node = new_node()
    ask, killed = Client.ask, []

    def ask_and_kill(self, message, **options):
        if message["op"] == operation and not killed:
            killed.append(node.server)
            node.kill(node.server)
        return ask(self, message, **options)

    monkeypatch.setattr(Client, "ask", ask_and_kill)
    node.open()
    assert killed
    right(node.read())


def test_a_start_gives_up_if_the_server_always_dies(new_node, monkeypatch):
    node = new_node()
    ask = Client.ask

    def ask_and_kill(self, message, **options):
        if message["op"] == "begin":
            server = node.server
            node.kill(server)
            wait_until(lambda: node.server != server, "another server is started")
        return ask(self, message, **options)

    monkeypatch.setattr(Client, "ask", ask_and_kill)
    with pytest.raises(ServerGone):
        node.open()


def test_clients_that_are_killed_leave_nothing(new_node):
    node = new_node()
    rng = random.Random(SEED)
    for _ in range(6):
        with node.readers(2, opens=True) as readers:
            time.sleep(rng.uniform(0, 0.1))
            for reader in readers:
                reader.kill()
    wait_until(lambda: node.state()["clients"] == 2, "the server forgets them")  # this test and `state`
    right(node.read())


def test_a_client_that_comes_while_the_server_ends_starts_the_next(new_node):
    node = new_node()
    over = threading.Event()

    def stop():
        while not over.is_set():
            Client.stop(node.paths)

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        for _ in range(8):
            node.open()
            assert os.stat(node.path).st_size > 0
            node.close()
    finally:
        over.set()
        stopper.join(30)
    node.open()
    right(node.read())


def processes(node):
    """Return the pids of all processes of a node's image server."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
            if name.isdecimal() and os.fsencode(node.root) in words and b"-IS" in words:
                found.append(int(name))
    return found
