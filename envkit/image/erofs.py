"""Owns the EROFS view of a layer: where inodes, directories and file contents lie in an image, made from a tree.

An image is its metadata (superblock, inodes with small directories and link targets behind them, larger directories)
and after it the data region, where each file begins at a block of its own. The metadata is made here; what the data
region holds is only described, by a block map. The same tree always gives the same bytes.

A node makes it before a container can start, so it is written for speed: no object and no call for what is ordinary,
but lists with a place for each entry of the tree.
"""

import hashlib
import stat
from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice

from envkit.image import erofs_format as fmt
from envkit.image.errors import BrokenTree, ErofsLimit
from envkit.image.rules import MAX_MTIME_NS, check_entry, check_name, check_path, check_segments, root_of
from envkit.model.blockmap import BlockMap
from envkit.model.collector import no_collector
from envkit.model.record import Record
from envkit.model.tree import MAX_CHUNK, MAX_COMPONENT, MAX_DEPTH, MAX_FILE, MAX_ID, Entry, Kind, Tree, path_key

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
_TWO_DIRECTORIES = (fmt.TYPE_DIRECTORY, fmt.TYPE_DIRECTORY)


class Image(Record):
    """An EROFS image of `size` bytes: `metadata` at its start, whole blocks; `blocks` says what lies behind it."""

    metadata: bytes
    size: int
    blocks: BlockMap


class _Special:
    """What an entry has that is no file without attributes: those; whether its tail follows it; its own block, or 0."""

    __slots__ = ("area", "block", "inline", "mode", "tail")

    def __init__(self, entry: Entry) -> None:
        # The kernel ignores the mode of a symlink, and shows 0777 everywhere else.
        self.mode = _FORMS[entry.kind][0] | (0o777 if entry.kind is _SYMLINK else entry.mode)
        self.area = _xattr_area(entry) if entry.xattrs or entry.opaque else b""
        self.tail = len(entry.target)
        self.inline = False
        self.block = 0


class _Directory(_Special):
    """A directory: what it holds, by name, as numbers and types of entries; where its blocks are cut.

    `hides` says that nothing of lower layers is seen in it.
    """

    __slots__ = ("cuts", "hides", "links", "names", "number", "numbers", "parent", "types")

    def __init__(self, entry: Entry, number: int, parent: "_Directory | None") -> None:
        # In full: a call of the other constructor would take as long as all of this.
        self.mode = stat.S_IFDIR | entry.mode
        self.area = _xattr_area(entry) if entry.xattrs or entry.opaque else b""
        self.tail = self.block = 0
        self.inline = False
        self.number = number
        self.parent = number if parent is None else parent.number
        self.names: list[bytes] = []
        self.numbers: list[int] = []
        self.types: list[int] = []
        self.cuts: list[int] = []
        self.hides: bool = entry.opaque or (parent is not None and parent.hides)
        self.links = 2


class _Name:
    """An entry without an inode: one more name of that of entry `target`, or, with 0, a name that is left out."""

    __slots__ = ("target",)

    def __init__(self, target: int) -> None:
        self.target = target


_Form = _Special | _Name | None
"""What an entry becomes; None is what most are: an inode of a file without attributes."""


