import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.drivers.routing import Link, Route, choose_subnet, default_mtu, uplinks
from envkit.errors import InvalidInput, Unavailable

LO = Link(index=1, name="lo")
ETH = Link(index=2, name="eth0", mtu=1400)
IB = Link(index=3, name="ib0", kind="ipoib", mtu=2044)
DOCKER = Link(index=4, name="docker0", kind="bridge")
BRIDGE = Link(index=5, name="envkit0", kind="bridge")
DEFAULT = Route(destination="0.0.0.0/0", device=2, gateway=True)


def test_the_same_machine_always_gets_the_same_subnet():
    assert choose_subnet([]) == choose_subnet([]) == "10.197.0.0/24"


def test_routes_and_single_addresses_are_kept_clear_of():
    assert choose_subnet(["10.197.0.0/24", "10.197.1.53/32"]) == "10.197.2.0/24"
    assert choose_subnet(["10.0.0.0/8"]) == "172.29.224.0/24"
    assert choose_subnet(["10.0.0.0/8", "172.16.0.0/12"]) == "192.168.224.0/24"


def test_default_routes_in_two_halves_take_no_subnet():
    assert choose_subnet(["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"]) == "10.197.0.0/24"


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=30))
def test_what_is_chosen_overlaps_nothing(networks):
    taken = [f"{ipaddress.IPv4Address(number)}/{length}" for number, length in networks]
    try:
        chosen = ipaddress.IPv4Network(choose_subnet(taken))
    except Unavailable:
        return
    assert chosen.is_private
    for text in taken:
        network = ipaddress.IPv4Network(text, strict=False)
        assert network.prefixlen < 8 or not network.overlaps(chosen)


def test_a_machine_with_routes_to_every_private_network_is_told_so():
    with pytest.raises(Unavailable) as caught:
        choose_subnet(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])
    assert caught.value.brief.startswith("no private network is free for containers")
    assert choose_subnet(["10.0.0.0/8"], wanted="172.20.1.0/24") == "172.20.1.0/24"


@pytest.mark.parametrize("wanted", ["10.1.2.0/23", "10.1.2.0/25", "8.8.8.0/24"])
def test_a_wanted_subnet_must_be_a_private_24(wanted):
    with pytest.raises(InvalidInput, match="is not a private network of 256 addresses"):
        choose_subnet([], wanted=wanted)


@pytest.mark.parametrize("wanted", ["10.1.2.3/24", "lan", "", "fd00::/64"])
def test_a_wanted_subnet_must_be_a_network(wanted):
    with pytest.raises(InvalidInput, match=r"is not a network such as 10\.1\.2\.0/24"):
        choose_subnet([], wanted=wanted)


def test_a_wanted_subnet_that_is_in_use_is_refused_with_what_uses_it():
    with pytest.raises(Unavailable, match=r"the network 10.1.2.0/24 overlaps 10.1.0.0/16, which this machine uses"):
        choose_subnet(["10.1.0.0/16"], wanted="10.1.2.0/24")


def test_uplinks_are_the_devices_that_lead_away_from_the_machine():
    connected = [Route(destination=f"10.{link.index}.0.0/16", device=link.index) for link in (ETH, IB, DOCKER, BRIDGE)]
    assert uplinks([LO, ETH, IB, DOCKER, BRIDGE], [DEFAULT, *connected]) == ("eth0", "ib0")


def test_a_bridge_with_a_gateway_behind_it_is_an_uplink():
    assert uplinks([DOCKER], [Route(destination="0.0.0.0/0", device=4, gateway=True)]) == ("docker0",)


def test_a_device_without_a_route_is_no_uplink():
    assert uplinks([LO, ETH, IB], []) == ()


def test_the_mtu_is_that_of_the_preferred_default_route():
    second = Route(destination="0.0.0.0/0", device=3, gateway=True, metric=50)
    assert default_mtu([ETH, IB], [second, DEFAULT]) == 1400
    assert default_mtu([ETH, IB], [second, DEFAULT.replace(metric=100)]) == 2044
    assert default_mtu([ETH, IB], [second.replace(table=100)]) == 1500
    assert default_mtu([ETH], []) == 1500
