"""Owns the NAT network of containers: the bridge, and forwarding between it and the machine's networks.

`routing` decides on subnet and uplinks, the packet filter is `firewall`'s, containers' addresses are `addresses`',
DNS is `resolver`'s. All of it is per network namespace: one bridge serves every envkit root of a machine. pyroute2
costs 130 ms and more to import, so it is used only when something has to be changed.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator

from envkit.drivers import files, firewall, resolver, routing, sysctl
from envkit.drivers.errors import KernelRefused
from envkit.drivers.routing import BRIDGE
from envkit.errors import Unavailable
from envkit.model.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Nat(Record):
    """The network as it is set up: bridge device, subnet as in `10.1.2.0/24`, gateway address, MTU in bytes."""

    bridge: str
    subnet: str
    gateway: str
    mtu: int


class _State(Record):
    """What `ensure_nat` did last, and what it saw then: while that stays true, nothing has to be done again.

    `forwarding` are the uplinks; `opened` those of them that forward only because of envkit.
    """

    nat: Nat
    index: int
    routes: str
    forwarding: tuple[str, ...]
    opened: tuple[str, ...]


def ensure_nat(directory: str, *, subnet: str | None = None) -> Nat:
    """Set the network up, or what is missing of it; safe to call at any time, from any number of processes.

    :param directory: for the lock, notes and leases; one for the machine, gone after a reboot; made if missing.
    :param subnet: the /24 to use rather than the first free one; a bridge that exists keeps its own.
    :raises Unavailable: nft is missing, no private network is free, or another device has the bridge's name.
    :raises KernelRefused: a privilege is missing.
    """
    with locked(directory):
        path = f"{directory}/state"
        state = _read_state(path)
        if state is not None and _still_true(state):
            # Rules are loaded each time: whoever restarts a firewall service flushes them without a trace.
            firewall.load(firewall.ruleset(BRIDGE, state.nat.subnet, state.opened))
            return state.nat
        state = _set_up(subnet)
        _write_state(path, state)
        return state.nat


def teardown(directory: str) -> None:
    """Remove bridge, packet filter and forwarding; containers that still run lose their network."""
    with locked(directory):
        opened = firewall.opened_devices()
        with _netlink(f"remove the bridge {BRIDGE}") as netlink:
            for link in routing.read_links(netlink):
                if link.name == BRIDGE and link.kind == "bridge":
                    netlink.link("del", index=link.index)
        if not _forwards_everywhere():
            for device in opened:
                sysctl.write(_forwarding(device), "0", optional=True)
        firewall.remove()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory}/state")


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Hold the lock of the network's directory, which is made if missing."""
    files.make_directory(directory)
    with files.locked(f"{directory}/lock"):
        yield


def _set_up(wanted: str | None) -> _State:
    """Bring everything to the wanted state, filter first: at no moment can a container do more than it should."""
    with _netlink(f"set up the bridge {BRIDGE}") as netlink:
        links, routes = routing.read_links(netlink), routing.read_routes(netlink)
        addresses = routing.read_addresses(netlink)
        bridge = next((link for link in links if link.name == BRIDGE), None)
        if bridge is not None and bridge.kind != "bridge":
            raise Unavailable(
                f"a network device named {BRIDGE} exists and is not a bridge", resolution=f"rename or remove {BRIDGE}"
            )
        index = bridge.index if bridge is not None else -1
        routes = [route for route in routes if route.device != index]
        own = next((text for device, text in addresses if device == index and text.endswith(".1/24")), None)
        if own is not None:
            subnet = own.removesuffix(".1/24") + ".0/24"
        else:
            taken = [route.destination for route in routes]
            taken += [text for device, text in addresses if device != index]
            taken += [f"{server}/32" for server in resolver.host_nameservers() if resolver.is_reachable(server)]
            subnet = routing.choose_subnet(taken, wanted=wanted)
        uplinks = routing.uplinks(links, routes)
        opened = () if _forwards_everywhere() else _opened(uplinks)
        firewall.load(firewall.ruleset(BRIDGE, subnet, opened))
        gateway = firewall.port_address(subnet, 1)
        nat = Nat(bridge=BRIDGE, subnet=subnet, gateway=gateway, mtu=routing.default_mtu(links, routes))
        index = _complete_bridge(netlink, nat, exists=bridge is not None, has_address=own is not None)
    for device in (BRIDGE, *uplinks):
        # Replies arrive on the uplinks: without forwarding there, the kernel drops them after undoing the NAT.
        sysctl.write(_forwarding(device), "1")
    return _State(nat=nat, index=index, routes=_routes_digest(), forwarding=uplinks, opened=opened)


def _opened(uplinks: Iterable[str]) -> tuple[str, ...]:
    """Return the devices that forward only because of envkit: from now on, or since an earlier call."""
    before = firewall.opened_devices()
    return tuple(device for device in uplinks if device in before or not _forwards(device))


def _complete_bridge(netlink: "Any", nat: Nat, *, exists: bool, has_address: bool) -> int:
    """Make the bridge, or complete one that an interrupted call left; return its index."""
    if not exists:
        netlink.link("add", ifname=nat.bridge, kind="bridge")
    index: int = netlink.link_lookup(ifname=nat.bridge)[0]
    # The network is IPv4 only: without a link-local address containers have no second way to the host.
    sysctl.write(f"ipv6/conf/{nat.bridge}/disable_ipv6", "1", optional=True)
    # A MAC address of its own: by default a bridge takes the lowest of its ports', and containers come and go.
    netlink.link("set", index=index, address=firewall.hardware_address(nat.gateway), mtu=nat.mtu)
    if not has_address:
        netlink.addr("add", index=index, address=nat.gateway, prefixlen=24)
    netlink.link("set", index=index, state="up")
    return index


@contextlib.contextmanager
def _netlink(action: str) -> "Iterator[Any]":
    """Open a netlink socket; what the kernel refuses in the block becomes KernelRefused."""
    from pyroute2 import IPRoute  # late: see the module's first lines
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        resolution = "run envkit as root" if error.code in (errno.EPERM, errno.EACCES) else None
        raise KernelRefused(action, OSError(error.code, os.strerror(error.code)), resolution=resolution) from error


def _forwards_everywhere() -> bool:
    return sysctl.read("ipv4/ip_forward") == "1"


def _forwards(device: str) -> bool:
    return sysctl.read(_forwarding(device)) == "1"


def _forwarding(device: str) -> str:
    return f"ipv4/conf/{device}/forwarding"


def _routes_digest() -> str:
    import hashlib  # late: 3 ms

    with open("/proc/net/route", "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _still_true(state: _State) -> bool:
    """Tell whether the bridge is the one that was set up, and routes and forwarding are as they were."""
    import socket  # late: 7 ms

    try:
        index = socket.if_nametoindex(state.nat.bridge)
    except OSError:
        return False
    if index != state.index or (state.opened and _forwards_everywhere()):
        return False
    return all(_forwards(d) for d in (state.nat.bridge, *state.forwarding)) and _routes_digest() == state.routes


def _read_state(path: str) -> _State | None:
    """Return the notes of the last call; None where there are none, or they are another version's."""
    try:
        with open(path, "rb") as file:
            fields = json.loads(file.read())
        fields["nat"] = Nat(**fields["nat"])
        fields |= {name: tuple(fields[name]) for name in ("forwarding", "opened")}
        return _State(**fields)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_state(path: str, state: _State) -> None:
    fields: dict[str, object] = {name: getattr(state, name) for name in _State._fields}
    fields["nat"] = {name: getattr(state.nat, name) for name in Nat._fields}
    files.write_atomic(path, json.dumps(fields).encode())
