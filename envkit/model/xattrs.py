"""Owns which extended attributes a layer may carry, and which values the kernel would accept on which kind of entry.

A directory on disk refuses a malformed value or an attribute on the wrong kind of file; an EROFS image would show it,
or fail each access to the file. So trees with such attributes are refused before any view is made of them.
"""

import re
import struct
from collections.abc import Sequence

ACL_ACCESS = b"system.posix_acl_access"
ACL_DEFAULT = b"system.posix_acl_default"
CAPABILITY = b"security.capability"

MAX_XATTR_VALUE = 65_535
"""EROFS has 16 bits for it."""
MAX_XATTRS = 64
_MAX_ID = (1 << 31) - 2

_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")
# One letter for each ACL tag of <linux/posix_acl.h>: user::, user:N:, group::, group:N:, mask::, other::.
_ACL_LETTERS = {0x01: "u", 0x02: "U", 0x04: "g", 0x08: "G", 0x10: "m", 0x20: "o"}
# The order that posix_acl_valid() wants; entries that name somebody need a mask.
_ACL_ORDER = re.compile("ugo|uU*gG*mo")

_CAPABILITY_EFFECTIVE = 0x000001
_CAPABILITY_SIZES = {0x02000000: 20, 0x03000000: 24}


def allowed_xattr(name: bytes) -> bool:
    """Tell whether a layer may carry this xattr: file capabilities, POSIX ACLs and the user's own."""
    if name in (CAPABILITY, ACL_ACCESS, ACL_DEFAULT):
        return True
    return (
        name.startswith(b"user.") and not name.startswith(b"user.overlay.") and 5 < len(name) <= 255 and 0 not in name
    )


def xattrs_problem(xattrs: Sequence[tuple[bytes, bytes]], *, directory: bool, file: bool, symlink: bool) -> str | None:
    """Return what is wrong with an entry's attributes, given its kind; None where nothing is."""
    if len(xattrs) > MAX_XATTRS:
        return f"has more than {MAX_XATTRS} extended attributes"
    before = b""
    for name, value in xattrs:
        if name <= before:
            return "has extended attributes out of order"
        before = name
        if not allowed_xattr(name) or len(value) > MAX_XATTR_VALUE:
            return "has an extended attribute that layers may not carry"
        problem = _problem(name, value, directory=directory, file=file, symlink=symlink)
        if problem:
            return problem
    return None


def _problem(name: bytes, value: bytes, *, directory: bool, file: bool, symlink: bool) -> str | None:
    if name == CAPABILITY:
        return None if _is_capability(value) else "has malformed file capabilities"
    if name in (ACL_ACCESS, ACL_DEFAULT):
        if symlink or (name == ACL_DEFAULT and not directory):
            return "has an access control list that its kind cannot have"
        return None if _is_acl(value) else "has a malformed access control list"
    if not (directory or file):
        return "has user attributes but is neither file nor directory"
    return None


def _is_acl(value: bytes) -> bool:
    """Tell whether a value is what acl(5) describes, as <linux/posix_acl_xattr.h> lays it out."""
    body = value[4:]
    if value[:4] != _ACL_VERSION or len(body) % _ACL_ENTRY.size:
        return False
    tags = []
    for tag, permissions, identity in _ACL_ENTRY.iter_unpack(body):
        letter = _ACL_LETTERS.get(tag)
        if letter is None or permissions > 7 or (letter in "UG" and identity > _MAX_ID):
            return False
        tags.append(letter)
    return _ACL_ORDER.fullmatch("".join(tags)) is not None


def _is_capability(value: bytes) -> bool:
    """Tell whether a value is a `vfs_cap_data` of <linux/capability.h> that setxattr(2) takes: revision 2 or 3."""
    if len(value) not in (20, 24):
        return False
    revision = int.from_bytes(value[:4], "little") & ~_CAPABILITY_EFFECTIVE
    if _CAPABILITY_SIZES.get(revision) != len(value):
        return False
    return len(value) == 20 or int.from_bytes(value[20:], "little") <= _MAX_ID
