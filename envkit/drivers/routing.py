"""Owns what envkit knows of the machine's own networks, and what follows: subnet, uplinks and MTU of the NAT network.

The readers take an open netlink socket (pyroute2's IPRoute); the other functions are pure.
"""

from collections.abc import Iterable

from envkit.errors import InvalidInput, Unavailable
from envkit.model.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ipaddress
    from typing import Any

BRIDGE = "envkit0"

_CANDIDATES = (
    *(f"10.197.{third}.0/24" for third in range(16)),
    *(f"172.29.{third}.0/24" for third in range(224, 240)),
    *(f"192.168.{third}.0/24" for third in range(224, 240)),
)
# Wider routes are default routes in disguise (VPN clients split 0.0.0.0/0 in two), not networks to keep away from.
_WIDEST_NETWORK = 8
# Devices of these kinds lead to containers and virtual machines of this host, not outwards, unless over a gateway.
_INWARD_KINDS = frozenset({"bridge", "veth", "dummy", "ifb"})
_MAIN_TABLE = 254
_UNICAST = 1


class Link(Record):
    """A network device."""

    index: int
    name: str
    kind: str = ""
    mtu: int = 1500


class Route(Record):
    """A way out: destination as in `10.0.0.0/8`, index of the device, and whether it leads over a gateway."""

    destination: str
    device: int
    gateway: bool = False
    table: int = _MAIN_TABLE
    metric: int = 0


def choose_subnet(taken: Iterable[str], *, wanted: str | None = None) -> str:
    """Return the first candidate that overlaps none of the networks in `taken` (`10.0.0.0/8`, `10.0.0.1/32`).

    :raises InvalidInput: `wanted` is no private /24.
    :raises Unavailable: all are taken, or `wanted` is.
    """
    import ipaddress  # late: 6 ms

    networks = [ipaddress.IPv4Network(text, strict=False) for text in taken]
    networks = [network for network in networks if network.prefixlen >= _WIDEST_NETWORK]
    if wanted is not None:
        chosen = _private_24(wanted)
        for network in networks:
            if network.overlaps(chosen):
                raise Unavailable(f"the network {wanted} overlaps {network}, which this machine uses already")
        return wanted
    for candidate in _CANDIDATES:
        if not any(network.overlaps(ipaddress.IPv4Network(candidate)) for network in networks):
            return candidate
    raise Unavailable(
        "no private network is free for containers: this machine has routes to all that envkit tries",
        resolution="choose a /24 that nobody here needs to reach as the subnet of the nat network",
    )


def _private_24(text: str) -> "ipaddress.IPv4Network":
    import ipaddress  # late: 6 ms

    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r:.40} is not a network such as 10.1.2.0/24") from error
    if network.prefixlen != 24 or not network.is_private:
        raise InvalidInput(
            f"{text} is not a private network of 256 addresses", resolution="use one such as 10.1.2.0/24"
        )
    return network


def uplinks(links: Iterable[Link], routes: Iterable[Route]) -> tuple[str, ...]:
    """Return the names of the devices that lead away from this machine, sorted."""
    routed = list(routes)
    by_gateway = {route.device for route in routed if route.gateway}
    connected = {route.device for route in routed}
    return tuple(
        sorted(
            link.name
            for link in links
            if link.name not in ("lo", BRIDGE)
            and (link.index in by_gateway or (link.index in connected and link.kind not in _INWARD_KINDS))
        )
    )


def default_mtu(links: Iterable[Link], routes: Iterable[Route]) -> int:
    """Return the MTU of the preferred default route's device, 1500 where there is none."""
    defaults = [r for r in routes if r.destination == "0.0.0.0/0" and r.table == _MAIN_TABLE]
    device = min(defaults, key=lambda route: route.metric).device if defaults else None
    return next((link.mtu for link in links if link.index == device), 1500)


def read_links(netlink: "Any") -> list[Link]:
    """Return the network devices of this network namespace."""
    found = []
    for message in netlink.get_links():
        info = message.get_attr("IFLA_LINKINFO")
        kind = info.get_attr("IFLA_INFO_KIND") if info is not None else None
        name, mtu = message.get_attr("IFLA_IFNAME"), message.get_attr("IFLA_MTU")
        found.append(Link(index=message["index"], name=name, kind=kind or "", mtu=mtu or 1500))
    return found


def read_routes(netlink: "Any") -> list[Route]:
    """Return the IPv4 routes of every table that lead somewhere; one for each device of a multipath route."""
    import socket  # late: 7 ms

    found = []
    for message in netlink.get_routes(family=socket.AF_INET):
        if message["type"] != _UNICAST:
            continue
        hops = message.get_attr("RTA_MULTIPATH") or []
        gateway = bool(hops) or any(message.get_attr(name) is not None for name in ("RTA_GATEWAY", "RTA_VIA"))
        for device in [hop["oif"] for hop in hops] or [message.get_attr("RTA_OIF") or 0]:
            found.append(
                Route(
                    destination=f"{message.get_attr('RTA_DST') or '0.0.0.0'}/{message['dst_len']}",
                    device=device,
                    gateway=gateway,
                    table=message.get_attr("RTA_TABLE") or message["table"],
                    metric=message.get_attr("RTA_PRIORITY") or 0,
                )
            )
    return found


def read_addresses(netlink: "Any") -> list[tuple[int, str]]:
    """Return device index and address with prefix length of every IPv4 address."""
    import socket  # late: 7 ms

    return [
        (message["index"], f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}")
        for message in netlink.get_addr(family=socket.AF_INET)
    ]
