"""Owns devices of the host that a container gets, and what belongs to them: libraries, variables, links.

All of it is there for one run and is never saved: nodes and mounts end with the container, and links to libraries lie
in the tmpfs on /run.
"""

from envkit.drivers.lxc import Device
from envkit.model.job import Volume
from envkit.model.record import Record
from envkit.node.account import Account
from envkit.node.rootfs import Rootfs

LIBRARIES = "/run/envkit/lib"
LIBRARY_PATH = "LD_LIBRARY_PATH"


class Devices(Record):
    """Device nodes, mounts, variables, symlinks as (path, target), and directories of libraries among the mounts.

    `names` are links to libraries by the names that programs load them by: (name, path). `gids` are the groups of
    nodes that the caller may open because of such a group.
    """

    nodes: tuple[Device, ...] = ()
    mounts: tuple[Volume, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    gids: tuple[int, ...] = ()

    def groups(self, account: Account) -> tuple[int, ...]:
        """Return the groups that an account needs besides its own to use these devices as it may on the host."""
        return tuple(gid for gid in self.gids if gid not in (account.gid, *account.groups)) if account.uid else ()

    def put_into(self, rootfs: Rootfs) -> dict[str, str]:
        """Put into a root file system what is not a device node; return the variables that go with it."""
        for mount in self.mounts:
            rootfs.bind(mount.source, mount.target, read_only=mount.read_only)
        for path, target in self.links:
            rootfs.link(path, target)
        for name, path in self.names:
            rootfs.link(f"{LIBRARIES}/{name}", path)
        variables = dict(self.variables)
        if self.folders:
            # An environment's own ld.so.cache knows nothing of them, and nothing of a host is ever run to change it.
            variables[LIBRARY_PATH] = ":".join([*([LIBRARIES] if self.names else []), *self.folders])
        return variables
