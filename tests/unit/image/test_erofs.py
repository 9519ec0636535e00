import itertools
import re
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace
from support import TreeBuilder, acl
from tree_strategies import hostile_trees, trees

from envkit.errors import EXIT_DAMAGED, EXIT_FAILURE, Damaged
from envkit.image import erofs_format as fmt
from envkit.image.erofs import build
from envkit.image.errors import BrokenTree, ErofsLimit
from envkit.model.tree import Chunk, Entry, Kind, Segment, Tree, check_frame, check_tree

ROOT = Entry(b"", Kind.DIRECTORY, mode=0o755)
CHUNK = Chunk(bytes(32), 100, bytes(32), 0, 100)
MTIME = 1_700_000_000 * 10**9


def tree_of(*entries, chunks=()):
    return Tree(1, [ROOT, *entries], list(chunks))


def file_entry(path, *segments, size):
    return Entry(path, Kind.FILE, mode=0o644, size=size, segments=segments)


def content(image, chunks, offset, length):
    """What a reader of the image finds in a range of its data region."""
    data = bytearray(length)
    for extent in image.blocks.lookup(offset, length):
        start = extent.image_offset - offset
        data[start : start + extent.length] = chunks[extent.chunk][extent.offset : extent.offset + extent.length]
    return bytes(data)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees())
def test_any_valid_tree_gives_an_image_of_whole_blocks_whose_map_lies_behind_the_metadata(case):
    tree, chunks = case
    check_tree(tree)
    image = build(tree)
    assert len(image.metadata) % fmt.BLOCK == image.size % fmt.BLOCK == 0
    assert image.blocks.end <= image.size
    assert all(extent.image_offset >= len(image.metadata) for extent in image.blocks)
    assert image.blocks.covered == sum(len(chunk) for chunk in chunks)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees())
def test_the_same_tree_always_gives_the_same_image(case):
    tree, _ = case
    copy = Tree(tree.format, [replace(entry) for entry in tree.entries], list(tree.chunks))
    assert build(tree) == build(copy)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hostile_trees())
def test_a_hostile_tree_is_refused_or_gives_an_image_within_its_bounds(case):
    tree, _ = case
    try:
        image = build(tree)
    except (BrokenTree, ErofsLimit) as error:
        assert "\n" not in error.brief
        return
    assert image.blocks.end <= image.size
    assert len(image.metadata) <= image.size <= fmt.MAX_BLOCKS * fmt.BLOCK


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(hostile_trees())
def test_a_tree_is_refused_exactly_if_it_breaks_a_rule_of_the_format(case):
    tree, _ = case
    assert _is_refused(tree) == _breaks_a_rule(tree)


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(b"b", Kind.DIRECTORY), Entry(b"a", Kind.DIRECTORY)],
        [Entry(b"d", Kind.DIRECTORY), Entry(b"d-", Kind.FILE), Entry(b"d/a", Kind.FILE)],
        [Entry(b"d", Kind.DIRECTORY), Entry(b"e", Kind.DIRECTORY), Entry(b"e/a", Kind.FILE), Entry(b"d/a", Kind.FILE)],
        [Entry(b"d", Kind.DIRECTORY, opaque=True), Entry(b"d/w", Kind.WHITEOUT), Entry(b"d/w", Kind.FILE)],
        [Entry(b"w", Kind.WHITEOUT, mode=1)],
        [Entry(b"w", Kind.WHITEOUT, mtime_ns=1)],
        [Entry(b"a", Kind.FILE), Entry(b"b", Kind.HARDLINK, uid=1, target=b"a")],
        [Entry(b"a", Kind.FILE), Entry(b"b", Kind.HARDLINK, gid=1, target=b"a")],
        [Entry(b"a", Kind.FILE, segments=(Segment(0, 1, 0, 0),))],
        [Entry(b"/".join([b"d"] * depth), Kind.DIRECTORY) for depth in range(1, 1002)],
        [Entry(b"/".join([b"d" * 255] * depth), Kind.DIRECTORY) for depth in range(1, 18)],
    ],
)
def test_rules_that_an_image_could_do_without_hold_too(entries):
    tree = tree_of(*entries, chunks=[CHUNK])
    assert _breaks_a_rule(tree)
    assert _is_refused(tree)
    assert not _is_refused(tree_of(*entries[:-1], chunks=[CHUNK]))


