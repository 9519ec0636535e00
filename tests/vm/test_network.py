"""The hub of guests: it passes frames on to all others, and a guest that is off or unplugged is in nobody's way."""

import contextlib
import os
import socket

import pytest
from commandline import PATIENCE, wait_until
from vm.network import Hub


@pytest.fixture
def hub(tmp_path):
    with Hub(tmp_path) as made:
        yield made


@pytest.fixture
def card(hub, tmp_path):
    """A function that makes a guest's end of the cable, as QEMU does with the arguments that the hub gives."""
    with contextlib.ExitStack() as stack:

        def plug(name):
            argument = hub.arguments(name)[1]
            assert f"local.path={tmp_path}/{name}," in argument and f"remote.path={tmp_path}/hub" in argument
            end = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            end.bind(f"{tmp_path}/{name}")
            end.connect(f"{tmp_path}/hub")
            end.settimeout(PATIENCE)
            return end

        yield plug


def test_a_frame_comes_to_all_others_once(hub, card):
    first, second, third = (card(name) for name in ("first", "second", "third"))
    first.send(b"from first")
    second.send(b"from second")
    assert third.recv(100) == b"from first"
    assert third.recv(100) == b"from second"
    assert first.recv(100) == b"from second"
    assert second.recv(100) == b"from first"
    counted = {"first": 11, "second": 10, "third": 21}
    wait_until(lambda: hub.received == counted, "the hub has counted")


def test_large_frames_arrive_and_none_is_lost_while_somebody_reads(hub, card):
    first, second = card("first"), card("second")
    for number in range(50):
        first.send(bytes([number]) * 9000)
        assert second.recv(10_000) == bytes([number]) * 9000


def test_guests_that_are_off_gone_or_unplugged_lose_frames_and_the_others_do_not(hub, card, tmp_path):
    first, second, gone, pulled = (card(name) for name in ("first", "second", "gone", "pulled"))
    hub.arguments("off")
    gone.close()
    os.unlink(tmp_path / "gone")
    hub.unplug("pulled")
    pulled.send(b"into the void")
    first.send(b"frame")
    assert second.recv(100) == b"frame"
    pulled.setblocking(False)
    with pytest.raises(BlockingIOError):
        pulled.recv(100)
    assert hub.received["off"] == hub.received["gone"] == hub.received["pulled"] == 0


def test_two_guests_have_two_addresses(hub):
    addresses = {hub.arguments(name)[3] for name in ("first", "second")}
    assert len(addresses) == 2
