"""Owns the packet filter of the NAT network: the nftables tables `inet envkit` and `bridge envkit`.

Which name, hardware address and IPv4 address belong together at a port of the bridge is decided here, because the
filter enforces it. Bridge, addresses and sysctls are `network`'s, who uses which port is `addresses`'.
"""

import json
from collections.abc import Iterable

from envkit.drivers.process import find_program, run
from envkit.errors import EnvkitError, Unavailable
from envkit.model.record import Record

PORT_PREFIX = "envkit-"
"""Host ends of containers' veth pairs are `envkit-N` with N the last byte of the container's address."""

FIRST_PORT, LAST_PORT = 2, 254

_LINK_LOCAL = "169.254.0.0/16"
# Clouds hand instance credentials to whoever asks from the machine: most at a link-local address, Azure and Alibaba
# Cloud at these. The same addresses answer DNS, which containers need.
_METADATA = (_LINK_LOCAL, "100.100.100.200", "168.63.129.16")


class Obstacle(Record):
    """Something on this machine that will stop containers from reaching the network, and what to do about it."""

    problem: str
    resolution: str


def port_name(number: int) -> str:
    """Return the name of the host end of the veth pair of container `number`."""
    return f"{PORT_PREFIX}{number}"


def port_address(subnet: str, number: int) -> str:
    """Return the IPv4 address with this last byte in a /24 as in `10.1.2.0/24`."""
    return f"{subnet.partition('/')[0].rpartition('.')[0]}.{number}"


def hardware_address(address: str) -> str:
    """Return the locally administered MAC address that goes with an IPv4 address."""
    return "02:65:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def ruleset(bridge: str, subnet: str, opened: Iterable[str]) -> str:
    """Return the input for `nft -f -` that replaces both tables in one transaction.

    What programs may try in good faith (cloud libraries ask for metadata) is rejected, so that they do not wait.

    :param opened: devices on which only envkit turned forwarding on. They forward for containers and for nothing
        else, so that a machine with two networks does not become a router between them.
    """
    return f"""\
table inet envkit {{}}
delete table inet envkit
table inet envkit {{
  set metadata {{ type ipv4_addr; flags interval; elements = {{ {", ".join(_METADATA)} }}; }}
{_opened_set(opened)}\
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" jump outward
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" drop
    iifname @opened ct state new ct status & dnat == 0 drop
  }}
  chain outward {{
    meta nfproto != ipv4 drop
    ip saddr != {subnet} drop
    oifname "{bridge}" drop
    ip daddr @metadata meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr @metadata reject with icmpx admin-prohibited
    accept
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" accept
    ct state established,related accept
    ip protocol icmp accept
    meta l4proto {{ tcp, udp }} th dport 53 accept
    reject with icmpx admin-prohibited
  }}
}}
table bridge envkit {{}}
delete table bridge envkit
table bridge envkit {{
  set ports {{
    type ifname . ether_addr . ipv4_addr
    elements = {{ {_ports(subnet)} }}
  }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "{PORT_PREFIX}*" accept
    ether type ip iifname . ether saddr . ip saddr @ports accept
    ether type arp iifname . ether saddr . arp saddr ip @ports iifname . arp saddr ether . arp saddr ip @ports accept
    drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname "{PORT_PREFIX}*" drop
    oifname "{PORT_PREFIX}*" drop
  }}
}}
"""


def _opened_set(opened: Iterable[str]) -> str:
    names = ", ".join(f'"{name}"' for name in sorted(opened))
    elements = f" elements = {{ {names} }};" if names else ""
    return f"  set opened {{ type ifname;{elements} }}\n"


def _ports(subnet: str) -> str:
    """Return the only triples that may send: a container can neither take another's address nor its frames."""
    rows = []
    for number in range(FIRST_PORT, LAST_PORT + 1):
        address = port_address(subnet, number)
        rows.append(f'"{port_name(number)}" . {hardware_address(address)} . {address}')
    return ", ".join(rows)


def load(rules: str) -> None:
    """Load a ruleset; all of it or nothing takes effect.

    :raises Unavailable: nft is missing.
    :raises ProgramFailed: the kernel refused it.
    """
    if find_program("nft") is None:
        raise Unavailable(
            "the program nft is not installed, the nat network needs it", resolution="run `apt install nftables`"
        )
    run(["nft", "-f", "-"], input=rules.encode(), timeout=30)


