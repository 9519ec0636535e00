"""Owns user namespaces that exist only to carry an id map to idmapped mounts."""

import contextlib
import os

from envkit.drivers import libc
from envkit.drivers.errors import KernelRefused
from envkit.model.idmap import IdMap, proc_lines


def user_namespace(ids: IdMap) -> int:
    """Return a descriptor of a new user namespace with the given map; the namespace lives as long as it is open.

    :raises KernelRefused: the kernel does not allow user namespaces, or refuses the map.
    """
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done_write)
        with contextlib.suppress(OSError):
            libc.unshare(libc.CLONE_NEWUSER)
            os.write(ready_write, b"1")
            os.read(done_read, 1)
        os._exit(0)
    os.close(ready_write)
    os.close(done_read)
    try:
        if not os.read(ready_read, 1):
            raise OSError(1, "user namespaces are switched off (user.max_user_namespaces)")
        _write(f"/proc/{child}/uid_map", proc_lines(ids.uids))
        _write(f"/proc/{child}/gid_map", proc_lines(ids.gids))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelRefused("create a user namespace", error, resolution="run `envkit doctor`") from error
    finally:
        os.close(ready_read)
        os.close(done_write)
        os.waitpid(child, 0)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
