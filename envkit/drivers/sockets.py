"""Owns reading which TCP ports are open in a process's network, from proc(5)."""

import contextlib
import ipaddress
import struct

_LISTEN = b"0A"
_MAX = 64 << 20


def listening(pid: int, port: int) -> list[str]:
    """Return the addresses on which something listens on a TCP port, in the network namespace of a process."""
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}", "rb") as file:
            for line in file.read(_MAX).splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].partition(b":")
                if fields[3] == _LISTEN and int(number, 16) == port:
                    found.append(_address(address))
    return found


def is_loopback(address: str) -> bool:
    """Tell whether an address is reached only from within its own network namespace."""
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def _address(text: bytes) -> str:
    """Return an address as people write it; the kernel shows words of 32 bits in this machine's byte order."""
    words = [int(text[place : place + 8], 16) for place in range(0, len(text), 8)]
    return str(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))
