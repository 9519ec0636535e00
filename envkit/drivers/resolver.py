"""Owns which DNS servers containers are given: those of the host that can be reached from a network of their own."""

from envkit.drivers.files import read_text
from envkit.errors import Unavailable

# Local stubs (systemd-resolved, NetworkManager's dnsmasq) write down the servers behind them.
_FILES = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf")
_MAX_BYTES = 64 * 1024
_MAX_NAMESERVERS = 3  # as many as the C library reads


def nameservers(text: str) -> list[str]:
    """Return the addresses of a resolv.conf's nameserver lines, in order, as they are written."""
    rows = (line.split() for line in text.splitlines())
    return [row[1] for row in rows if len(row) > 1 and row[0] == "nameserver"]


def container_resolv_conf(text: str) -> bytes | None:
    """Return a host's resolv.conf without the servers that containers cannot reach; None if none is left.

    That is loopback, which is a different one inside, and IPv6, which the NAT network does not carry.
    """
    reachable = [server for server in nameservers(text) if is_reachable(server)][:_MAX_NAMESERVERS]
    if not reachable:
        return None
    lines = [f"nameserver {server}" for server in reachable]
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] in ("search", "domain", "options") and line.isascii() and line.isprintable():
            lines.append(" ".join(words))
    return ("\n".join(lines) + "\n").encode()


def is_reachable(server: str) -> bool:
    """Tell whether a nameserver line's address is IPv4 and not loopback."""
    parts = server.split(".")
    if len(parts) != 4 or not all(_is_byte(part) for part in parts):
        return False
    return int(parts[0]) not in (0, 127)


def _is_byte(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3 and int(text) < 256


def host_nameservers(*, root: str = "") -> list[str]:
    """Return every DNS server that this machine's files name, reachable or not."""
    return [server for path in _FILES for server in nameservers(read_text(root + path, _MAX_BYTES))]


def resolv_conf(*, root: str = "") -> bytes:
    """Return the resolv.conf for containers on the NAT network.

    :param root: in front of every path that is read.
    :raises Unavailable: the host has no DNS server that containers can reach.
    """
    for path in _FILES:
        content = container_resolv_conf(read_text(root + path, _MAX_BYTES))
        if content is not None:
            return content
    known = ", ".join(dict.fromkeys(host_nameservers(root=root)))
    if not known:
        raise Unavailable(
            "no DNS server is named in /etc/resolv.conf", resolution="add a `nameserver` line to /etc/resolv.conf"
        )
    raise Unavailable(
        f"the host's DNS server listens on loopback or IPv6 only ({known}), containers cannot reach it",
        resolution="add a `nameserver` line with an IPv4 address of the network to /etc/resolv.conf",
    )
