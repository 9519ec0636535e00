"""Owns who a job runs as: the invoking user, and that user's line in the environment's passwd and group files."""

import os
import pwd

from envkit.drivers.caller import find_caller
from envkit.model.record import Record
from envkit.node.rootfs import Rootfs

_FIRST_REGULAR_GID = 1000
_MAX_PASSWD = 4 * 1024 * 1024
_MAX_GROUPS = 64


class Account(Record):
    """A user inside a container; ids are the same inside and outside, unless uid is 0."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


ROOT = Account(name="root", uid=0, gid=0, groups=(), home="/root")


def invoking_user() -> Account:
    """Return who called envkit: through sudo(8) the user who called that.

    Of the supplementary groups only regular ones (gid 1000 and above) are taken along: they give access to shared
    directories, while the host's system groups (disk, docker ...) have no business in a container.
    """
    caller = find_caller(os.environ)
    uid, gid = caller.uid, caller.gid
    if uid == 0:
        return ROOT
    name = caller.name or _login_name(uid)
    groups = os.getgrouplist(name, gid)
    regular = tuple(number for number in groups if number >= _FIRST_REGULAR_GID and number != gid)
    return Account(name=name, uid=uid, gid=gid or uid, groups=regular[:_MAX_GROUPS], home=f"/home/{name}")


def _login_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user{uid}"


def settle(account: Account, rootfs: Rootfs) -> Account:
    """Make the account exist in a root file system; return it with the name and home that it has there."""
    if account.uid == 0:
        return account
    passwd = _lines(rootfs, "/etc/passwd")
    for line in passwd:
        fields = line.split(":")
        if len(fields) == 7 and fields[2] == str(account.uid) and fields[5].startswith("/"):
            return account.replace(name=fields[0], home=fields[5])
    shell = "/bin/bash" if rootfs.exists("/bin/bash") else "/bin/sh"
    passwd.append(f"{account.name}:x:{account.uid}:{account.gid}::{account.home}:{shell}")
    rootfs.replace_file("/etc/passwd", _text(passwd))
    group = _lines(rootfs, "/etc/group")
    known = {line.split(":")[2] for line in group if line.count(":") == 3}
    if str(account.gid) not in known:
        rootfs.replace_file("/etc/group", _text([*group, f"{account.name}:x:{account.gid}:"]))
    os.close(rootfs.make_directory(account.home, uid=account.uid, gid=account.gid, mode=0o755))
    return account


def _lines(rootfs: Rootfs, path: str) -> list[str]:
    # surrogateescape keeps bytes that are no UTF-8 as they are
    return (rootfs.read_file(path, _MAX_PASSWD) or b"").decode("utf-8", "surrogateescape").splitlines()


def _text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