def remove() -> None:
    """Remove both tables; no error if they are not there."""
    if find_program("nft") is None:
        return
    empty = "".join(f"table {family} envkit {{}}\ndelete table {family} envkit\n" for family in ("inet", "bridge"))
    run(["nft", "-f", "-"], input=empty.encode(), timeout=30)


def opened_devices() -> frozenset[str]:
    """Return the devices whose forwarding envkit turned on, as the loaded table remembers them."""
    if find_program("nft") is None:
        return frozenset()
    result = run(["nft", "-j", "list", "set", "inet", "envkit", "opened"], timeout=30, check=False)
    if result.code != 0:
        return frozenset()
    return frozenset(
        element
        for item in _objects(result.stdout)
        for element in _items(item.get("set"), "elem")
        if isinstance(element, str)
    )


def obstacles(bridge: str) -> tuple[Obstacle, ...]:
    """Return what other packet filters on this machine do against containers' traffic.

    An accept in one table does not undo a drop in another, so envkit's own rules cannot help: Docker, for one, sets
    the policy of iptables' FORWARD chain to drop.
    """
    found: list[Obstacle] = []
    if find_program("nft") is not None:
        result = run(["nft", "-j", "list", "ruleset"], timeout=60, check=False)
        if result.code == 0:
            found += blocking_chains(result.stdout, bridge)
    if _legacy_policy_drops(bridge):
        found.append(_obstacle("the legacy iptables chain FORWARD", "iptables-legacy", "FORWARD", bridge))
    return tuple(found)


def blocking_chains(ruleset_json: bytes, bridge: str) -> list[Obstacle]:
    """Return an obstacle for each forward chain in `nft -j list ruleset` that drops by default.

    A table with a rule that names the bridge counts as one that somebody has adapted.
    """
    objects = list(_objects(ruleset_json))
    adapted = {
        (rule.get("family"), rule.get("table"))
        for item in objects
        if isinstance(rule := item.get("rule"), dict) and f'"{bridge}"' in json.dumps(rule.get("expr"))
    }
    docker = any(isinstance(c := item.get("chain"), dict) and c.get("name") == "DOCKER-USER" for item in objects)
    found = []
    for item in objects:
        chain = item.get("chain")
        if not isinstance(chain, dict) or (chain.get("family"), chain.get("table")) in adapted:
            continue
        if chain.get("hook") != "forward" or chain.get("family") not in ("ip", "inet"):
            continue
        where = f"{chain.get('family')} {chain.get('table')}"
        if chain.get("table") == "firewalld":
            # firewalld's policy is accept; its last rule rejects what no zone let through.
            fix = f"run `firewall-cmd --permanent --zone=trusted --add-interface={bridge}` and `firewall-cmd --reload`"
            found.append(Obstacle(problem="firewalld may reject what containers send", resolution=fix))
        elif chain.get("policy") == "drop" and where == "ip filter":
            user = "DOCKER-USER" if docker else "FORWARD"
            found.append(_obstacle("the chain FORWARD of the table `ip filter`", "iptables", user, bridge))
        elif chain.get("policy") == "drop":
            name = f"the chain {chain.get('name')} of the table `{where}`"
            fix = f"let that chain accept traffic from and to the device {bridge}"
            found.append(Obstacle(problem=f"{name} drops what containers send", resolution=fix))
    return found


def _obstacle(chain: str, program: str, target: str, bridge: str) -> Obstacle:
    back = f"{program} -I {target} -o {bridge} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    return Obstacle(
        problem=f"{chain} drops what containers send",
        resolution=f"run `{program} -I {target} -i {bridge} -j ACCEPT` and `{back}`",
    )


def _legacy_policy_drops(bridge: str) -> bool:
    """Tell whether iptables' old kernel interface, which nft does not show, has a dropping FORWARD chain."""
    try:
        with open("/proc/net/ip_tables_names", encoding="ascii") as file:
            if "filter" not in file.read().split():
                return False
    except OSError:
        return False
    if find_program("iptables-legacy") is None:
        return False
    try:
        rules = run(["iptables-legacy", "-S", "FORWARD"], timeout=30).stdout.decode("utf-8", "replace")
    except EnvkitError:
        return False
    return "-P FORWARD DROP" in rules and f" {bridge} " not in rules


def _objects(document: bytes) -> list[dict[str, object]]:
    """Return the objects of nft's JSON output; none where it is not of that form."""
    try:
        return [item for item in _items(json.loads(document), "nftables") if isinstance(item, dict)]
    except ValueError:
        return []


def _items(value: object, key: str) -> list[object]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []
