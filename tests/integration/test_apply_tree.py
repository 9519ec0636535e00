"""The directory view on real file systems: what is replaced, kept, never followed, and how failures are told."""

import contextlib
import os
import stat
import subprocess

import pytest
from support import TreeBuilder, acl, snapshot_directory

from envkit.drivers import libc
from envkit.errors import EXIT_FAILURE
from envkit.image.directory import apply_tree
from envkit.image.errors import BrokenTree, CannotApply
from envkit.model.tree import Entry, Kind, Segment, Tree

pytestmark = pytest.mark.root


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "view"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


def apply(builder, directory):
    tree, chunks = builder.build()
    apply_tree(tree, chunks.__getitem__, str(directory))


def test_files_are_replaced_and_unlisted_ones_stay(directory):
    (directory / "d").mkdir(mode=0o700)
    (directory / "d/kept").write_text("kept")
    (directory / "d/changed").write_text("old")
    os.link(directory / "d/changed", directory / "other-name")
    builder = TreeBuilder()
    builder.directory(b"d", mode=0o2770, uid=5, gid=6)
    builder.file(b"d/changed", b"new", mode=0o4711, uid=7, gid=8)
    apply(builder, directory)
    assert (directory / "d/kept").read_text() == "kept"
    assert (directory / "d/changed").read_text() == "new"
    assert (directory / "other-name").read_text() == "old"
    found = snapshot_directory(directory)
    assert found[b"d"][1:4] == (0o2770, 5, 6)
    assert found[b"d/changed"][1:4] == (0o4711, 7, 8)
    assert found[b""].mtime_ns == found[b"d"].mtime_ns == 1_700_000_000_123_456_789


def test_kinds_may_change_in_every_direction(directory):
    kinds = ("directory", "file", "symlink", "fifo", "whiteout")
    for before in kinds:
        for after in kinds:
            name = f"{before}-{after}".encode()
            path = directory / os.fsdecode(name)
            match before:
                case "directory":
                    (path / "below/deeper").mkdir(parents=True)
                    (path / "below/file").touch()
                case "file":
                    path.touch()
                case "symlink":
                    path.symlink_to("nowhere")
                case "fifo":
                    os.mkfifo(path)
    builder = TreeBuilder()
    for before in kinds:
        for after in kinds:
            arguments = (b"target",) if after == "symlink" else ()
            getattr(builder, after)(f"{before}-{after}".encode(), *arguments)
    apply(builder, directory)
    found = {path.decode(): state.kind for path, state in snapshot_directory(directory).items() if path}
    assert found.pop("directory-directory/below") == found.pop("directory-directory/below/deeper") == "directory"
    assert found.pop("directory-directory/below/file") == "file"
    assert found == {f"{before}-{after}": after for before in kinds for after in kinds if after != "whiteout"}


def test_an_opaque_directory_loses_what_it_held_and_stays_the_same_directory(directory):
    (directory / "d/old/deep").mkdir(parents=True)
    (directory / "d/file").touch()
    before = (directory / "d").stat().st_ino
    builder = TreeBuilder()
    builder.directory(b"d", opaque=True)
    builder.file(b"d/new", b"x")
    apply(builder, directory)
    assert os.listdir(directory / "d") == ["new"]
    assert (directory / "d").stat().st_ino == before


def test_no_symlink_of_a_layer_below_is_ever_followed(directory, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    for name in ("as-directory", "as-opaque", "as-parent"):
        (directory / name).symlink_to(outside)
    (directory / "as-file").symlink_to(outside / "file")
    (directory / "deleted").symlink_to(outside / "file")
    builder = TreeBuilder()
    builder.directory(b"as-directory", mode=0o700)
    builder.directory(b"as-opaque", opaque=True)
    builder.file(b"as-parent/file", b"inside")
    builder.file(b"as-file", b"inside", xattrs=((b"user.a", b"1"),))
    builder.whiteout(b"deleted")
    apply(builder, directory)
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"file": "untouched"}
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755
    assert not (directory / "as-parent").is_symlink()
    assert (directory / "as-file").read_text() == "inside"
    assert os.listxattr(outside / "file") == []


def test_a_whiteout_deletes_a_directory_deeper_than_path_max(directory):
    deep = TreeBuilder()
    deep.file(b"/".join([b"a-directory"] * 900) + b"/file")
    apply(deep, directory)
    builder = TreeBuilder()
    builder.whiteout(b"a-directory")
    builder.whiteout(b"never-there")
    apply(builder, directory)
    assert os.listdir(directory) == []