def _breaks_a_rule(tree):
    try:
        check_tree(tree)
    except Damaged:
        return True
    return False


def _is_refused(tree):
    try:
        check_frame(tree)
        build(tree)
    except Damaged:
        return True
    except ErofsLimit:
        return _breaks_a_rule(tree)
    return False


@pytest.mark.parametrize("target", [1, 33])
def test_no_inode_lies_across_the_end_of_a_block(target):
    builder = TreeBuilder()
    builder.symlink(b"-", b"t" * target)
    mark = 0x6A5B4C3D
    for number in range(200):
        builder.fifo(b"%03d" % number, uid=mark) if number % 7 == 0 else builder.file(b"%03d" % number, uid=mark)
    metadata = build(builder.build()[0]).metadata
    found = [place.start() - 24 for place in re.finditer(re.escape(mark.to_bytes(4, "little")), metadata)]
    assert len(found) == 200
    assert all(position % fmt.SLOT == 0 for position in found)
    assert max(position % fmt.BLOCK for position in found) <= fmt.BLOCK - fmt.INODE.size
    assert {position // fmt.BLOCK for position in found} >= {1, 2, 3}


def test_files_begin_at_blocks_and_their_holes_are_not_covered():
    builder = TreeBuilder(chunk_size=10)
    builder.file(b"a", b"first file, longer than a chunk")
    builder.file(b"b", [(5, b"middle"), (9000, b"end")], size=12_289)
    builder.file(b"c", b"last")
    tree, chunks = builder.build()
    image = build(tree)
    start = len(image.metadata)
    assert image.size == start + (1 + 4 + 1) * fmt.BLOCK
    assert content(image, chunks, start, 31) == b"first file, longer than a chunk"
    assert content(image, chunks, start + 4096, 12_289) == (bytes(5) + b"middle").ljust(9000, b"\0") + b"end" + bytes(
        3286
    )
    assert content(image, chunks, start + 5 * 4096, 4) == b"last"
    assert list(image.blocks.lookup(start + 4096 + 11, 8989)) == []


def test_the_superblock_has_the_magic_the_counts_and_no_time():
    builder = TreeBuilder()
    builder.file(b"a", b"x")
    builder.hardlink(b"b", b"a")
    image = build(builder.build()[0])
    magic, checksum, compat, bits, _, root, inodes, time, nanoseconds, blocks = struct.unpack_from(
        "<IIIBBHQQII", image.metadata, 1024
    )
    assert (magic, checksum, compat, bits, root, inodes) == (0xE0F5E1E2, 0, 2, 12, 36, 2)
    assert (time, nanoseconds, blocks * 4096) == (0, 0, image.size)


def test_images_have_different_uuids_even_if_only_contents_differ():
    uuids = set()
    for text in (b"one", b"two"):
        builder = TreeBuilder()
        builder.file(b"a", text)
        metadata = build(builder.build()[0]).metadata
        uuids.add(metadata[fmt.UUID_OFFSET : fmt.UUID_OFFSET + 16])
    assert len(uuids) == 2
    assert bytes(16) not in uuids


def test_the_smallest_tree_is_one_block():
    assert build(tree_of()).size == fmt.BLOCK


def test_more_attributes_than_an_inode_can_have_are_refused():
    xattrs = tuple((b"user.%02d" % number, b"v" * 60_000) for number in range(5))
    with pytest.raises(ErofsLimit) as caught:
        build(tree_of(Entry(b"d", Kind.DIRECTORY), Entry(b"d/f", Kind.FILE, xattrs=xattrs)))
    assert caught.value.brief == (
        "no EROFS image can hold this layer: /d/f has more than 262148 bytes of extended attributes"
    )
    assert caught.value.resolution == "shrink or remove it in a session and save again"
    assert caught.value.exit_code == EXIT_FAILURE


def test_an_attribute_of_64_kib_is_refused():
    build(tree_of(Entry(b"f", Kind.FILE, xattrs=((b"user.a", bytes(65_535)),))))
    with pytest.raises(BrokenTree, match="/f has an extended attribute that layers may not carry"):
        build(tree_of(Entry(b"f", Kind.FILE, xattrs=((b"user.a", bytes(65_536)),))))


def test_more_than_16_tib_are_refused():
    sparse = [file_entry(b"%d" % number, size=1 << 43) for number in range(2)]
    assert build(tree_of(sparse[0])).size > 1 << 43
    with pytest.raises(ErofsLimit, match="/1 makes it larger than 16 TiB"):
        build(tree_of(*sparse))


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([Entry(b"a/b", Kind.FILE)], "/a/b is in a directory that the tree does not have"),
        ([Entry(b"/a", Kind.FILE)], "//a is in a directory that the tree does not have"),
        ([Entry(b"a", Kind.FILE), Entry(b"a/b", Kind.FILE)], "/a/b is in a directory that the tree does not have"),
        ([Entry(b"..", Kind.FILE)], "/.. has an impossible path"),
        ([Entry(b"", Kind.FILE)], "/ has an impossible path"),
        ([Entry(b"a\0b", Kind.FILE)], "/a\\x00b has an impossible path"),
        ([Entry(b"x" * 256, Kind.FILE)], "has an impossible path"),
        ([Entry(b"b", Kind.FILE), Entry(b"a", Kind.FILE)], "/a is out of order or twice there"),
        ([Entry(b"a", Kind.FILE), Entry(b"a", Kind.FILE)], "/a is out of order or twice there"),
        ([Entry(b"a", Kind.HARDLINK, target=b"b")], "/a links to something that does not come before it"),
        (
            [Entry(b"a", Kind.DIRECTORY), Entry(b"b", Kind.HARDLINK, target=b"a")],
            "/b links to something that does not come before it",
        ),
        ([Entry(b"a", Kind.FILE, mode=0o10_000)], "/a has an impossible mode or owner"),
        ([Entry(b"a", Kind.FILE, uid=(1 << 32) - 1)], "/a has an impossible mode or owner"),
        ([Entry(b"a", Kind.FILE, mtime_ns=-1)], "/a has a time outside 1970 to 2514"),
        ([Entry(b"a", Kind.SYMLINK)], "/a has a link target that does not fit its kind"),
        ([Entry(b"a", Kind.FIFO, target=b"t" * 5000)], "/a has a link target that does not fit its kind"),
        ([Entry(b"a", Kind.SYMLINK, target=b"t\0")], "/a has an impossible link target"),
        ([Entry(b"a", Kind.SYMLINK, target=b"t" * 4096)], "/a has an impossible link target"),
        ([Entry(b"a", Kind.FIFO, size=1)], "/a has content but is no file"),
        ([Entry(b"a", Kind.FILE, opaque=True)], "/a is opaque but no directory"),
        ([file_entry(b"a", Segment(0, 5, 0, 0), size=4)], "/a has content outside its size"),
        ([file_entry(b"a", Segment(0, 5, 0, 0), Segment(4, 1, 0, 0), size=9)], "/a has content outside its size"),
        ([file_entry(b"a", Segment(0, 5, 1, 0), size=9)], "/a names a chunk that the tree does not have"),
        ([file_entry(b"a", Segment(0, 5, -1, 0), size=9)], "/a names a chunk that the tree does not have"),
        ([file_entry(b"a", Segment(0, 5, 0, 96), size=9)], "/a reads beyond the end of a chunk"),
        ([file_entry(b"a", Segment(0, 5, 0, -1), size=9)], "/a reads beyond the end of a chunk"),
    ],
)
def test_what_would_make_an_invalid_image_is_refused(entries, problem):
    with pytest.raises(BrokenTree) as caught:
        build(tree_of(*entries, chunks=[CHUNK]))
    assert caught.value.brief.startswith("tree: entry /")
    assert caught.value.brief.endswith(problem)
    assert caught.value.exit_code == EXIT_DAMAGED


