"""Owns the EROFS view of a layer: where inodes, directories and file contents lie in an image, made from a tree.

An image is its metadata (superblock, inodes with small directories and link targets behind them, larger directories)
and after it the data region, where each file begins at a block of its own. The metadata is made here; what the data
region holds is only described, by a block map. The same tree always gives the same bytes.
"""

import hashlib
import stat
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from envkit.image import erofs_format as fmt
from envkit.model.blockmap import BlockMap
from envkit.image.errors import BrokenTree, ErofsLimit
from envkit.image.rules import check_entry, check_name, checked_segments, root_of
from envkit.model.tree import Chunk, Entry, Kind, Tree

_OPAQUE = (b"trusted.overlay.opaque", b"y")
# `Kind.FILE` is a slow look-up in Python 3.11, ten times the comparison that it is for.
_DIRECTORY, _FILE, _SYMLINK, _FIFO, _HARDLINK, _WHITEOUT = Kind
# What an entry is to EROFS: file format bits of the mode, type in directories. Overlayfs takes a character device
# 0:0 for a whiteout.
_FORMS = {
    _DIRECTORY: (stat.S_IFDIR, fmt.TYPE_DIRECTORY),
    _FILE: (stat.S_IFREG, fmt.TYPE_REGULAR),
    _SYMLINK: (stat.S_IFLNK, fmt.TYPE_SYMLINK),
    _FIFO: (stat.S_IFIFO, fmt.TYPE_FIFO),
    _WHITEOUT: (stat.S_IFCHR, fmt.TYPE_CHARACTER),
}


@dataclass(frozen=True)
class Image:
    """An EROFS image of `size` bytes: `metadata` at its start, whole blocks; `blocks` says what lies behind it."""

    metadata: bytes
    size: int
    blocks: BlockMap


class _Inode:
    """One inode and its place: byte offset in the image; whether its tail follows it; its first own block, or 0."""

    __slots__ = ("area", "block", "entry", "format", "inline", "links", "position", "type")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.format, self.type = _FORMS[entry.kind]
        self.area = _xattr_area(entry) if entry.xattrs or entry.opaque else b""
        self.links = 1
        self.position = 0
        self.inline = False
        self.block = 0


class _Directory(_Inode):
    """A directory and what it holds, by name; where its blocks are cut; whether it hides all that is below it."""

    __slots__ = ("children", "cuts", "hides", "names", "parent")

    def __init__(self, entry: Entry, parent: "_Directory | None") -> None:
        super().__init__(entry)
        self.parent = parent
        self.names: list[bytes] = []
        self.children: list[_Inode] = []
        self.cuts: list[int] = []
        self.hides: bool = entry.opaque or (parent is not None and parent.hides)
        self.links = 2


