"""Who may speak to the image server, and that nobody comes in while it ends."""

import socket
import time

import pytest

from envkit.model.paths import Paths
from envkit.ondemand.control import Control
from envkit.ondemand.holder import Held
from envkit.ondemand.messages import address, receive, send


class Stacks:
    """Takes note of stacks that end."""

    def __init__(self):
        self.ended = []

    def begin(self, message):
        return {"stack": str(message["name"])}

    def end(self, stack, *, code):
        self.ended.append((stack, code))
        if stack == "odd":
            raise OSError("a layer cannot be had")
        return {}


class Server:
    """A control that listens."""

    def __init__(self, directory):
        self.address = str(directory / "socket")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with address(self.address) as path:
            listener.bind(path)
        listener.listen()
        held = Held(Paths.at(str(directory)), -1, listener.detach(), -1, -1, -1)
        self.stacks = Stacks()
        self.control = Control(held, None, None, self.stacks, None)
        self.control.start()

    def connect(self):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(10)
        with address(self.address) as path:
            connection.connect(path)
        return connection

    def ask(self, connection, **message):
        send(connection, message)
        return receive(connection)[0]

    def wait_for_clients(self, count):
        until = time.monotonic() + 10
        while self.control.clients != count:
            assert time.monotonic() < until
            time.sleep(0.001)


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


def test_what_is_not_known_is_told_and_costs_nobody_the_connection(server):
    with server.connect() as client:
        for message in ({"op": "unknown"}, {"op": None}, {}, {"op": ["begin"]}, {"op": "begin"}):
            answer = server.ask(client, **message)
            assert answer["ok"] is False
            assert answer["error"]
        assert server.ask(client, op="begin", name="a") == {"ok": True, "stack": "a"}


def test_who_sends_no_message_is_not_spoken_to_and_others_are(server):
    with server.connect() as other, server.connect() as client:
        client.send(b"no message")
        assert receive(client) is None
        assert server.ask(other, op="begin", name="a")["ok"]


def test_the_stacks_of_a_client_that_is_gone_end(server):
    with server.connect() as client:
        for name in ("first", "odd", "last"):
            server.ask(client, op="begin", name=name)
        server.wait_for_clients(1)
    server.wait_for_clients(0)
    until = time.monotonic() + 10
    while len(server.stacks.ended) < 3:
        assert time.monotonic() < until
    assert server.stacks.ended == [("first", None), ("odd", None), ("last", None)]


def test_a_server_with_clients_does_not_end(server):
    with server.connect():
        server.wait_for_clients(1)
        assert not server.control.end_if_unused(pytest.fail)


def test_a_server_that_containers_use_does_not_end(server):
    assert not server.control.end_if_unused(lambda: False)
    with server.connect() as client:
        assert server.ask(client, op="begin", name="a")["ok"]


def test_who_comes_while_the_server_ends_is_sent_away(server):
    assert server.control.end_if_unused(lambda: True)
    with server.connect() as client:
        assert receive(client) is None
    assert server.control.clients == 0
