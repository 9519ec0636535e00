"""apply(diff(base, new)) == new: what a session changes, on a real overlay, survives the way through a layer.

Both views of a layer are compared with the merged view of the session: the tree applied to a copy of the base, and
its EROFS image in a read-only overlay over the base. Comparing covers names, kinds, modes, owners, times to the
nanosecond, sizes, contents, link targets, extended attributes and hard links; holes where a view has them.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import struct
import tempfile

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from envkit.drivers import libc, mount
from envkit.image.directory import apply_tree
from envkit.image.erofs import build
from envkit.model.idmap import shifted
from envkit.model.tree import TREE_FORMAT, Chunk, Kind, Segment, Tree, check_tree
from envkit.overlay.scan import scan_upper
from tests.overlay_support import ext4_disk, overlay
from tests.support import acl, capability, snapshot_directory, write_image

pytestmark = pytest.mark.root

ACL_ACCESS, ACL_DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
TIME = 1_600_000_000_987_654_321
SHIFT = 100_000

DIRECTORIES = ["d", "d/e", "d/e/deep", "empty", "new"]
FILES = ["f", "d/x", "d/e/y", "d/e/deep/z", "h1", "d/h2", "sparse", "link", "fifo"]
PATHS = [*DIRECTORIES, *FILES, "n", "d/n", "d/e/n", "empty/n", "new/n", "new/new", "new/new/n"]


def make_base(root, shift):
    """Make a root file system with something of everything; always the same but for the owners."""
    for name in DIRECTORIES[:4]:
        os.mkdir(f"{root}/{name}")
    for name in ("f", "d/x", "d/e/y", "d/e/deep/z", "h1"):
        with open(f"{root}/{name}", "wb") as file:
            file.write(name.encode() * 3000)
    os.link(f"{root}/h1", f"{root}/d/h2")
    with open(f"{root}/sparse", "wb") as file:
        file.truncate(200_000)
        file.seek(70_000)
        file.write(b"in the middle")
    os.symlink("d/x", f"{root}/link")
    os.mkfifo(f"{root}/fifo")
    for name in (*DIRECTORIES[:4], *FILES, ""):
        os.chown(f"{root}/{name}", shift + 1, shift + 2, follow_symlinks=False)
    os.setxattr(f"{root}/d/x", "user.base", b"1")
    os.setxattr(f"{root}/d/e/y", "security.capability", capability(root=shift or None))
    os.setxattr(f"{root}/d/e", ACL_ACCESS, acl(0o755, users=[(shift + 9, 7)]))
    for name in (*FILES, *reversed(DIRECTORIES[:4]), ""):
        os.utime(f"{root}/{name}", ns=(TIME, TIME), follow_symlinks=False)


class Operations:
    """What people do in a session; those that cannot be done at a place do nothing."""

    def __init__(self, root, shift):
        self._root = root
        self._shift = shift

    def run(self, name, path, other, number):
        # EXDEV: the kernel does not rename directories of lower layers; mv(1) would copy and delete them.
        expected = (
            errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EXDEV, errno.EINVAL,
            errno.ENODATA, errno.EPERM, errno.ENXIO, errno.EOPNOTSUPP, errno.ELOOP, errno.EACCES,
        )  # fmt: skip
        try:
            getattr(self, name)(f"{self._root}/{path}", f"{self._root}/{other}", number)
        except OSError as error:
            if error.errno not in expected:
                raise
        for place in (path, other):
            with contextlib.suppress(OSError):
                if os.lstat(f"{self._root}/{place}").st_uid < self._shift:
                    os.chown(f"{self._root}/{place}", self._shift, self._shift, follow_symlinks=False)

    def _write(self, path, flags, data, offset=0):
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | flags, 0o640)
        try:
            os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def create(self, path, _, number):
        self._write(path, os.O_CREAT | os.O_EXCL, b"%d" % number * number)

    def write(self, path, _, number):
        self._write(path, 0, b"changed", number)

    def append(self, path, _, number):
        self._write(path, os.O_APPEND, b"+" * number)

    def truncate(self, path, _, number):
        os.truncate(path, number * 100)

    def write_far(self, path, _, number):
        self._write(path, os.O_CREAT, b"far", number * 40_000)

    def mkdir(self, path, _, number):
        os.mkdir(path, 0o700 | number)

    def rmdir(self, path, *_):
        os.rmdir(path)

    def unlink(self, path, *_):
        os.unlink(path)

    def rename(self, path, other, _):
        os.rename(path, other)

    def symlink(self, path, _, number):
        os.symlink("d/x" if number % 2 else "nowhere", path)

    def link(self, path, other, _):
        os.link(path, other, follow_symlinks=False)

    def chmod(self, path, _, number):
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            os.chmod(path, number << 5 | 0o400)  # up to 07740: setuid, setgid and sticky too

    def chown(self, path, _, number):
        os.chown(path, self._shift + number, self._shift + 65_535 - number, follow_symlinks=False)

    def set_attribute(self, path, _, number):
        os.setxattr(path, f"user.n{number % 3}", b"v" * number, follow_symlinks=False)

    def remove_attribute(self, path, *_):
        os.removexattr(path, "user.base", follow_symlinks=False)

    def set_capability(self, path, _, number):
        os.setxattr(path, "security.capability", capability(number, root=self._shift or None), follow_symlinks=False)

    def set_acl(self, path, _, number):
        value = acl(0o750, users=[(self._shift + number, 5)], groups=[(self._shift + 3, 1)])
        os.setxattr(path, ACL_DEFAULT if number % 4 == 0 else ACL_ACCESS, value, follow_symlinks=False)

    def mkfifo(self, path, *_):
        os.mkfifo(path, 0o644)

    def touch(self, path, _, number):
        os.utime(path, ns=(TIME, TIME + number * 1_000_000_007), follow_symlinks=False)

    def recreate(self, path, *_):
        self._clear(path)
        os.mkdir(path)

    def directory_to_file(self, path, _, number):
        self._clear(path)
        self.create(path, None, number)

    def file_to_directory(self, path, *_):
        os.unlink(path)
        os.mkdir(path)

    def _clear(self, path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)


NAMES = sorted(name for name in vars(Operations) if not name.startswith("_") and name != "run")
operations = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(PATHS), st.sampled_from(PATHS), st.integers(1, 63)),
    min_size=1,
    max_size=14,
)


@pytest.fixture(scope="module")
def disk():
    with ext4_disk() as directory:
        yield directory


@contextlib.contextmanager
def place(disk):
    root = tempfile.mkdtemp(dir=disk)
    try:
        yield root
    finally:
        shutil.rmtree(root)


def holes(root):
    """Return the extents that hold data, of every file, as far as the file system tells."""
    found = {}
    for directory, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(directory, name)
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            extents, end = [], 0
            with open(path, "rb") as file:
                while True:
                    try:
                        start = os.lseek(file.fileno(), end, os.SEEK_DATA)
                    except OSError:
                        break
                    end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                    extents.append((start, end))
            found[os.path.relpath(path, os.fsencode(root))] = extents
    return found


def unshifted(snapshot, shift):
    """Return a snapshot as the container sees it."""

    def value(name, data):
        if name == b"security.capability":
            # Through an idmapped mount, capabilities for the container's root are those without a root.
            return data if len(data) == 20 else b"\1\0\0\2" + data[4:20]
        if not name.startswith(b"system.posix_acl"):
            return data
        rows = [
            (tag, bits, number - shift if tag in (2, 8) else number)
            for tag, bits, number in struct.iter_unpack("<HHI", data[4:])
        ]
        return data[:4] + b"".join(struct.pack("<HHI", *row) for row in rows)

    return {
        path: state._replace(
            uid=state.uid - shift,
            gid=state.gid - shift,
            xattrs=tuple((name, value(name, data)) for name, data in state.xattrs),
        )
        for path, state in snapshot.items()
    }


def as_tree(scan):
    """Return the tree of a scan, each file's data in one chunk of its own, and the chunks."""
    entries, chunks = [], []
    for entry in scan.entries:
        if entry.kind is Kind.FILE:
            segments, data = [], b""
            for start, block in scan.open(entry):
                segments.append(Segment(start, len(block), len(chunks), len(data)))
                data += block
            if data:
                chunks.append(data)
            entry = msgspec.structs.replace(entry, segments=tuple(segments))
        entries.append(entry)
    table = [Chunk(hashlib.sha256(data).digest(), len(data), bytes(32), 0, len(data)) for data in chunks]
    tree = Tree(TREE_FORMAT, entries, table)
    check_tree(tree)
    return tree, chunks