def build(tree: Tree) -> Image:
    """Return the EROFS image of a layer.

    The tree has passed `check_tree`. What would make an invalid image is checked here again.

    :raises BrokenTree: it breaks a rule of the format.
    :raises ErofsLimit: it has more extended attributes or content than EROFS can hold.
    """
    inodes = _read(tree)
    begin = _place(inodes)
    blocks, end = _place_contents(inodes, tree.chunks, begin)
    metadata = bytearray(begin * fmt.BLOCK)
    superblock = fmt.superblock(root=inodes[0].position // fmt.SLOT, inodes=len(inodes), blocks=end)
    metadata[fmt.SUPERBLOCK_OFFSET : fmt.SUPERBLOCK_END] = superblock
    _write(metadata, inodes)
    # Overlayfs tells its layers apart by UUID: without one, or with the same one twice, it turns `xino` off.
    identity = hashlib.sha256(metadata)
    for chunk in tree.chunks:
        identity.update(chunk.digest)
    metadata[fmt.UUID_OFFSET : fmt.UUID_OFFSET + 16] = identity.digest()[:16]
    return Image(bytes(metadata), end * fmt.BLOCK, blocks)


def _read(tree: Tree) -> list[_Inode]:
    """Return the inodes of a tree, root first, hard links resolved and every directory knowing its children."""
    top = _Directory(root_of(tree), None)
    inodes: list[_Inode] = [top]
    directories = {b"": top}
    linkable: dict[bytes, _Inode] = {}
    inode: _Inode
    for entry in tree.entries[1:]:
        path, kind = entry.path, entry.kind
        head, slash, name = path.rpartition(b"/")
        parent = directories.get(head)
        if parent is None or (slash and not head):
            raise BrokenTree(path, "is in a directory that the tree does not have")
        check_name(path, name)
        check_entry(entry)
        if parent.names and name <= parent.names[-1]:
            raise BrokenTree(path, "is out of order or twice there")
        if kind is _WHITEOUT and parent.hides:
            # Overlayfs lists a directory that it need not merge as it is, so a whiteout would show in it.
            continue
        if kind is _HARDLINK:
            if entry.target not in linkable:
                raise BrokenTree(path, "links to something that does not come before it")
            inode = linkable[entry.target]
            inode.links += 1
        elif kind is _DIRECTORY:
            inode = directories[path] = _Directory(entry, parent)
            parent.links += 1
            inodes.append(inode)
        else:
            inode = _Inode(entry)
            inodes.append(inode)
            if kind is not _WHITEOUT:
                linkable[path] = inode
        parent.names.append(name)
        parent.children.append(inode)
    return inodes


def _xattr_area(entry: Entry) -> bytes:
    try:
        return fmt.xattr_area([*entry.xattrs, _OPAQUE] if entry.opaque else list(entry.xattrs))
    except ValueError as error:
        raise ErofsLimit(entry.path, str(error)) from error


def _place(inodes: Sequence[_Inode]) -> int:
    """Give every inode its offset, and directories and long link targets their blocks; return the blocks used so far.

    Data that is no whole block (a tail) follows its inode, if the block that the inode is in has room for it: the
    kernel reads a tail, and an inode with a link target, from a single block.
    """
    position = fmt.SUPERBLOCK_END
    separate: list[tuple[_Inode, int]] = []
    for inode in inodes:
        tail, full = 0, 0
        if isinstance(inode, _Directory):
            _add_dots(inode)
            inode.cuts, tail = fmt.directory_cuts(inode.names)
            full = len(inode.cuts) - 1
        elif inode.type == fmt.TYPE_SYMLINK:
            tail = len(inode.entry.target)
        head = fmt.INODE.size + len(inode.area)
        inode.inline = 0 < tail <= fmt.BLOCK - head
        undivided = head + tail if inode.inline else fmt.INODE.size
        if position % fmt.BLOCK + undivided > fmt.BLOCK:
            position += -position % fmt.BLOCK
        inode.position = position
        position += head + tail if inode.inline else head
        position += -position % fmt.SLOT
        if tail and not inode.inline:
            full += 1
        if full:
            separate.append((inode, full))
    # One slot more: fsck.erofs 1.5 reads an attribute header behind every inode, even if it has no attributes.
    block = -(-(position + fmt.SLOT) // fmt.BLOCK)
    for inode, count in separate:
        inode.block = block
        block += count
    return block


def _add_dots(directory: _Directory) -> None:
    """Put "." and ".." among the names, at their places in the order of bytes: "-" comes before them."""
    for name, inode in ((b".", directory), (b"..", directory.parent or directory)):
        index = bisect_left(directory.names, name)
        directory.names.insert(index, name)
        directory.children.insert(index, inode)


def _place_contents(inodes: Sequence[_Inode], chunks: Sequence[Chunk], block: int) -> tuple[BlockMap, int]:
    """Give every file its blocks, from `block` on; return what is in them, and the block behind the last one."""
    blocks = BlockMap()
    for inode in inodes:
        size = inode.entry.size
        if not size:
            continue
        inode.block = block
        start = block * fmt.BLOCK
        for segment in checked_segments(inode.entry, chunks):
            blocks.append(start + segment.start, segment.length, segment.chunk, segment.offset)
        block += -(-size // fmt.BLOCK)
        if block > fmt.MAX_BLOCKS:
            raise ErofsLimit(inode.entry.path, "makes it larger than 16 TiB")
    return blocks, block


def _write(image: bytearray, inodes: Sequence[_Inode]) -> None:
    """Write all inodes, directories and link targets to their places."""
    for number, inode in enumerate(inodes, 1):
        entry, position = inode.entry, inode.position
        data = _directory_data(inode) if isinstance(inode, _Directory) else entry.target
        fmt.INODE.pack_into(
            image,
            position,
            fmt.FORMAT_INLINE if inode.inline else fmt.FORMAT_PLAIN,
            fmt.xattr_count(len(inode.area)) if inode.area else 0,
            # The kernel ignores the mode of a symlink, and shows 0777 everywhere else.
            inode.format | (0o777 if inode.type == fmt.TYPE_SYMLINK else entry.mode),
            0,
            len(data) or entry.size,
            inode.block,
            number,
            entry.uid,
            entry.gid,
            *divmod(entry.mtime_ns, 1_000_000_000),
            inode.links,
        )
        position += fmt.INODE.size
        if inode.area:
            image[position : position + len(inode.area)] = inode.area
            position += len(inode.area)
        if data:
            inlined = len(data) % fmt.BLOCK if inode.inline else 0
            separate = len(data) - inlined
            image[position : position + inlined] = data[separate:]
            start = inode.block * fmt.BLOCK
            image[start : start + separate] = data[:separate]


def _directory_data(directory: _Directory) -> bytes:
    """Return the contents of a directory, whole blocks but for the last one, and forget its children."""
    names = directory.names
    nids = [child.position // fmt.SLOT for child in directory.children]
    types = [child.type for child in directory.children]
    # Parents and children name each other; nobody should have to wait for the garbage collector to find that out.
    directory.children.clear()
    if len(directory.cuts) == 1:
        return fmt.directory_block(names, nids, types)
    parts = []
    for start, stop in zip(directory.cuts, [*directory.cuts[1:], len(names)], strict=True):
        part = fmt.directory_block(names[start:stop], nids[start:stop], types[start:stop])
        parts.append(part if stop == len(names) else part.ljust(fmt.BLOCK, b"\0"))
    return b"".join(parts)
