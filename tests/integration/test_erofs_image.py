"""EROFS images against the kernel, against fsck.erofs, and against the directory view of the same trees."""

import contextlib
import errno
import os
import subprocess

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import TreeBuilder, acl, capability, expected_states, snapshot_directory, write_image
from tree_strategies import hostile_trees, trees

from envkit.drivers import libc
from envkit.drivers.mount import mount_image
from envkit.image.directory import apply_tree
from envkit.image.erofs import build
from envkit.image.errors import BrokenTree, ErofsLimit
from envkit.model.tree import MAX_DEPTH, MAX_MTIME_SECONDS, check_tree

pytestmark = pytest.mark.root

_PROPERTY = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


@contextlib.contextmanager
def mounted(image, target):
    """Mount an image file as envkit does: without a loop device where the kernel can (6.12)."""
    os.makedirs(target, exist_ok=True)
    mount_image(str(image), str(target))
    try:
        yield str(target)
    finally:
        libc.umount(str(target))


@contextlib.contextmanager
def overlaid(target, *layers):
    """Mount an overlay of directories, the uppermost first."""
    os.makedirs(target, exist_ok=True)
    libc.mount("overlay", str(target), "overlay", libc.MS_RDONLY, "xino=on,lowerdir=" + ":".join(map(str, layers)))
    try:
        yield str(target)
    finally:
        libc.umount(str(target))


@contextlib.contextmanager
def fresh_directory(path):
    """Make a directory, and delete it even where its paths are too long for the kernel."""
    os.mkdir(path)
    try:
        yield str(path)
    finally:
        subprocess.run(["rm", "-rf", os.fspath(path)], check=True)