def build(tree: Tree) -> Image:
    """Return the EROFS image of a layer.

    The tree has passed `check_frame`; its entries need not have passed anything, they are checked here.

    :raises BrokenTree: an entry breaks a rule of the format.
    :raises ErofsLimit: it has more extended attributes or content than EROFS can hold.
    """
    with no_collector():
        forms = _read(tree)
        positions, begin = _place(forms)
        blocks, contents, end = _place_contents(tree, begin)
        metadata = bytearray(begin * fmt.BLOCK)
        inodes = _write(metadata, tree.entries, forms, positions, blocks)
    superblock = fmt.superblock(root=positions[0] // fmt.SLOT, inodes=inodes, blocks=end)
    metadata[fmt.SUPERBLOCK_OFFSET : fmt.SUPERBLOCK_END] = superblock
    # Overlayfs tells its layers apart by UUID: without one, or with the same one twice, it turns `xino` off.
    identity = hashlib.sha256(metadata)
    identity.update(b"".join([chunk.digest for chunk in tree.chunks]))
    metadata[fmt.UUID_OFFSET : fmt.UUID_OFFSET + 16] = identity.digest()[:16]
    return Image(metadata=bytes(metadata), size=end * fmt.BLOCK, blocks=contents)


def _read(tree: Tree) -> list[_Form]:
    """Return what each entry becomes, hard links resolved and every directory knowing what it holds."""
    top = _Directory(root_of(tree), 0, None)
    forms: list[_Form] = [top]
    directories = {b"": top}
    linked = {entry.target for entry in tree.entries if entry.kind is _HARDLINK}
    linkable: dict[bytes, int] = {}
    directory, place, last, before = top, b"", b"", b""
    add_name, add_number, add_type = top.names.append, top.numbers.append, top.types.append
    for number, entry in enumerate(islice(tree.entries, 1, None), 1):
        path, kind = entry.path, entry.kind
        parent, slash, name = path.rpartition(b"/")
        if parent != place or not parent:
            found = directories.get(parent)
            if found is None or (slash and not parent):
                raise BrokenTree(path, "is in a directory that the tree does not have")
            if path and path_key(path) <= path_key(before):
                raise BrokenTree(path, "is out of order or twice there")
            directory, place, last = found, parent, b""
            add_name, add_number, add_type = found.names.append, found.numbers.append, found.types.append
        # No call for what is certainly right. The first test also finds names that are empty, "." or "..".
        if name <= b".." or len(name) > MAX_COMPONENT or 0 in name:
            check_name(path, name)
        if len(path) > MAX_DEPTH:
            check_path(path)
        before = path
        if (
            (kind is not _FILE and (kind is not _DIRECTORY or entry.size or entry.segments))
            or entry.target
            or entry.xattrs
            or entry.opaque
            or not 0 <= entry.mode <= 0o7777
            or not 0 <= entry.uid | entry.gid <= MAX_ID
            or not 0 <= entry.mtime_ns <= MAX_MTIME_NS
            or not 0 <= entry.size <= MAX_FILE
        ):
            check_entry(entry)
        if name <= last:
            raise BrokenTree(path, "is out of order or twice there")
        last = name
        if kind is _FILE:
            forms.append(_Special(entry) if entry.xattrs else None)
            add_type(fmt.TYPE_REGULAR)
        elif kind is _DIRECTORY:
            below = directories[path] = _Directory(entry, number, directory)
            forms.append(below)
            directory.links += 1
            add_type(fmt.TYPE_DIRECTORY)
        elif kind is _WHITEOUT and directory.hides:
            # Overlayfs lists a directory that it need not merge as it is, so a whiteout would show in it.
            forms.append(_Name(0))
            continue
        elif kind is _HARDLINK:
            if entry.target not in linkable:
                raise BrokenTree(path, "links to something that does not come before it")
            target = linkable[entry.target]
            forms.append(_Name(target))
            add_type(_FORMS[tree.entries[target].kind][1])
        else:
            forms.append(_Special(entry))
            add_type(_FORMS[kind][1])
        add_name(name)
        add_number(number)
        if linked and path in linked and (kind is _FILE or kind is _SYMLINK or kind is _FIFO):
            linkable[path] = number
    return forms


def _xattr_area(entry: Entry) -> bytes:
    try:
        return fmt.xattr_area([*entry.xattrs, _OPAQUE] if entry.opaque else list(entry.xattrs))
    except ValueError as error:
        raise ErofsLimit(entry.path, str(error)) from error


def _place(forms: Sequence[_Form]) -> tuple[list[int], int]:
    """Return the offset of each entry's inode, and the number of blocks used so far.

    Directories and long link targets get blocks behind all inodes. Data that is no whole block (a tail) follows its
    inode, if the block that the inode is in has room for it: the kernel reads a tail, and an inode with a link target,
    from a single block.
    """
    position = fmt.SUPERBLOCK_END
    positions: list[int] = []
    separate: list[tuple[_Special, int]] = []
    size, block_size, last = fmt.INODE.size, fmt.BLOCK, fmt.BLOCK - fmt.INODE.size
    for form in forms:
        if form is None:
            if position % block_size > last:
                position += -position % block_size
            positions.append(position)
            position += size
            continue
        if isinstance(form, _Name):
            positions.append(positions[form.target])
            continue
        tail, full = form.tail, 0
        if isinstance(form, _Directory):
            _add_dots(form)
            form.cuts, tail = fmt.directory_cuts(form.names)
            full = len(form.cuts) - 1
        head = size + len(form.area)
        form.inline = 0 < tail <= fmt.BLOCK - head
        undivided = head + tail if form.inline else size
        if position % fmt.BLOCK + undivided > fmt.BLOCK:
            position += -position % fmt.BLOCK
        positions.append(position)
        position += head + tail if form.inline else head
        position += -position % fmt.SLOT
        if tail and not form.inline:
            full += 1
        if full:
            separate.append((form, full))
    # One slot more: fsck.erofs 1.5 reads an attribute header behind every inode, even if it has no attributes.
    block = -(-(position + fmt.SLOT) // fmt.BLOCK)
    for form, count in separate:
        form.block = block
        block += count
    return positions, block


def _add_dots(directory: _Directory) -> None:
    """Put "." and ".." among the names, at their places in the order of bytes: "-" comes before them."""
    names, numbers, types = directory.names, directory.numbers, directory.types
    if not names or names[0] > b"..":
        names[:0], numbers[:0], types[:0] = (b".", b".."), (directory.number, directory.parent), _TWO_DIRECTORIES
        return
    for name, number in ((b".", directory.number), (b"..", directory.parent)):
        index = bisect_left(names, name)
        names.insert(index, name)
        numbers.insert(index, number)
        types.insert(index, fmt.TYPE_DIRECTORY)


def _place_contents(tree: Tree, block: int) -> tuple[list[int], BlockMap, int]:
    """Give every file its blocks, from `block` on.

    Return the first one of each entry, or 0; what is in them; and the block behind the last one.
    """
    chunks = tree.chunks
    sizes = [min(chunk.size, MAX_CHUNK) for chunk in chunks]
    count = len(sizes)
    blocks: list[int] = []
    contents = BlockMap()
    add, append = blocks.append, contents.append
    for entry in tree.entries:
        size = entry.size
        if not size:
            if entry.segments:
                check_segments(entry, chunks)
            add(0)
            continue
        add(block)
        begin, end = block * fmt.BLOCK, 0
        for segment in entry.segments:
            start, length, number, offset = segment.start, segment.length, segment.chunk, segment.offset
            if (
                length <= 0
                or start < end
                or not 0 <= number < count
                or not 0 <= offset <= sizes[number] - length
                or start + length > size
            ):
                check_segments(entry, chunks)
            append(begin + start, length, number, offset)
            end = start + length
        block += -(-size // fmt.BLOCK)
        if block > fmt.MAX_BLOCKS:
            raise ErofsLimit(entry.path, "makes it larger than 16 TiB")
    return blocks, contents, block


def _write(
    image: bytearray,
    entries: Sequence[Entry],
    forms: Sequence[_Form],
    positions: Sequence[int],
    blocks: Sequence[int],
) -> int:
    """Write all inodes, directories and link targets to their places; return the number of inodes."""
    pack_into, plain, regular = fmt.INODE.pack_into, fmt.FORMAT_PLAIN, stat.S_IFREG
    number = 0
    for entry, form, position, block in zip(entries, forms, positions, blocks, strict=True):
        seconds, nanoseconds = divmod(entry.mtime_ns, 1_000_000_000)
        if form is None:
            number += 1
            pack_into(
                image, position,
                plain, 0, regular | entry.mode, 0, entry.size, block, number,
                entry.uid, entry.gid, seconds, nanoseconds, 1,
            )  # fmt: skip
            continue
        if isinstance(form, _Name):
            if form.target:
                fmt.add_link(image, position)
            continue
        number += 1
        area, data, links = form.area, entry.target, 1
        if isinstance(form, _Directory):
            data, links = _directory_data(form, positions), form.links
        pack_into(
            image, position,
            fmt.FORMAT_INLINE if form.inline else plain, fmt.xattr_count(len(area)), form.mode, 0,
            len(data) or entry.size, form.block or block, number,
            entry.uid, entry.gid, seconds, nanoseconds, links,
        )  # fmt: skip
        position += fmt.INODE.size
        if area:
            image[position : position + len(area)] = area
            position += len(area)
        if data:
            inlined = len(data) % fmt.BLOCK if form.inline else 0
            separate = len(data) - inlined
            image[position : position + inlined] = data[separate:]
            start = form.block * fmt.BLOCK
            image[start : start + separate] = data[:separate]
    return number


def _directory_data(directory: _Directory, positions: Sequence[int]) -> bytes:
    """Return the contents of a directory, whole blocks but for the last one."""
    names, types = directory.names, directory.types
    slot = fmt.SLOT
    nids = [positions[number] // slot for number in directory.numbers]
    if len(directory.cuts) == 1:
        return fmt.directory_block(names, nids, types)
    parts = []
    for start, stop in zip(directory.cuts, [*directory.cuts[1:], len(names)], strict=True):
        part = fmt.directory_block(names[start:stop], nids[start:stop], types[start:stop])
        parts.append(part if stop == len(names) else part.ljust(fmt.BLOCK, b"\0"))
    return b"".join(parts)