def save(root, steps, shift):
    """Run operations in a session over the base; return its merged view, the holes in it, and the tree and chunks."""
    for name in ("base", "upper", "work", "merged"):
        os.mkdir(f"{root}/{name}")
    make_base(f"{root}/base", shift)
    os.chown(f"{root}/upper", shift, shift)
    with overlay(root, "merged", ["base"], upper="upper", work="work") as merged:
        session = Operations(merged, shift)
        for step in steps:
            session.run(*step)
        new = unshifted(snapshot_directory(merged), shift)
        data = holes(merged)
    with scan_upper(f"{root}/upper", shifted(shift)) as scan:
        return new, data, *as_tree(scan)


def applied(root, tree, chunks):
    """Return what the tree makes of a copy of the base, and its holes."""
    os.mkdir(f"{root}/copy")
    make_base(f"{root}/copy", 0)
    apply_tree(tree, chunks.__getitem__, f"{root}/copy")
    return snapshot_directory(f"{root}/copy"), holes(f"{root}/copy")


def mounted(root, tree, chunks):
    """Return the merged view of the tree's image over the base."""
    for name in ("layer", "view", "plain"):
        os.mkdir(f"{root}/{name}")
    make_base(f"{root}/plain", 0)
    write_image(build(tree), chunks, f"{root}/image")
    mount.mount_image(f"{root}/image", f"{root}/layer")
    try:
        with overlay(root, "view", ["layer", "plain"]) as view:
            return snapshot_directory(view)
    finally:
        libc.umount(f"{root}/layer")


