"""Owns what jobs and sessions share on the way to a container: stack, files that every container gets, network."""

import os

from envkit.drivers.files import read_bounded
from envkit.drivers.lxc import Veth
from envkit.drivers.process import SYSTEM_PATH
from envkit.model.idmap import IdMap
from envkit.model.record import Record
from envkit.node.rootfs import Rootfs
from envkit.node.stack import StackSpec, mount_stack
from envkit.overlay.options import overlay_options
from envkit.services.context import Context
from envkit.services.layers import Images

_MAX_RESOLV_CONF = 64 * 1024


class Network(Record):
    """How a container is connected: for LXC, and the resolv.conf that goes with it (None: leave the base's)."""

    interface: "Veth | str"
    resolv_conf: bytes | None


def open_stack(context: Context, images: Images, directory: str, ids: IdMap, *, session: bool) -> str:
    """Mount layer images below `directory`'s upper, in this process's private namespace; return the root."""
    spec = StackSpec(
        layers=images.files,
        directory=directory,
        ids=ids,
        options=overlay_options(
            [str(number) for number in range(len(images.files))],
            upper=f"{directory}/upper",
            work=f"{directory}/work",
            session=session,
        ),
        nosuid=not session,
        own=not session,
        alone=images.alone,
        starting=images.starting,
    )
    root, limited = mount_stack(context.paths, spec, through_loop=context.config.loop)
    images.mounted(limited)
    return root


def network_for(context: Context, kind: str) -> Network:
    """Prepare a container's network: "none", "nat" or "host"."""
    if kind == "none":
        return Network(interface="none", resolv_conf=None)
    from envkit.drivers import resolver

    if kind == "host":
        return Network(interface="host", resolv_conf=read_bounded("/etc/resolv.conf", _MAX_RESOLV_CONF))
    # Late: pyroute2 costs more than the whole rest of a warm run.
    from envkit.drivers.addresses import allocate_address
    from envkit.drivers.network import ensure_nat

    directory = "/run/envkit/network"  # one for the machine, whatever the root: there is one bridge
    lease = allocate_address(ensure_nat(directory), directory)
    interface = Veth(
        bridge=lease.bridge,
        pair=lease.veth,
        hardware_address=lease.hardware_address,
        address=lease.address,
        gateway=lease.gateway,
        mtu=lease.mtu,
    )
    return Network(interface=interface, resolv_conf=resolver.resolv_conf())


def container_files(rootfs: Rootfs, *, hostname: str, network: Network) -> None:
    """Write the files that describe this container, not the environment; saving leaves them out."""
    rootfs.require_mount_points()
    rootfs.replace_file("/etc/machine-id", os.urandom(16).hex().encode() + b"\n", mode=0o444)
    rootfs.replace_file("/etc/hostname", hostname.encode() + b"\n")
    hosts = f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n"
    rootfs.replace_file("/etc/hosts", hosts.encode())
    if network.resolv_conf is not None:
        rootfs.replace_file("/etc/resolv.conf", network.resolv_conf)


def base_variables(*, user: str, home: str) -> dict[str, str]:
    """Return the environment variables that every command in a container starts with."""
    variables = {"PATH": SYSTEM_PATH, "HOME": home, "USER": user, "LOGNAME": user, "LANG": "C.UTF-8"}
    if on_terminal():
        variables["TERM"] = os.environ.get("TERM") or "dumb"
    return variables


def on_terminal() -> bool:
    """Tell whether a command gets a terminal: all three standard descriptors are one."""
    return all(os.isatty(descriptor) for descriptor in range(3))
