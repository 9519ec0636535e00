"""Owns user namespaces that exist only to carry an id map to idmapped mounts."""

import errno
import os

from envkit.drivers import libc
from envkit.drivers.errors import KernelRefused
from envkit.model.idmap import IdMap, proc_lines

_READY = b"ready"
_HINTS = {
    errno.EPERM: "the kernel allows none in a chroot; outside of one, see kernel.unprivileged_userns_clone",
    errno.ENOSPC: "raise user.max_user_namespaces",
}


def user_namespace(ids: IdMap) -> int:
    """Return a descriptor of a new user namespace with the given map; the namespace lives as long as it is open.

    :raises KernelRefused: the kernel does not allow user namespaces, or refuses the map.
    """
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done_write)
        try:
            libc.unshare(libc.CLONE_NEWUSER)
            os.write(ready_write, _READY)
            os.read(done_read, 1)
        except OSError as error:
            os.write(ready_write, str(error.errno).encode())
        finally:
            os._exit(0)
    os.close(ready_write)
    os.close(done_read)
    try:
        answer = os.read(ready_read, 16)
        if answer != _READY:
            number = int(answer or errno.ECHILD)
            raise OSError(number, os.strerror(number))
        _write(f"/proc/{child}/uid_map", proc_lines(ids.uids))
        _write(f"/proc/{child}/gid_map", proc_lines(ids.gids))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "run `envkit doctor`")
        raise KernelRefused("create a user namespace", error, resolution=hint) from error
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
