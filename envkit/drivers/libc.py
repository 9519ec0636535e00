"""Owns the system calls that Python's `os` does not have, one thin function each.

Each raises OSError with errno and the path; callers translate. Numbers above 423 are the same on every architecture.
Constants are named as in the kernel's headers.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

CLONE_NEWNS = 0x00020000
CLONE_FS = 0x00000200
CLONE_NEWUSER = 0x10000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_IDMAP = 0x00100000

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

TMPFS_MAGIC = 0x01021994

# setgroups(2), setresgid(2), setresuid(2): those of libc are for all threads, the kernel's for the one that calls.
_GENERIC = (159, 149, 147)
_SYS_OF_IDS = {
    "x86_64": (116, 119, 117),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": (81, 169, 164),
    "s390x": (206, 210, 208),
}

_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _syscall(number: int, what: str, *arguments: object) -> int:
    return _check(_libc.syscall(number, *arguments), what)


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, fstype, data)]
    _check(_libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2), never following a symlink."""
    _check(_libc.umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW), target)


def open_tree(directory: int, path: str, flags: int = 0) -> int:
    """open_tree(2): a descriptor of a mount; with OPEN_TREE_CLONE a detached copy of it."""
    arguments = (ctypes.c_int(directory), os.fsencode(path), ctypes.c_uint(flags | OPEN_TREE_CLOEXEC))
    return _syscall(_SYS_OPEN_TREE, path, *arguments)


def move_mount(mount_fd: int, target_fd: int, target: str = "") -> None:
    """move_mount(2): attach a detached mount at `target` below `target_fd`, or on `target_fd` itself."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    arguments = (ctypes.c_int(mount_fd), b"", ctypes.c_int(target_fd), os.fsencode(target), ctypes.c_uint(flags))
    _syscall(_SYS_MOVE_MOUNT, target, *arguments)


def mount_setattr(mount_fd: int, *, set_attributes: int, userns_fd: int = 0, recursive: bool = False) -> None:
    """mount_setattr(2) on a descriptor: switch attributes on, or with MOUNT_ATTR_IDMAP apply a user namespace's map."""
    attributes = struct.pack("=QQQQ", set_attributes, 0, 0, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    arguments = (ctypes.c_int(mount_fd), b"", ctypes.c_uint(flags), attributes, ctypes.c_size_t(len(attributes)))
    _syscall(_SYS_MOUNT_SETATTR, f"mount descriptor {mount_fd}", *arguments)


def openat2(directory: int, path: str | bytes, flags: int, *, resolve: int, mode: int = 0) -> int:
    """openat2(2): open with limits on how the path is resolved."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    arguments = (ctypes.c_int(directory), os.fsencode(path), how, ctypes.c_size_t(len(how)))
    return _syscall(_SYS_OPENAT2, os.fsdecode(path), *arguments)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int, flags: int) -> None:
    """setns(2)."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(flags)), "setns")


def syncfs(descriptor: int) -> None:
    """syncfs(2): write everything of the file system behind a descriptor to its device."""
    _check(_libc.syncfs(ctypes.c_int(descriptor)), "syncfs")


def filesystem_type(path: str) -> int:
    """statfs(2): the magic number of the file system of a path."""
    buffer = (ctypes.c_long * 64)()  # f_type comes first; the structure has less than half of this
    _check(_libc.statfs(os.fsencode(path), buffer), path)
    return int(buffer[0])


def die_with_parent(signal_number: int) -> None:
    """prctl(PR_SET_PDEATHSIG): have the kernel send a signal when the parent ends."""
    _check(_libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal_number)), "prctl")


def death_signal() -> int:
    """prctl(PR_GET_PDEATHSIG): the signal that the kernel sends when the parent ends, 0 for none."""
    number = ctypes.c_int(0)
    _check(_libc.prctl(ctypes.c_int(_PR_GET_PDEATHSIG), ctypes.byref(number)), "prctl")
    return number.value


def set_thread_groups(groups: Sequence[int]) -> None:
    """setgroups(2) of this thread alone."""
    _syscall(_ids_call(0), "setgroups", ctypes.c_size_t(len(groups)), (ctypes.c_uint * len(groups))(*groups))


def set_thread_egid(gid: int) -> None:
    """setegid(2) of this thread alone."""
    _syscall(_ids_call(1), "setresgid", _KEEP, ctypes.c_uint(gid), _KEEP)


def set_thread_euid(uid: int) -> None:
    """seteuid(2) of this thread alone."""
    _syscall(_ids_call(2), "setresuid", _KEEP, ctypes.c_uint(uid), _KEEP)


_KEEP = ctypes.c_uint(0xFFFFFFFF)


def _ids_call(which: int) -> int:
    machine = os.uname().machine
    if machine not in _SYS_OF_IDS:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), f"the ids of a thread on {machine}")
    return _SYS_OF_IDS[machine][which]
