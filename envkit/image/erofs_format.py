"""Owns the on-disk structures of EROFS: superblock, inode, directory block, extended attributes.

The names are those of the kernel's fs/erofs/erofs_fs.h. Only what kernel 5.19 has is used, and no compression. Where
things lie in an image is decided in `erofs`.
"""

import struct
from functools import cache
from itertools import accumulate

BLOCK = 4096
SLOT = 32
"""An inode's number (nid) is its offset in the image in units of this."""
SUPERBLOCK_OFFSET = 1024
SUPERBLOCK_END = SUPERBLOCK_OFFSET + 128
UUID_OFFSET = SUPERBLOCK_OFFSET + 48
MAX_BLOCKS = (1 << 32) - 1
"""Block addresses have 32 bits; the highest one is the kernel's mark for a hole."""
MAX_XATTR_VALUE = 0xFFFF
MAX_XATTR_AREA = 12 + 4 * 0xFFFE

INODE = struct.Struct("<HHHHQIIIIQII16x")
"""An extended inode: format, attribute count, mode, reserved, size, first block of the data (or 0), number for old
32-bit programs, uid, gid, mtime in seconds, its nanoseconds, links."""
_LINKS = struct.Struct("<I")
_LINKS_OFFSET = 44
FORMAT_PLAIN = 1 | 0 << 1
"""Extended inode; all data lies in blocks of its own."""
FORMAT_INLINE = 1 | 2 << 1
"""Extended inode; the data behind the last full block follows the inode and its attributes."""

# File types of directory entries, FT_* in <linux/fs_types.h>.
TYPE_REGULAR = 1
TYPE_DIRECTORY = 2
TYPE_CHARACTER = 3
TYPE_FIFO = 5
TYPE_SYMLINK = 7

_MAGIC = 0xE0F5E1E2
_COMPAT_MTIME = 2
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_DIRENT = struct.Struct("<QHBx")
_XATTR_HEADER = bytes(12)
_XATTR_ENTRY = struct.Struct("<BBH")
_XATTR_INDEXES = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)


def superblock(*, root: int, inodes: int, blocks: int) -> bytes:
    """Return a superblock: nid of the root directory, numbers of inodes and blocks. Build time and UUID are 0.

    There is no checksum: the node that mounts an image has built it, too.
    """
    return _SUPERBLOCK.pack(
        _MAGIC, 0, _COMPAT_MTIME, 12, 0, root, inodes, 0, 0, blocks, 0, 0, b"", b"envkit", *(0,) * 9
    )


def xattr_area(xattrs: list[tuple[bytes, bytes]]) -> bytes:
    """Return the attributes as they follow an inode; empty for none. Names are of a namespace in `_XATTR_INDEXES`.

    :raises ValueError: a value or all together are too large.
    """
    if not xattrs:
        return b""
    parts = [_XATTR_HEADER]
    for full_name, value in xattrs:
        prefix, index = next(pair for pair in _XATTR_INDEXES if full_name.startswith(pair[0]))
        name = full_name[len(prefix) :]
        if len(value) > MAX_XATTR_VALUE:
            raise ValueError(f"has an extended attribute of more than {MAX_XATTR_VALUE} bytes")
        entry = _XATTR_ENTRY.pack(len(name), index, len(value)) + name + value
        parts.append(entry + bytes(-len(entry) % 4))
    area = b"".join(parts)
    if len(area) > MAX_XATTR_AREA:
        raise ValueError(f"has more than {MAX_XATTR_AREA} bytes of extended attributes")
    return area


def xattr_count(area: int) -> int:
    """Return how an inode tells that its attributes have `area` bytes: units of 4 behind a header that counts as 1."""
    return (area - len(_XATTR_HEADER)) // 4 + 1 if area else 0


def directory_cuts(names: list[bytes]) -> tuple[list[int], int]:
    """Divide sorted names into directory blocks: the index where each begins, and the bytes that the last one has."""
    whole = _DIRENT.size * len(names) + sum(map(len, names))
    if whole <= BLOCK:
        return [0], whole
    cuts, used = [0], 0
    for index, name in enumerate(names):
        need = _DIRENT.size + len(name)
        if used + need > BLOCK:
            cuts.append(index)
            used = 0
        used += need
    return cuts, used


def add_link(image: bytearray, position: int) -> None:
    """Count one more name of the inode at a position."""
    position += _LINKS_OFFSET
    _LINKS.pack_into(image, position, _LINKS.unpack_from(image, position)[0] + 1)


@cache
def _dirents(count: int) -> struct.Struct:
    """Return the form of as many directory entries as a block has: at most 315."""
    return struct.Struct("<" + "QHBx" * count)


def directory_block(names: list[bytes], nids: list[int], types: list[int]) -> bytes:
    """Return one directory block, without padding: the fixed-size entries, then all names.

    The kernel finds names by binary search over bytes, in and between blocks, so they come sorted, "." and ".." too.
    """
    count = len(names)
    fields = [0] * (3 * count)
    fields[::3] = nids
    fields[1::3] = accumulate(map(len, names[:-1]), initial=_DIRENT.size * count)
    fields[2::3] = types
    return _dirents(count).pack(*fields) + b"".join(names)
