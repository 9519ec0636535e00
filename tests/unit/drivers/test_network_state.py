import json
import subprocess
import sys

import pytest

from envkit.drivers import network

STATE = network._State(
    nat=network.Nat(bridge="envkit0", subnet="10.197.0.0/24", gateway="10.197.0.1", mtu=1400),
    index=7,
    routes="0" * 64,
    forwarding=("eth0",),
    opened=("eth0",),
)


def test_notes_come_back_as_they_were_written(tmp_path):
    path = str(tmp_path / "state")
    network._write_state(path, STATE)
    assert network._read_state(path) == STATE


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"nat": 3}', b"\xff", b'{"nat": {}, "index": 1}'])
def test_notes_that_a_crash_or_another_version_left_count_as_none(tmp_path, damage):
    path = tmp_path / "state"
    path.write_bytes(damage)
    assert network._read_state(str(path)) is None


def test_notes_with_a_field_of_another_version_count_as_none(tmp_path):
    path = str(tmp_path / "state")
    network._write_state(path, STATE)
    with open(path) as file:
        fields = json.load(file)
    with open(path, "w") as file:
        json.dump(fields | {"ipv6": True}, file)
    assert network._read_state(path) is None


@pytest.fixture
def kernel(monkeypatch):
    """What the kernel says, to be changed by tests."""
    says = {"index": 7, "routes": "0" * 64, "sysctl": {"ipv4/ip_forward": "0"}}
    for device in ("envkit0", "eth0"):
        says["sysctl"][f"ipv4/conf/{device}/forwarding"] = "1"

    def index_of(name):
        if says["index"] is None:
            raise OSError("no such device")
        return says["index"]

    monkeypatch.setattr("socket.if_nametoindex", index_of)
    monkeypatch.setattr(network, "_routes_digest", lambda: says["routes"])
    monkeypatch.setattr(network.sysctl, "read", lambda name: says["sysctl"].get(name, ""))
    return says


def test_notes_hold_while_bridge_routes_and_forwarding_are_the_same(kernel):
    assert network._still_true(STATE)


@pytest.mark.parametrize("index", [None, 8])
def test_notes_do_not_outlive_the_bridge(kernel, index):
    kernel["index"] = index
    assert not network._still_true(STATE)


def test_notes_do_not_outlive_a_change_of_routes(kernel):
    kernel["routes"] = "1" * 64
    assert not network._still_true(STATE)


@pytest.mark.parametrize("device", ["envkit0", "eth0"])
def test_notes_do_not_hold_when_forwarding_was_turned_off(kernel, device):
    kernel["sysctl"][f"ipv4/conf/{device}/forwarding"] = "0"
    assert not network._still_true(STATE)


def test_notes_do_not_hold_when_the_machine_became_a_router_by_itself(kernel):
    kernel["sysctl"]["ipv4/ip_forward"] = "1"
    assert not network._still_true(STATE)
    assert network._still_true(STATE.replace(opened=()))


def test_the_network_modules_import_nothing_slow():
    slow = ("pyroute2", "subprocess", "typing", "dataclasses", "ipaddress", "socket", "hashlib", "tempfile", "logging")
    program = "import sys; import envkit.drivers.network, envkit.drivers.addresses, envkit.drivers.hostconfig;"
    program += f"print([name for name in {slow!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