def test_attributes_of_the_layer_below_and_inherited_lists_do_not_stay(directory):
    default = acl(0o700, users=[(9, 7)])
    below = TreeBuilder()
    xattrs = ((b"system.posix_acl_access", acl(0o750, users=[(9, 5)])), (b"system.posix_acl_default", default))
    below.directory(b"d", mode=0o750, xattrs=(*xattrs, (b"user.old", b"1")))
    apply(below, directory)
    above = TreeBuilder()
    above.directory(b"d", mode=0o705, xattrs=((b"system.posix_acl_default", default), (b"user.new", b"2")))
    above.file(b"d/file", mode=0o604)
    above.directory(b"d/plain", mode=0o711)
    above.fifo(b"d/fifo", mode=0o622)
    apply(above, directory)
    found = snapshot_directory(directory)
    assert found[b"d"].xattrs == ((b"system.posix_acl_default", default), (b"user.new", b"2"))
    assert [found[path].xattrs for path in (b"d/file", b"d/plain", b"d/fifo")] == [(), (), ()]
    assert [found[path].mode for path in (b"d", b"d/file", b"d/plain", b"d/fifo")] == [0o705, 0o604, 0o711, 0o622]


def test_holes_stay_holes(directory):
    builder = TreeBuilder()
    builder.file(b"sparse", [(1 << 20, b"x" * 4096), (100 << 20, b"y")], size=1 << 30)
    apply(builder, directory)
    status = (directory / "sparse").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks <= 64
    with open(directory / "sparse", "rb") as file:
        assert os.pread(file.fileno(), 3, (100 << 20) - 1) == b"\0y\0"


def test_neighbours_that_share_a_chunk_read_it_once(directory):
    builder = TreeBuilder()
    for number in range(50):
        builder.file(b"%02d" % number, b"content %d" % number)
    tree, chunks = builder.build()
    asked = []
    apply_tree(tree, lambda number: asked.append(number) or chunks[number], str(directory))
    assert asked == [0]


def test_a_chunk_shorter_than_the_tree_says_is_never_written_as_zeros(directory):
    builder = TreeBuilder()
    builder.file(b"file", b"content")
    tree, _ = builder.build()
    with pytest.raises(BrokenTree, match="tree: entry /file has content in a chunk that is shorter than the tree says"):
        apply_tree(tree, lambda _: b"cont", str(directory))


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([Entry(b"../escape", Kind.FILE)], "/../escape is in a directory that the tree does not have"),
        ([Entry(b"..", Kind.DIRECTORY), Entry(b"../escape", Kind.FILE)], "/.. has an impossible path"),
        ([Entry(b"a\0", Kind.FILE)], "/a\\x00 has an impossible path"),
        ([Entry(b"l", Kind.HARDLINK, target=b"present")], "/l links to something that does not come before it"),
        ([Entry(b"f", Kind.FILE, size=4, segments=(Segment(0, 5, 0, 0),))], "/f has content outside its size"),
        (
            [Entry(b"f", Kind.FILE, xattrs=((b"trusted.x", b""),))],
            "/f has an extended attribute that layers may not carry",
        ),
    ],
)
def test_a_broken_tree_is_refused_and_nothing_outside_is_touched(directory, tmp_path, entries, problem):
    (directory / "present").touch()
    tree = Tree(1, [Entry(b"", Kind.DIRECTORY, mode=0o755), *entries], [])
    with pytest.raises(BrokenTree) as caught:
        apply_tree(tree, lambda _: b"", str(directory))
    assert caught.value.brief == f"tree: entry {problem}"
    assert os.listdir(tmp_path) == ["view"]


def test_a_full_file_system_is_told_with_the_entry(tmp_path):
    target = tmp_path / "small"
    target.mkdir()
    libc.mount("small", str(target), "tmpfs", 0, "size=64k")
    try:
        builder = TreeBuilder(chunk_size=1 << 20)
        builder.file(b"big", bytes(range(256)) * 1024)
        with pytest.raises(CannotApply) as caught:
            apply(builder, target)
        assert caught.value.brief == f"cannot write /big of a layer to {target}: No space left on device"
        assert caught.value.exit_code == EXIT_FAILURE
    finally:
        libc.umount(str(target))


def test_a_directory_that_is_a_symlink_or_missing_is_refused(directory, tmp_path):
    (tmp_path / "link").symlink_to(directory)
    for name, reason in (("link", "Not a directory"), ("missing", "No such file or directory")):
        with pytest.raises(CannotApply) as caught:
            apply(TreeBuilder(), tmp_path / name)
        assert caught.value.brief == f"cannot write / of a layer to {tmp_path / name}: {reason}"


def test_no_descriptor_is_left_open(directory):
    builder = TreeBuilder()
    builder.directory(b"a/b", opaque=True)
    builder.file(b"a/b/f", b"x")
    builder.fifo(b"a/p")
    builder.hardlink(b"z", b"a/b/f")
    builder.whiteout(b"y")
    before = len(os.listdir("/proc/self/fd"))
    apply(builder, directory)
    tree = Tree(1, [Entry(b"", Kind.DIRECTORY), Entry(b"x/y", Kind.FILE)], [])
    with contextlib.suppress(BrokenTree):
        apply_tree(tree, lambda _: b"", str(directory))
    assert len(os.listdir("/proc/self/fd")) == before