def image_file(tree, chunks, path):
    """Build a tree's image, write it, and have fsck.erofs check it."""
    write_image(build(tree), chunks, path)
    # fsck.erofs recurses into directories, and dies of a full stack on deep ones, those of mkfs.erofs included.
    command = ["prlimit", "--stack=unlimited", "fsck.erofs", os.fspath(path)]
    result = subprocess.run(command, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    return path


def without_whiteouts(states):
    return {path: state for path, state in states.items() if state.kind != "whiteout"}


@settings(_PROPERTY, max_examples=40)
@given(case=trees())
def test_any_tree_looks_the_same_as_image_and_as_directory(tmp_path, case):
    tree, chunks = case
    check_tree(tree)
    expected = expected_states(tree, chunks)
    with mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt:
        assert snapshot_directory(mnt) == expected
    with fresh_directory(tmp_path / "directory") as directory:
        apply_tree(tree, chunks.__getitem__, directory)
        assert snapshot_directory(directory) == expected


@settings(_PROPERTY, max_examples=40)
@given(data=st.data())
def test_two_layers_look_the_same_as_overlay_and_applied_one_after_the_other(tmp_path, data):
    lower, lower_chunks = data.draw(trees())
    upper, upper_chunks = data.draw(trees(beneath=lower))
    check_tree(upper)
    with contextlib.ExitStack() as stack:
        below = stack.enter_context(mounted(image_file(lower, lower_chunks, tmp_path / "lower"), tmp_path / "l"))
        above = stack.enter_context(mounted(image_file(upper, upper_chunks, tmp_path / "upper"), tmp_path / "u"))
        seen = snapshot_directory(stack.enter_context(overlaid(tmp_path / "merged", above, below)))
    with fresh_directory(tmp_path / "directory") as directory:
        apply_tree(lower, lower_chunks.__getitem__, directory)
        apply_tree(upper, upper_chunks.__getitem__, directory)
        assert snapshot_directory(directory) == seen


@settings(_PROPERTY, max_examples=40)
@given(case=hostile_trees())
def test_a_hostile_tree_is_refused_or_gives_a_sound_image(tmp_path, case):
    tree, chunks = case
    try:
        image_file(tree, chunks, tmp_path / "image")
    except (BrokenTree, ErofsLimit):
        return
    with mounted(tmp_path / "image", tmp_path / "mnt") as mnt:
        for directory, _, names, descriptor in os.fwalk(mnt):
            for name in names:
                path = os.path.join(directory, name)
                os.listxattr(path, follow_symlinks=False)
                if os.path.islink(path):
                    assert os.readlink(name, dir_fd=descriptor)


def test_a_directory_of_5000_names_finds_each_of_them_and_no_other(tmp_path):
    builder = TreeBuilder()
    names = {b"%x" % (number * 2_654_435_761 % (1 << 32)) * (1 + number % 20) for number in range(5000)}
    names |= {b"-", b"!", b".-", b"...", b"\xff", b"\xff" * 255, b"x\n"}
    for name in names:
        builder.file(b"many/" + name)
    tree, chunks = builder.build()
    with mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt:
        many = os.fsencode(mnt) + b"/many"
        assert set(os.listdir(many)) == names
        assert all(os.path.exists(many + b"/" + name) for name in names)
        absent = {name[:-1] + b"g" for name in names} - names | {
            name + b"0" for name in names if len(name) < 255
        } - names
        assert not any(os.path.exists(many + b"/" + name) for name in absent)
        assert os.stat(many).st_nlink == 2


@pytest.mark.parametrize("count", [1, 60, 100, 1000])
def test_a_root_directory_of_any_size_is_found(tmp_path, count):
    builder = TreeBuilder()
    builder.directory(b"", mode=0o711, xattrs=((b"user.a", b"1" * 700),))
    for number in range(count):
        builder.file(b"file-%06d" % number, b"%d" % number)
    tree, chunks = builder.build()
    with mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt:
        assert snapshot_directory(mnt) == expected_states(tree, chunks)


def test_an_inode_at_the_very_end_of_a_block_passes_the_check(tmp_path):
    builder = TreeBuilder()
    for number in range(36):
        builder.fifo(b"%03d" % number)
    tree, chunks = builder.build()
    metadata = build(tree).metadata
    assert any(metadata[4032:4096])
    assert not any(metadata[4096:])
    image_file(tree, chunks, tmp_path / "image")


def test_the_last_time_of_the_format_is_shown(tmp_path):
    builder = TreeBuilder(mtime_ns=(MAX_MTIME_SECONDS + 1) * 10**9 - 1)
    builder.symlink(b"link", b"x")
    tree, chunks = builder.build()
    check_tree(tree)
    with mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt:
        assert snapshot_directory(mnt) == expected_states(tree, chunks)


def test_a_path_deeper_than_path_max_and_all_in_it_are_there(tmp_path):
    builder = TreeBuilder()
    path = b"/".join([b"dir"] * (MAX_DEPTH - 1)) + b"/end"
    builder.file(path, b"found")
    tree, chunks = builder.build()
    check_tree(tree)
    expected = expected_states(tree, chunks)
    with mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt:
        assert snapshot_directory(mnt) == expected
    with fresh_directory(tmp_path / "directory") as directory:
        apply_tree(tree, chunks.__getitem__, directory)
        assert snapshot_directory(directory) == expected


def test_a_sparse_file_beyond_4_gib_has_its_content_at_the_right_place(tmp_path):
    size, middle = (5 << 30) + 3, (1 << 32) - 2
    builder = TreeBuilder()
    builder.file(b"huge", [(0, b"start"), (middle, b"across"), (size - 3, b"end")], size=size)
    builder.file(b"next", b"neighbour")
    tree, chunks = builder.build()
    write_image(build(tree), chunks, tmp_path / "image")
    assert os.stat(tmp_path / "image").st_blocks < 100
    with (
        fresh_directory(tmp_path / "directory") as directory,
        mounted(tmp_path / "image", tmp_path / "mnt") as mnt,
    ):
        apply_tree(tree, chunks.__getitem__, directory)
        assert os.stat(f"{directory}/huge").st_blocks < 100
        for view in (mnt, directory):
            assert os.stat(f"{view}/huge").st_size == size
            with open(f"{view}/huge", "rb") as file:
                ranges = ((0, 8), (middle - 3, 12), (size - 5, 8))
                found = [os.pread(file.fileno(), length, at) for at, length in ranges]
            assert found == [b"start\0\0\0", b"\0\0\0across\0\0\0", b"\0\0end"]
        with open(f"{mnt}/next", "rb") as file:
            assert file.read() == b"neighbour"


def test_hard_links_share_one_inode_with_the_right_count(tmp_path):
    builder = TreeBuilder()
    builder.file(b"a", b"shared", mode=0o4755)
    builder.symlink(b"s", b"a")
    builder.hardlink(b"dir/b", b"a")
    builder.hardlink(b"dir/c", b"a")
    builder.hardlink(b"t", b"s")
    tree, chunks = builder.build()
    with mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt:
        links = [os.lstat(f"{mnt}/{name}") for name in ("a", "dir/b", "dir/c")]
        assert {(link.st_ino, link.st_nlink, link.st_mode & 0o7777) for link in links} == {(links[0].st_ino, 3, 0o4755)}
        assert os.lstat(f"{mnt}/s").st_ino == os.lstat(f"{mnt}/t").st_ino != links[0].st_ino
        assert os.stat(mnt).st_nlink == 3
        assert os.stat(f"{mnt}/dir").st_nlink == 2


@pytest.mark.parametrize("length", [1, 59, 3967, 3968, 3969, 4031, 4032, 4033, 4095])
def test_link_targets_of_any_length_are_read_back(tmp_path, length):
    builder = TreeBuilder()
    for number in range(3):
        builder.symlink(b"%d" % number, b"t" * length)
        builder.file(b"%d.file" % number, b"%d" % number)
    tree, chunks = builder.build()
    with mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt:
        assert snapshot_directory(mnt) == expected_states(tree, chunks)


def test_a_symlink_shows_mode_0777_whatever_the_tree_says(tmp_path):
    builder = TreeBuilder()
    builder.symlink(b"link", b"target", mode=0)
    tree, chunks = builder.build()
    with (
        fresh_directory(tmp_path / "directory") as directory,
        mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt,
    ):
        apply_tree(tree, chunks.__getitem__, directory)
        assert snapshot_directory(mnt) == snapshot_directory(directory)


def test_large_attributes_across_blocks_are_read_back(tmp_path):
    builder = TreeBuilder()
    large = tuple((b"user.%d" % number, bytes([number]) * 65_000) for number in range(4))
    builder.file(b"before", xattrs=((b"user.a", b"1" * 3900),))
    builder.file(b"large", b"content", xattrs=large)
    builder.directory(b"large.directory", xattrs=large)
    builder.file(b"large.directory/file")
    builder.symlink(b"link", b"l" * 4000, xattrs=((b"security.capability", capability()),))
    tree, chunks = builder.build()
    check_tree(tree)
    with mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt:
        assert snapshot_directory(mnt) == expected_states(tree, chunks)


def test_access_control_lists_and_capabilities_mean_what_they_did(tmp_path):
    builder = TreeBuilder()
    builder.file(b"file", mode=0o640, xattrs=((b"system.posix_acl_access", acl(0o640, users=[(1234, 6)])),))
    default = acl(0o750, groups=[(77, 5)])
    builder.directory(b"dir", mode=0o700, xattrs=((b"system.posix_acl_default", default),))
    builder.file(b"ping", mode=0o755, xattrs=((b"security.capability", capability(1 << 13)),))
    tree, chunks = builder.build()
    with (
        fresh_directory(tmp_path / "directory") as directory,
        mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt,
    ):
        apply_tree(tree, chunks.__getitem__, directory)
        for view in (mnt, directory):
            shown = subprocess.run(["getfacl", "-cpnE", "file", "dir"], cwd=view, capture_output=True, check=True)
            assert shown.stdout.decode().split() == [
                *("user::rw-", "user:1234:rw-", "group::r--", "mask::r--", "other::---"),
                *("user::rwx", "group::---", "other::---", "default:user::rwx", "default:group::r-x"),
                *("default:group:77:r-x", "default:mask::r-x", "default:other::---"),
            ]
            assert os.getxattr(f"{view}/ping", "security.capability") == capability(1 << 13)


def test_an_access_control_list_grants_access_on_the_image(tmp_path):
    builder = TreeBuilder()
    builder.file(b"for-1234", b"x", mode=0o640, xattrs=((b"system.posix_acl_access", acl(0o640, users=[(1234, 4)])),))
    tree, chunks = builder.build()
    with mounted(image_file(tree, chunks, tmp_path / "image"), tmp_path / "mnt") as mnt:
        descriptor = os.open(mnt, os.O_RDONLY)
        try:
            for uid, readable in ((1234, True), (1235, False)):
                child = os.fork()
                if not child:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                    try:
                        os.close(os.open("for-1234", os.O_RDONLY, dir_fd=descriptor))
                    except PermissionError:
                        os._exit(1)
                    os._exit(0)
                assert (os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0) is readable
        finally:
            os.close(descriptor)


def test_overlayfs_obeys_whiteouts_and_opaque_directories_of_images(tmp_path):
    lower = TreeBuilder()
    for path in (b"kept", b"gone", b"opaque/old", b"merged/old", b"gone.dir/file"):
        lower.file(path, b"lower")
    upper = TreeBuilder()
    upper.whiteout(b"gone")
    upper.whiteout(b"gone.dir")
    upper.directory(b"opaque", opaque=True)
    upper.file(b"opaque/new", b"upper")
    upper.file(b"merged/new", b"upper")
    with contextlib.ExitStack() as stack:
        above, below = (
            stack.enter_context(mounted(image_file(*builder.build(), tmp_path / name), tmp_path / f"{name}.mnt"))
            for builder, name in ((upper, "upper"), (lower, "lower"))
        )
        assert os.lstat(f"{above}/gone").st_rdev == 0
        assert os.getxattr(f"{above}/opaque", "trusted.overlay.opaque") == b"y"
        merged = stack.enter_context(overlaid(tmp_path / "merged", above, below))
        assert set(snapshot_directory(merged)) == {
            *(b"", b"kept", b"opaque", b"opaque/new", b"merged", b"merged/old", b"merged/new"),
        }
        # One device for all files: two images with the same UUID would have switched `xino` off.
        assert {os.stat(f"{merged}/{name}").st_dev for name in ("", "kept", "opaque/new")} == {os.stat(merged).st_dev}
        with pytest.raises(FileNotFoundError) as caught:
            os.stat(f"{merged}/gone")
        assert caught.value.errno == errno.ENOENT


def test_overlayfs_does_not_look_whether_the_root_of_a_layer_is_opaque(tmp_path):
    """The reason why trees with such a root are refused."""
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    os.setxattr(tmp_path / "upper", "trusted.overlay.opaque", b"y")
    with overlaid(tmp_path / "merged", tmp_path / "upper", tmp_path / "lower") as merged:
        assert sorted(os.listdir(merged)) == ["lower", "upper"]
