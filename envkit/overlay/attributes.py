"""Owns what becomes of extended attributes on the way from an upper directory into a layer.

Overlayfs' own marks turn into facts about the entry, or stop the scan. File capabilities and access control lists
hold ids, which are the host's in an upper directory and the container's in a layer. What no layer may carry is left
out and named. Values are those that getxattr(2) gives in the host's user namespace.
"""

import struct
from typing import NamedTuple

from envkit.model.idmap import IdMap, IdRange, inside
from envkit.model.tree import MAX_ID, display_path
from envkit.model.xattrs import MAX_XATTRS, allowed_xattr
from envkit.overlay.errors import BadAttribute, ForeignId, LimitExceeded, OverlayMark

ACL_NAMES = (b"system.posix_acl_access", b"system.posix_acl_default")
CAPABILITY = b"security.capability"

_OVERLAY = b"trusted.overlay."
_OPAQUE = b"trusted.overlay.opaque"
# Hints that hold true only on the overlay that wrote them: the file handle of the file that was copied up, "some
# entries here were copied up", the overlay's identity, and the link count of the inode index, which envkit never
# switches on. Everything else (redirect, metacopy, upper, the whiteout form of Linux 6.7, escaped marks of an overlay
# in an overlay) changes what is seen below, and no overlay of envkit writes it.
_HINTS = frozenset(_OVERLAY + name for name in (b"origin", b"impure", b"uuid", b"nlink"))
# chattr +i and +a inside the overlay.
_INODE_FLAGS = b"trusted.overlay.protattr"

_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_NO_ID = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

_CAPABILITY_2, _CAPABILITY_3 = 0x02000000, 0x03000000
_CAPABILITY_EFFECTIVE = 0x000001


class Attributes(NamedTuple):
    """The attributes of one entry as a layer holds them, and the names of those that were left out."""

    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    opaque: bool = False
    dropped: tuple[bytes, ...] = ()


def translate(path: bytes, found: dict[bytes, bytes], ids: IdMap, *, directory: bool) -> Attributes:
    """Return what a layer holds of an entry's attributes.

    :raises OverlayMark: one of overlayfs' own that may not be there, or a known one with an unknown value.
    :raises BadAttribute: a list or a capability is malformed.
    :raises ForeignId: one names an id outside the container's range.
    :raises LimitExceeded: there are too many.
    """
    kept: list[tuple[bytes, bytes]] = []
    dropped: list[bytes] = []
    opaque = False
    for name in sorted(found):
        value = found[name]
        if name.startswith(_OVERLAY):
            if name == _OPAQUE and value == b"y" and directory and path:
                opaque = True
            elif name == _INODE_FLAGS:
                dropped.append(name)
            elif name not in _HINTS:
                shown = name.decode("utf-8", "backslashreplace")
                raise OverlayMark(display_path(path), f"{shown}={value[:64]!r}" if name == _OPAQUE else shown)
        elif name in ACL_NAMES:
            kept.append((name, translate_acl(path, name, value, ids)))
        elif name == CAPABILITY:
            kept.append((name, translate_capability(path, value, ids)))
        elif allowed_xattr(name):
            kept.append((name, value))
        else:
            dropped.append(name)
    if len(kept) > MAX_XATTRS:
        raise LimitExceeded(display_path(path), "extended attributes", MAX_XATTRS)
    return Attributes(tuple(kept), opaque, tuple(dropped))


def translate_acl(path: bytes, name: bytes, value: bytes, ids: IdMap) -> bytes:
    """Return a POSIX ACL (<linux/posix_acl_xattr.h>, version 2) with the container's ids in place of the host's.

    :raises BadAttribute: it is none, or one that posix_acl_valid() of the kernel would refuse.
    :raises ForeignId: it names an id outside the container's range.
    """
    body = value[4:]
    if value[:4] != _ACL_VERSION or len(body) % _ACL_ENTRY.size:
        raise BadAttribute(display_path(path), name.decode())
    parts = [_ACL_VERSION]
    tags = []
    for tag, permissions, number in _ACL_ENTRY.iter_unpack(body):
        if permissions > 7:
            raise BadAttribute(display_path(path), name.decode())
        if tag == _USER:
            inner = container_id(path, "ACL user", ids.uids, number)
        elif tag == _GROUP:
            inner = container_id(path, "ACL group", ids.gids, number)
        else:
            inner = _ACL_NO_ID
        tags.append(tag)
        parts.append(_ACL_ENTRY.pack(tag, permissions, inner))
    if not _acl_order_is_valid(tags):
        raise BadAttribute(display_path(path), name.decode())
    return b"".join(parts)


def _acl_order_is_valid(tags: list[int]) -> bool:
    """Tell whether tags come as user::, user:N:*, group::, group:N:*, mask::, other::; only named ones need a mask."""
    named = _USER in tags or _GROUP in tags
    once = [tag for tag in tags if tag not in (_USER, _GROUP)]
    wanted = [_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER] if named or _MASK in tags else [_USER_OBJ, _GROUP_OBJ, _OTHER]
    return once == wanted and tags == sorted(tags)


def translate_capability(path: bytes, value: bytes, ids: IdMap) -> bytes:
    """Return file capabilities (`vfs_cap_data` of <linux/capability.h>) as the container's root gave them.

    Revision 3 says whose root they are for. Those of the container's root become revision 2: through the idmapped
    mount of a layer the kernel reads that as the root of whichever container runs it.

    :raises BadAttribute: neither revision 2 nor revision 3.
    :raises ForeignId: they are for the root of a namespace outside the container's range.
    """
    header = int.from_bytes(value[:4], "little")
    revision, effective = header & ~_CAPABILITY_EFFECTIVE, header & _CAPABILITY_EFFECTIVE
    if (revision, len(value)) == (_CAPABILITY_2, 20):
        return value
    if (revision, len(value)) != (_CAPABILITY_3, 24):
        raise BadAttribute(display_path(path), CAPABILITY.decode())
    root = container_id(path, "capability root", ids.uids, int.from_bytes(value[20:], "little"))
    if root == 0:
        return (_CAPABILITY_2 | effective).to_bytes(4, "little") + value[4:20]
    return value[:20] + root.to_bytes(4, "little")


def container_id(path: bytes, what: str, ranges: tuple[IdRange, ...], number: int) -> int:
    """Return the container's id for a host's.

    :raises ForeignId: the container has none for it, or one that no layer can hold.
    """
    try:
        inner = inside(ranges, number)
    except KeyError:
        inner = MAX_ID + 1
    if inner > MAX_ID:
        raise ForeignId(display_path(path), what, number)
    return inner
