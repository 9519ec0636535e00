"""Owns who has which address of the NAT network: a lease is a file, and it is void when its holder is gone.

A number is taken while the process that leased it lives, or while the kernel has the veth device of that number.
The second part makes leases outlive their process for just as long as the container does: nothing has to be cleaned
up after a crash, and two envkit roots on one machine cannot hand out the same address.
"""

import contextlib
import os

from envkit.drivers import files, firewall
from envkit.drivers.network import Nat, locked
from envkit.drivers.process import is_alive, start_time
from envkit.errors import Unavailable
from envkit.model.record import Record


class Lease(Record):
    """A container's place on the NAT network.

    `veth` is the host end's device name and `hardware_address` the container end's MAC: the packet filter drops what
    does not come from this pair. `address` has its prefix length, as in `10.1.2.3/24`; `mtu` is in bytes.
    """

    number: int
    bridge: str
    veth: str
    hardware_address: str
    address: str
    gateway: str
    mtu: int


def allocate_address(nat: Nat, directory: str) -> Lease:
    """Lease the lowest free address to this process, and to the container that it starts.

    :param directory: the one that `ensure_nat` was given.
    :raises Unavailable: all 253 are taken.
    """
    started = start_time(os.getpid())
    with locked(directory):
        devices = _devices()
        for number in range(firewall.FIRST_PORT, firewall.LAST_PORT + 1):
            path = _path(directory, number)
            if firewall.port_name(number) in devices or _is_held(path):
                continue
            files.write_atomic(path, f"{os.getpid()} {started}\n".encode())
            return _lease(nat, number)
    raise Unavailable(
        f"all {firewall.LAST_PORT - firewall.FIRST_PORT + 1} addresses of {nat.subnet} are taken",
        resolution="close a session, or use `--net none` or `--net host` for jobs",
    )


def release_address(lease: Lease, directory: str) -> None:
    """Give a lease back; the number stays taken until the container's device is gone."""
    with locked(directory), contextlib.suppress(FileNotFoundError):
        os.unlink(_path(directory, lease.number))


def _lease(nat: Nat, number: int) -> Lease:
    address = firewall.port_address(nat.subnet, number)
    return Lease(
        number=number,
        bridge=nat.bridge,
        veth=firewall.port_name(number),
        hardware_address=firewall.hardware_address(address),
        address=f"{address}/24",
        gateway=nat.gateway,
        mtu=nat.mtu,
    )


def _path(directory: str, number: int) -> str:
    return f"{directory}/address-{number}"


def _is_held(path: str) -> bool:
    """Tell whether the process that a lease names still runs; a lease cut short by a crash counts as void."""
    try:
        with open(path, encoding="ascii") as file:
            pid, started = file.read(64).split()
        return is_alive(int(pid), int(started))
    except (OSError, ValueError):
        return False


def _devices() -> frozenset[str]:
    """Return the names of the network devices of this network namespace (/sys may show another's)."""
    import socket  # late: 7 ms

    return frozenset(name for _, name in socket.if_nameindex())