@pytest.mark.parametrize("shift", [0, SHIFT])
def test_every_view_of_a_saved_layer_shows_what_the_session_showed(disk, shift):
    @settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
    @given(operations)
    @example(EVERYTHING)
    def check(steps):
        with place(disk) as root:
            new, data, tree, chunks = save(root, steps, shift)
            for entry in tree.entries:
                note(str(entry))
            copy, copied_data = applied(root, tree, chunks)
            assert copy == new
            assert copied_data == data
            assert mounted(root, tree, chunks) == new

    check()


EVERYTHING = [
    ("recreate", "d", "", 1),
    ("create", "d/n", "", 9),
    ("unlink", "f", "", 1),
    ("set_attribute", "sparse", "", 5),
    ("link", "sparse", "n", 1),
    ("touch", "link", "", 9),
    ("chown", "fifo", "", 9),
    ("set_acl", "empty", "", 7),
]


def without(kind):
    """Return a damaged form of entries, as a mistake in the scan would make it."""
    change = {
        "opaque": lambda entry: msgspec.structs.replace(entry, opaque=False),
        "attribute": lambda entry: msgspec.structs.replace(entry, xattrs=()),
        "owner": lambda entry: msgspec.structs.replace(entry, uid=0),
        "nanosecond": lambda entry: msgspec.structs.replace(entry, mtime_ns=entry.mtime_ns // 1000 * 1000),
        "whiteout": lambda entry: None if entry.kind is Kind.WHITEOUT else entry,
        "hard link": lambda entry: None if entry.kind is Kind.HARDLINK else entry,
    }[kind]
    return lambda entries: [changed for entry in entries if (changed := change(entry)) is not None]


@pytest.mark.parametrize("kind", ["opaque", "attribute", "owner", "nanosecond", "whiteout", "hard link"])
def test_a_scan_that_loses_something_would_be_noticed_in_both_views(disk, kind):
    with place(disk) as root:
        new, _, tree, chunks = save(root, EVERYTHING, 0)
        damaged = Tree(TREE_FORMAT, without(kind)(tree.entries), tree.chunks)
        assert applied(root, damaged, chunks)[0] != new
        assert mounted(root, damaged, chunks) != new


def test_a_scan_that_fills_holes_would_be_noticed(disk):
    with place(disk) as root:
        _, data, tree, chunks = save(root, EVERYTHING, 0)
        (number,) = (i for i, entry in enumerate(tree.entries) if entry.path == b"n")
        full = bytes(tree.entries[number].size)
        tree.entries[number] = msgspec.structs.replace(
            tree.entries[number], segments=(Segment(0, len(full), len(chunks), 0),)
        )
        tree.chunks.append(Chunk(hashlib.sha256(full).digest(), len(full), bytes(32), 0, len(full)))
        assert applied(root, tree, [*chunks, full])[1] != data