def test_a_chunk_larger_than_any_can_be_is_not_believed():
    chunk = replace(CHUNK, size=1 << 40)
    with pytest.raises(BrokenTree, match="/a reads beyond the end of a chunk"):
        build(tree_of(file_entry(b"a", Segment(0, 5, 0, 1 << 33), size=9), chunks=[chunk]))


@pytest.mark.parametrize("entries", [[], [Entry(b"a", Kind.DIRECTORY)], [Entry(b"", Kind.FILE)]])
def test_a_tree_without_a_root_directory_is_refused(entries):
    with pytest.raises(BrokenTree, match="tree: entry / is not the first one or no directory"):
        build(Tree(1, entries, []))


def test_an_opaque_root_is_refused_because_overlayfs_would_not_see_it():
    with pytest.raises(BrokenTree, match="tree: entry / is opaque, which only directories below it can be"):
        build(Tree(1, [replace(ROOT, opaque=True)], []))


def test_whiteouts_that_would_show_are_left_out():
    builder = TreeBuilder()
    builder.directory(b"opaque", opaque=True)
    builder.directory(b"opaque/below")
    shown = build(builder.build()[0])
    builder.whiteout(b"opaque/gone")
    builder.whiteout(b"opaque/below/gone")
    assert build(builder.build()[0]) == shown
    builder.whiteout(b"gone")
    assert b"gone" in build(builder.build()[0]).metadata


