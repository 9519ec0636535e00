import os

import pytest

from envkit.drivers import addresses
from envkit.drivers.network import Nat
from envkit.drivers.process import start_time
from envkit.errors import Unavailable

NAT = Nat(bridge="envkit0", subnet="10.197.0.0/24", gateway="10.197.0.1", mtu=1400)


@pytest.fixture
def devices(monkeypatch):
    """The host's network devices, as a set that tests change."""
    names = {"lo", "eth0"}
    monkeypatch.setattr(addresses, "_devices", lambda: frozenset(names))
    return names


def test_a_lease_has_all_that_a_container_needs(tmp_path, devices):
    assert addresses.allocate_address(NAT, str(tmp_path)) == addresses.Lease(
        number=2,
        bridge="envkit0",
        veth="envkit-2",
        hardware_address="02:65:0a:c5:00:02",
        address="10.197.0.2/24",
        gateway="10.197.0.1",
        mtu=1400,
    )


def test_two_leases_of_one_process_differ_until_one_is_given_back(tmp_path, devices):
    directory = str(tmp_path)
    first = addresses.allocate_address(NAT, directory)
    assert addresses.allocate_address(NAT, directory).number == 3
    addresses.release_address(first, directory)
    addresses.release_address(first, directory)
    assert addresses.allocate_address(NAT, directory).number == 2


def test_a_device_in_the_kernel_keeps_its_number_taken_after_release(tmp_path, devices):
    lease = addresses.allocate_address(NAT, str(tmp_path))
    devices.add(lease.veth)
    addresses.release_address(lease, str(tmp_path))
    assert addresses.allocate_address(NAT, str(tmp_path)).number == 3


@pytest.mark.parametrize("content", ["", "12", "1 2 3", "x y", "{pid} 1", "999999999 5", "\xff"])
def test_a_lease_that_is_cut_short_or_names_no_running_process_is_void(tmp_path, devices, content):
    (tmp_path / "address-2").write_text(content.format(pid=os.getpid()), encoding="latin-1")
    assert addresses.allocate_address(NAT, str(tmp_path)).number == 2


def test_a_lease_names_this_process_for_good(tmp_path, devices):
    addresses.allocate_address(NAT, str(tmp_path))
    assert (tmp_path / "address-2").read_text() == f"{os.getpid()} {start_time(os.getpid())}\n"


def test_a_full_network_is_told_with_a_way_out(tmp_path, devices):
    devices.update(f"envkit-{number}" for number in range(2, 255))
    with pytest.raises(Unavailable) as caught:
        addresses.allocate_address(NAT, str(tmp_path))
    assert caught.value.brief == "all 253 addresses of 10.197.0.0/24 are taken"
    devices.remove("envkit-254")
    assert addresses.allocate_address(NAT, str(tmp_path)).address == "10.197.0.254/24"