@pytest.mark.parametrize(
    ("kind", "xattr", "problem"),
    [
        (Kind.FILE, (b"trusted.overlay.opaque", b"y"), "has an extended attribute that layers may not carry"),
        (Kind.FILE, (b"user.overlay.opaque", b"y"), "has an extended attribute that layers may not carry"),
        (Kind.FILE, (b"user.\0", b"y"), "has an extended attribute that layers may not carry"),
        (Kind.SYMLINK, (b"user.a", b""), "has user attributes but is neither file nor directory"),
        (Kind.FIFO, (b"user.a", b""), "has user attributes but is neither file nor directory"),
        (Kind.WHITEOUT, (b"security.capability", b""), "has extended attributes but no inode"),
        (Kind.FILE, (b"security.capability", bytes(20)), "has malformed file capabilities"),
        (Kind.FILE, (b"security.capability", b"\1\0\0\3".ljust(20, b"\0")), "has malformed file capabilities"),
        (Kind.FILE, (b"security.capability", b"\1\0\0\3".ljust(24, b"\xff")), "has malformed file capabilities"),
        (
            Kind.SYMLINK,
            (b"system.posix_acl_access", acl(0o644)),
            "has an access control list that its kind cannot have",
        ),
        (Kind.FILE, (b"system.posix_acl_default", acl(0o644)), "has an access control list that its kind cannot have"),
        (Kind.FILE, (b"system.posix_acl_access", b""), "has a malformed access control list"),
        (Kind.FILE, (b"system.posix_acl_access", acl(0o644)[:4]), "has a malformed access control list"),
        (Kind.FILE, (b"system.posix_acl_access", acl(0o644) + b"\0"), "has a malformed access control list"),
        (Kind.FILE, (b"system.posix_acl_access", acl(0o644)[:-8]), "has a malformed access control list"),
        (Kind.FILE, (b"system.posix_acl_access", acl(0, users=[(1, 8)])), "has a malformed access control list"),
        (Kind.FILE, (b"system.posix_acl_access", acl(0, users=[(1 << 31, 7)])), "has a malformed access control list"),
    ],
)
def test_attributes_that_the_kernel_would_refuse_are_refused(kind, xattr, problem):
    target = b"t" if kind is Kind.SYMLINK else b""
    with pytest.raises(BrokenTree) as caught:
        build(tree_of(Entry(b"a", kind, target=target, xattrs=(xattr,))))
    assert caught.value.brief == f"tree: entry /a {problem}"


@pytest.mark.parametrize("count", [1, 100, 5000])
def test_directory_blocks_keep_the_order_of_names_and_hold_all_of_them(count):
    names = sorted(b"%d" % (number * 7919) * (1 + number % 30) for number in range(count))
    cuts, last = fmt.directory_cuts(names)
    edges = [*cuts, len(names)]
    blocks = [names[start:stop] for start, stop in itertools.pairwise(edges)]
    sizes = [len(fmt.directory_block(block, [0] * len(block), [1] * len(block))) for block in blocks]
    assert [name for block in blocks for name in block] == names
    assert all(0 < size <= fmt.BLOCK for size in sizes)
    assert sizes[-1] == last
    # No block has room for the first name of the next one.
    assert all(size + 12 + len(names[cut]) > fmt.BLOCK for size, cut in zip(sizes, cuts[1:], strict=False))
