"""Scanning directories that somebody hostile filled, and reading their files."""

import collections
import contextlib
import os
import resource
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time

import pytest

from envkit.drivers import libc
from envkit.drivers.files import remove_tree
from envkit.errors import EXIT_CONFLICT, EXIT_REFUSED, EnvkitError
from envkit.model.idmap import shifted
from envkit.model.tree import MAX_DEPTH, TREE_FORMAT, Kind, Tree, check_tree
from envkit.model.version import Finding
from envkit.overlay import walk
from envkit.overlay.changes import changed
from envkit.overlay.errors import (
    ChangedMeanwhile,
    EntryRefused,
    ForeignId,
    LimitExceeded,
    MissingPrivilege,
    MountInside,
    OverlayMark,
    PartOfOverlay,
    ScanFailed,
)
from envkit.overlay.extents import BLOCK, find_identity, open_extents
from envkit.overlay.scan import scan_directory, scan_upper
from envkit.overlay.walk import open_root
from tests.overlay_support import ext4_disk, mounted, overlay
from tests.support import acl

pytestmark = pytest.mark.root

IDS = shifted(0)


@pytest.fixture(scope="module")
def disk():
    with ext4_disk() as directory:
        yield directory


@pytest.fixture
def upper(disk):
    directory = tempfile.mkdtemp(dir=disk)
    yield directory
    remove_tree(directory)


def write(path, data=b"data"):
    with open(path, "wb") as file:
        file.write(data)


def whiteout(path):
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def scanned(directory, ids=IDS):
    """Return (path to entry, findings) of an upper, after checking that it makes a valid tree."""
    with scan_upper(directory, ids) as scan:
        check_tree(Tree(TREE_FORMAT, scan.entries, []))
        return {entry.path: entry for entry in scan.entries}, scan.findings


def contents(scan, path):
    (entry,) = (entry for entry in scan.entries if entry.path == path)
    return list(scan.open(entry))


@contextlib.contextmanager
def few_descriptors(count):
    """Let this process open only `count` descriptors more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def no_longer_than(seconds):
    """Interrupt a system call that blocks."""

    def interrupt(*_):
        raise TimeoutError(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- what is there ---------------------------------------------------------------------------------------------


def test_an_empty_upper_is_its_root_alone(upper):
    os.chmod(upper, 0o751)
    os.utime(upper, ns=(5, 1_234_567_890_123_456_789))
    entries, findings = scanned(upper)
    assert list(entries) == [b""]
    root = entries[b""]
    assert (root.kind, root.mode, root.mtime_ns, root.opaque) == (
        Kind.DIRECTORY,
        0o751,
        1_234_567_890_123_456_789,
        False,
    )
    assert findings == []


def test_entries_come_in_the_order_of_the_format(upper):
    for name in ("a", "a/b", "a.b"):
        os.mkdir(f"{upper}/{name}")
    for name in ("a/z", "a-", "a/b/c", "b"):
        write(f"{upper}/{name}")
    entries, _ = scanned(upper)
    assert list(entries) == [b"", b"a", b"a/b", b"a/b/c", b"a/z", b"a-", b"a.b", b"b"]


def test_names_are_bytes_of_any_kind(upper):
    names = [bytes(set(range(1, 256)) - {0x2F})[:254], b"\xff\xfe", "ü".encode(), b"a\nb", b"-rf", b"x" * 255]
    for name in names:
        write(os.fsencode(upper) + b"/" + name)
    entries, _ = scanned(upper)
    assert set(entries) == {b"", *names}


def test_ids_are_the_containers(upper):
    os.chown(upper, 100_000, 100_000)
    write(f"{upper}/f")
    os.chown(f"{upper}/f", 101_000, 100_100)
    os.setxattr(f"{upper}/f", "system.posix_acl_access", acl(0o640, users=[(100_033, 4)]))
    entries, _ = scanned(upper, shifted(100_000))
    assert (entries[b""].uid, entries[b"f"].uid, entries[b"f"].gid) == (0, 1000, 100)
    assert entries[b"f"].xattrs == ((b"system.posix_acl_access", acl(0o640, users=[(33, 4)])),)


def test_hard_links_name_the_first_of_them(upper):
    os.mkdir(f"{upper}/a")
    write(f"{upper}/z")
    for name in ("a/y", "m"):
        os.link(f"{upper}/z", f"{upper}/{name}")
    os.symlink("to", f"{upper}/s1")
    os.link(f"{upper}/s1", f"{upper}/s2", follow_symlinks=False)
    entries, findings = scanned(upper)
    assert entries[b"a/y"].kind is Kind.FILE
    assert [(entries[name].kind, entries[name].target) for name in (b"m", b"z")] == [(Kind.HARDLINK, b"a/y")] * 2
    assert (entries[b"s2"].kind, entries[b"s2"].target) == (Kind.HARDLINK, b"s1")
    assert findings == []


def test_a_hard_link_to_the_outside_is_cut_and_told(upper, disk):
    write(f"{disk}/outside")
    for name in ("f", "g"):
        os.link(f"{disk}/outside", f"{upper}/{name}")
    entries, findings = scanned(upper)
    assert (entries[b"f"].kind, entries[b"g"].kind) == (Kind.FILE, Kind.HARDLINK)
    assert findings == [
        Finding(rule="R303", path="/f", action="stored without its hard links outside of what is saved")
    ]


def test_times_that_a_layer_cannot_hold_are_set_to_the_nearest(upper):
    with mounted("tmpfs", upper, "tmpfs"):
        for name, seconds in (("early", -1), ("late", 1 << 34), ("last", (1 << 34) - 1)):
            write(f"{upper}/{name}")
            os.utime(f"{upper}/{name}", ns=(0, seconds * 1_000_000_000 + 7))
        entries, findings = scanned(upper)
    assert entries[b"early"].mtime_ns == 0
    assert entries[b"late"].mtime_ns == (1 << 34) * 1_000_000_000 - 1
    assert entries[b"last"].mtime_ns == ((1 << 34) - 1) * 1_000_000_000 + 7
    assert [(finding.rule, finding.path) for finding in findings] == [("R308", "/early"), ("R308", "/late")]


def test_attributes_that_no_layer_carries_are_left_out_and_counted(upper):
    for number in range(15):
        write(f"{upper}/{number:02}")
        os.setxattr(f"{upper}/{number:02}", "security.selinux", b"label")
    os.setxattr(f"{upper}/00", "trusted.mine", b"1")
    os.setxattr(f"{upper}/00", "user.overlay.redirect", b"/etc")
    os.setxattr(f"{upper}/00", "user.mine", b"kept")
    entries, findings = scanned(upper)
    assert entries[b"00"].xattrs == ((b"user.mine", b"kept"),)
    assert {(finding.rule, finding.path, finding.action) for finding in findings} >= {
        ("R306", "/00", "trusted.mine not stored"),
        ("R306", "/00", "user.overlay.* not stored"),
        ("R306", "/09", "security.selinux not stored (and 5 more)"),
    }


def test_progress_tells_how_many_entries_there_are_so_far(upper):
    os.makedirs(f"{upper}/a/b")
    write(f"{upper}/a/b/c")
    seen = []
    with scan_upper(upper, IDS, seen.append):
        assert seen == [2, 3, 4]


# --- what hides something below --------------------------------------------------------------------------------


def test_deleted_and_replaced_directories_on_a_real_overlay(upper):
    for name in ("lower", "lower/gone", "lower/again", "upper", "work", "merged"):
        os.mkdir(f"{upper}/{name}")
    for name in ("gone/f", "again/f", "file"):
        write(f"{upper}/lower/{name}")
    with overlay(upper, "merged", ["lower"], upper="upper", work="work") as merged:
        shutil.rmtree(f"{merged}/gone")
        shutil.rmtree(f"{merged}/again")
        os.mkdir(f"{merged}/again")
        os.unlink(f"{merged}/file")
    entries, findings = scanned(f"{upper}/upper")
    assert {path: entry.kind for path, entry in entries.items()} == {
        b"": Kind.DIRECTORY,
        b"again": Kind.DIRECTORY,
        b"file": Kind.WHITEOUT,
        b"gone": Kind.WHITEOUT,
    }
    assert entries[b"again"].opaque
    assert findings == []


def test_sockets_and_devices_are_left_out_but_still_hide_what_is_below(upper):
    for name in ("d", "opaque", "opaque/sub"):
        os.mkdir(f"{upper}/{name}")
    os.setxattr(f"{upper}/opaque", "trusted.overlay.opaque", b"y")
    for place in ("d/socket", "opaque/sub/socket"):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{upper}/{place}")
    os.mknod(f"{upper}/d/null", stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(f"{upper}/d/disk", stat.S_IFBLK, os.makedev(8, 0))
    entries, findings = scanned(upper)
    kinds = {path: entry.kind for path, entry in entries.items() if entry.kind is not Kind.DIRECTORY}
    assert kinds == dict.fromkeys([b"d/socket", b"d/null", b"d/disk"], Kind.WHITEOUT)
    assert [(finding.rule, finding.path, finding.action) for finding in findings] == [
        ("R018", "/d/disk", "block device not stored"),
        ("R018", "/d/null", "character device not stored"),
        ("R114", "/d/socket", "socket not stored"),
        ("R114", "/opaque/sub/socket", "socket not stored"),
    ]


def test_whiteouts_below_an_opaque_directory_have_nothing_to_hide(upper):
    for name in ("d", "d/e", "d.txt"):
        os.mkdir(f"{upper}/{name}")
    os.setxattr(f"{upper}/d", "trusted.overlay.opaque", b"y")
    for name in ("d/w", "d/e/w", "d.txt/w"):
        whiteout(f"{upper}/{name}")
    entries, _ = scanned(upper)
    assert [path for path, entry in entries.items() if entry.kind is Kind.WHITEOUT] == [b"d.txt/w"]


@pytest.mark.parametrize(
    ("mark", "value"),
    [
        ("redirect", b"/etc"),
        ("redirect", b"etc"),
        ("metacopy", b""),
        ("upper", b"handle"),
        ("whiteout", b""),
        ("opaque", b"x"),
        ("overlay.opaque", b"y"),
        ("something.new", b""),
    ],
)
def test_marks_that_envkits_overlays_never_write_refuse_the_save(upper, mark, value):
    os.makedirs(f"{upper}/srv/pub")
    os.setxattr(f"{upper}/srv/pub", f"trusted.overlay.{mark}", value)
    with pytest.raises(OverlayMark, match=rf"/srv/pub carries the overlay mark trusted\.overlay\.{mark}") as caught:
        scan_upper(upper, IDS)
    assert caught.value.exit_code == EXIT_REFUSED


@pytest.mark.parametrize("kind", ["file", "symlink", "fifo"])
def test_marks_are_found_on_every_kind_of_entry(upper, kind):
    path = f"{upper}/x"
    {"file": write, "symlink": lambda path: os.symlink("/", path), "fifo": os.mkfifo}[kind](path)
    os.setxattr(path, "trusted.overlay.redirect", b"/etc", follow_symlinks=False)
    with pytest.raises(OverlayMark, match="/x carries"):
        scan_upper(upper, IDS)


# --- what is refused -------------------------------------------------------------------------------------------


def test_an_owner_outside_the_containers_range_is_refused_by_path_and_number(upper):
    os.chown(upper, 100_000, 100_000)
    write(f"{upper}/f")
    os.chown(f"{upper}/f", 100_000, 42)
    with pytest.raises(ForeignId) as caught:
        scan_upper(upper, shifted(100_000))
    assert str(caught.value) == "/f has the group 42, which is outside the container's range [R305]"


def test_an_owner_that_wraps_to_root_is_refused(upper):
    write(f"{upper}/f")
    os.chown(f"{upper}/f", 4_294_967_294, 0)
    with pytest.raises(ForeignId, match="the owner 4294967294"):
        scan_directory(upper)


@pytest.mark.parametrize("source", ["tmpfs", "the same disk"])
def test_a_mount_inside_an_upper_refuses_the_save(upper, disk, source):
    os.makedirs(f"{upper}/a/mnt")
    other = tempfile.mkdtemp(dir=disk)
    write(f"{other}/secret")
    kind = ("tmpfs", f"{upper}/a/mnt", "tmpfs") if source == "tmpfs" else (other, f"{upper}/a/mnt", None, libc.MS_BIND)
    with mounted(*kind), pytest.raises(MountInside) as caught:
        scan_upper(upper, IDS)
    shutil.rmtree(other)
    assert str(caught.value) == "/a/mnt is a mount point, so what it shows is not part of the layer [R020]"


def test_a_file_that_something_is_mounted_over_cannot_be_read(upper, disk):
    write(f"{upper}/f")
    write(f"{disk}/secret", b"secret")
    with (
        scan_upper(upper, IDS) as scan,
        mounted(f"{disk}/secret", f"{upper}/f", None, libc.MS_BIND),
        pytest.raises(MountInside, match="/f is a mount point"),
    ):
        contents(scan, b"f")


def chain(root, levels, name):
    """Make directories in directories, each by its name alone, so that the path may have any length."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_a_tree_of_the_greatest_depth_is_scanned_with_few_descriptors(upper):
    chain(upper, MAX_DEPTH, "d")
    with few_descriptors(8):
        entries, _ = scanned(upper)
    assert len(entries) == MAX_DEPTH + 1


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 4096])
def test_a_deeper_tree_is_refused_by_number(upper, levels):
    chain(upper, levels, "d")
    with few_descriptors(8), pytest.raises(LimitExceeded, match=r"/d/d/d.* has more than 1,000 levels of dir"):
        scan_upper(upper, IDS)


def test_a_path_as_long_as_the_kernel_takes_is_scanned(upper):
    chain(upper, 16, "x" * 255)
    entries, _ = scanned(upper)
    assert max(map(len, entries)) == 4095


def test_a_longer_path_is_refused_by_number(upper):
    chain(upper, 17, "x" * 255)
    with pytest.raises(LimitExceeded, match=r"/x+\.\.\. has more than 4,095 bytes in a path below it"):
        scan_upper(upper, IDS)


def test_too_many_entries_are_refused_by_number(upper, monkeypatch):
    os.mkdir(f"{upper}/d")
    for number in range(30):
        write(f"{upper}/d/{number}")
    monkeypatch.setattr(walk, "MAX_DIRECTORY_ENTRIES", 29)
    with pytest.raises(LimitExceeded, match=r"/d has more than 29 entries \[R307\]"):
        scan_upper(upper, IDS)
    monkeypatch.setattr(walk, "MAX_DIRECTORY_ENTRIES", 30)
    monkeypatch.setattr(walk, "MAX_ENTRIES", 31)
    with pytest.raises(LimitExceeded, match=r"/ has more than 31 entries below it"):
        scan_upper(upper, IDS)
    monkeypatch.setattr(walk, "MAX_ENTRIES", 32)
    assert len(scanned(upper)[0]) == 32


def test_a_file_larger_than_the_format_holds_is_refused_by_number(upper):
    with mounted("tmpfs", upper, "tmpfs"):
        write(f"{upper}/huge", b"")
        os.truncate(f"{upper}/huge", (1 << 45) + 1)
        with pytest.raises(LimitExceeded, match=r"/huge has more than 35,184,372,088,832 bytes"):
            scan_upper(upper, IDS)


def test_a_process_that_cannot_see_trusted_attributes_is_refused_before_the_scan(upper):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(65_534, 65_534, 65_534)
            scan_upper("/nowhere", IDS)
        except MissingPrivilege as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"cannot read what changed without CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_ADMIN"
    os.waitpid(child, 0)


@pytest.mark.parametrize("place", ["missing", "link", "file"])
def test_only_a_directory_is_scanned(upper, place):
    os.symlink("/", f"{upper}/link")
    write(f"{upper}/file")
    with pytest.raises(ScanFailed, match=rf"^cannot read {upper}/{place}: "):
        scan_upper(f"{upper}/{place}", IDS)


# --- links are never followed, and nothing blocks --------------------------------------------------------------


def test_symlinks_are_entries_whatever_they_point_to(upper):
    targets = {b"abs": b"/etc", b"up": b"../../../../etc/shadow", b"loop": b"loop", b"long": b"x" * 4095}
    for name, target in targets.items():
        os.symlink(target, os.fsencode(upper) + b"/" + name)
    entries, _ = scanned(upper)
    assert {path: entry.target for path, entry in entries.items() if path} == targets
    assert {entry.kind for path, entry in entries.items() if path} == {Kind.SYMLINK}


@pytest.mark.parametrize("planted", ["symlink", "fifo", "directory", "nothing", "other file"])
def test_what_takes_a_files_place_after_the_scan_is_not_read(upper, planted):
    write(f"{upper}/f")
    with scan_upper(upper, IDS) as scan:
        os.rename(f"{upper}/f", f"{upper}/g")
        {
            "symlink": lambda path: os.symlink("/etc/passwd", path),
            "fifo": os.mkfifo,
            "directory": os.mkdir,
            "nothing": lambda path: None,
            "other file": write,
        }[planted](f"{upper}/f")
        with no_longer_than(5), pytest.raises(ChangedMeanwhile) as caught:
            contents(scan, b"f")
    assert str(caught.value) == "/f changed while it was being read"
    assert caught.value.exit_code == EXIT_CONFLICT


def test_a_directory_that_becomes_a_link_after_the_scan_is_not_followed(upper):
    os.mkdir(f"{upper}/etc")
    write(f"{upper}/etc/passwd")
    with scan_upper(upper, IDS) as scan:
        os.rename(f"{upper}/etc", f"{upper}/old")
        os.symlink("/etc", f"{upper}/etc")
        with pytest.raises(ChangedMeanwhile, match="/etc/passwd changed"):
            contents(scan, b"etc/passwd")


def test_a_directory_that_takes_anothers_place_during_the_scan_is_told(upper):
    os.mkdir(f"{upper}/d")

    def swap(found):
        if found == 2:
            os.rename(f"{upper}/d", f"{upper}/moved")
            os.mkdir(f"{upper}/d")

    with pytest.raises(ChangedMeanwhile, match="/d changed while it was being read"):
        scan_upper(upper, IDS, swap)


def test_renames_during_the_scan_end_in_an_error_or_in_a_valid_tree(upper):
    """Nothing from outside may show up, whatever is swapped for links to it."""
    for number in range(20):
        os.makedirs(f"{upper}/{number}/etc")
        write(f"{upper}/{number}/etc/mine")
    over = threading.Event()

    def swap():
        while not over.is_set():
            for number in range(20):
                here = f"{upper}/{number}"
                os.rename(f"{here}/etc", f"{here}/old")
                os.symlink("/etc", f"{here}/etc")
                os.unlink(f"{here}/etc")
                os.rename(f"{here}/old", f"{here}/etc")

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = collections.Counter()
    deadline = time.monotonic() + 10
    try:
        while outcomes["refused"] < 5 and time.monotonic() < deadline:
            try:
                with scan_upper(upper, IDS) as scan:
                    outcomes["scanned"] += 1
                    assert {entry.name for entry in scan.entries if entry.kind is Kind.FILE} <= {b"mine"}
                    for entry in scan.entries:
                        if entry.kind is Kind.FILE:
                            with contextlib.suppress(ChangedMeanwhile):
                                assert list(scan.open(entry)) == [(0, b"data")]
            except ChangedMeanwhile:
                outcomes["refused"] += 1
    finally:
        over.set()
        thread.join()
    assert outcomes["refused"] == 5


# --- contents --------------------------------------------------------------------------------------------------


def test_contents_come_in_bounded_blocks(upper):
    data = os.urandom(2 * BLOCK + 12_345)
    write(f"{upper}/f", data)
    with scan_upper(upper, IDS) as scan:
        blocks = contents(scan, b"f")
    assert [start for start, _ in blocks] == [0, BLOCK, 2 * BLOCK]
    assert b"".join(block for _, block in blocks) == data


def test_empty_files_and_holes_have_no_data(upper):
    write(f"{upper}/empty", b"")
    write(f"{upper}/hole", b"")
    os.truncate(f"{upper}/hole", 1 << 40)
    with open(f"{upper}/sparse", "wb") as file:
        file.seek(1 << 30)
        file.write(b"x" * 4096)
        file.truncate(1 << 40)
    with scan_upper(upper, IDS) as scan:
        assert contents(scan, b"empty") == []
        assert contents(scan, b"hole") == []
        assert contents(scan, b"sparse") == [(1 << 30, b"x" * 4096)]
        sizes = {entry.path: entry.size for entry in scan.entries}
    assert sizes[b"hole"] == sizes[b"sparse"] == 1 << 40


@pytest.mark.parametrize("how", ["grows", "shrinks", "is rewritten and its time set back"])
def test_a_file_that_changed_after_the_scan_is_told(upper, how):
    write(f"{upper}/f", b"0123456789")
    before = os.stat(f"{upper}/f")
    with scan_upper(upper, IDS) as scan:
        time.sleep(0.02)  # more than the granularity of the file system's clock
        write(f"{upper}/f", {"grows": b"0" * 20, "shrinks": b"0"}.get(how, b"9876543210"))
        if how.startswith("is"):
            os.utime(f"{upper}/f", ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(ChangedMeanwhile, match="/f changed while it was being read"):
            contents(scan, b"f")


@pytest.mark.parametrize("how", ["shrinks", "grows", "is rewritten"])
def test_a_file_that_changes_while_it_is_read_is_told(upper, how):
    write(f"{upper}/f", bytes(3 * BLOCK))
    with scan_upper(upper, IDS) as scan:
        blocks = scan.open(scan.entries[1])
        next(blocks)
        time.sleep(0.02)  # more than the granularity of the file system's clock
        with open(f"{upper}/f", "r+b") as file:
            file.seek(4 * BLOCK if how == "grows" else 0)
            file.write(b"new")
            if how == "shrinks":
                file.truncate(BLOCK)
        with pytest.raises(ChangedMeanwhile, match="/f changed"):
            list(blocks)


def test_reading_begins_anywhere(upper):
    data = os.urandom(BLOCK)
    with open(f"{upper}/f", "wb") as file:
        file.write(data)
        file.seek(3 * BLOCK)
        file.write(data)
    with scan_upper(upper, IDS) as scan:
        entry = scan.entries[1]
        for start in (1, BLOCK - 1, 3 * BLOCK + 5, 4 * BLOCK):
            before = [(place, data) for place in (0, 3 * BLOCK) if place + BLOCK > start]
            expected = [(max(place, start), data[max(0, start - place) :]) for place, data in before]
            assert list(scan.open(entry, start)) == expected
        for start in (BLOCK, 2 * BLOCK, 3 * BLOCK):
            assert list(scan.open(entry, start)) == [(3 * BLOCK, data)], "a hole is passed over"


def test_a_file_that_has_changed_is_told_wherever_reading_begins(upper):
    write(f"{upper}/f", bytes(BLOCK))
    with scan_upper(upper, IDS) as scan:
        os.utime(f"{upper}/f", ns=(1, 1))
        with pytest.raises(ChangedMeanwhile, match="/f changed"):
            list(scan.open(scan.entries[1], BLOCK))


@contextlib.contextmanager
def opened(upper, find):
    """Open the file "f" for who reads it otherwise, as what `find` says that it is."""
    root = open_root(upper)
    try:
        with open_extents(root, b"f", find(root, b"f")) as found:
            yield found
    finally:
        os.close(root)


def test_an_opened_file_tells_where_it_has_data(upper):
    with open(f"{upper}/f", "wb") as file:
        file.truncate(5 * BLOCK)
        for place in (BLOCK, 3 * BLOCK):
            file.seek(place)
            file.write(b"x" * 4096)
    with opened(upper, find_identity) as (fd, spans):
        assert list(spans) == [(BLOCK, BLOCK + 4096), (3 * BLOCK, 3 * BLOCK + 4096)]
        assert os.pread(fd, 1, BLOCK) == b"x"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_an_opened_file_that_has_changed_is_told(upper, when):
    write(f"{upper}/f", bytes(BLOCK))

    def found(root, path):
        identity = find_identity(root, path)
        if when == "before":
            os.utime(f"{upper}/f", ns=(1, 1))
        return identity

    with pytest.raises(ChangedMeanwhile, match="/f changed"), opened(upper, found):
        assert when == "meanwhile"
        os.utime(f"{upper}/f", ns=(1, 1))


def test_what_is_no_file_has_no_identity(upper):
    os.mkdir(f"{upper}/directory")
    os.mkfifo(f"{upper}/pipe")
    os.symlink("/etc/passwd", f"{upper}/link")
    root = open_root(upper)
    assert [find_identity(root, path) for path in (b"directory", b"pipe", b"link", b"gone")] == [None] * 4
    os.close(root)


def test_reading_leaves_access_times_alone(upper):
    write(f"{upper}/f")
    os.utime(f"{upper}/f", ns=(1, 1))
    os.utime(upper, ns=(1, 1))
    with scan_upper(upper, IDS) as scan:
        contents(scan, b"f")
    assert (os.stat(f"{upper}/f").st_atime_ns, os.stat(upper).st_atime_ns) == (1, 1)


def test_no_descriptor_stays_open(upper):
    os.mkdir(f"{upper}/d")
    write(f"{upper}/d/f", bytes(3 * BLOCK))
    before = len(os.listdir("/proc/self/fd"))
    with scan_upper(upper, IDS) as scan:
        blocks = scan.open(scan.entries[2])
        next(blocks)
        blocks.close()
    os.rename(f"{upper}/d/f", f"{upper}/f")
    with opened(upper, find_identity):
        pass
    os.rename(f"{upper}/f", f"{upper}/d/f")
    os.setxattr(f"{upper}/d/f", "trusted.overlay.redirect", b"")
    with pytest.raises(EntryRefused):
        scan_upper(upper, IDS)
    assert len(os.listdir("/proc/self/fd")) == before


# --- bases -----------------------------------------------------------------------------------------------------


def test_a_base_keeps_its_ids_and_leaves_sockets_and_devices_out_without_a_trace(upper):
    write(f"{upper}/f")
    os.chown(f"{upper}/f", 65_534, 200_000)
    os.mkdir(f"{upper}/dev")
    os.mknod(f"{upper}/dev/null", stat.S_IFCHR, os.makedev(1, 3))
    with scan_directory(upper) as scan:
        assert [entry.path for entry in scan.entries] == [b"", b"dev", b"f"]
        assert (scan.entries[2].uid, scan.entries[2].gid) == (65_534, 200_000)
        assert [finding.path for finding in scan.findings] == ["/dev/null"]


def test_of_what_is_mounted_in_a_base_the_mount_points_alone_are_kept(upper, disk):
    for name in ("proc", "bound", "etc"):
        os.mkdir(f"{upper}/{name}")
    for name in ("resolv.conf", "hosts"):
        write(f"{upper}/etc/{name}")
    other = tempfile.mkdtemp(dir=disk)
    write(f"{other}/secret")
    with (
        mounted("proc", f"{upper}/proc", "proc"),
        mounted(other, f"{upper}/bound", None, libc.MS_BIND),
        mounted("/proc/self/status", f"{upper}/etc/resolv.conf", None, libc.MS_BIND),
        scan_directory(upper) as scan,
    ):
        assert [entry.path for entry in scan.entries] == [b"", b"bound", b"etc", b"etc/hosts", b"proc"]
        assert [(finding.rule, finding.path) for finding in scan.findings] == [
            ("R020", "/bound"),
            ("R020", "/etc/resolv.conf"),
            ("R020", "/proc"),
        ]
    shutil.rmtree(other)


def test_the_upper_of_an_overlay_is_no_base(upper):
    os.mkdir(f"{upper}/d")
    whiteout(f"{upper}/d/gone")
    with pytest.raises(PartOfOverlay, match=r"^/d/gone is a whiteout of an overlay \[R017\]$"):
        scan_directory(upper)
    os.unlink(f"{upper}/d/gone")
    os.setxattr(f"{upper}/d", "trusted.overlay.opaque", b"y")
    with pytest.raises(PartOfOverlay, match=r"^/d is an opaque directory of an overlay \[R017\]$") as caught:
        scan_directory(upper)
    assert caught.value.resolution == "give the merged directory, which is complete"


# --- how much changed ------------------------------------------------------------------------------------------


def test_what_changed_is_counted_as_people_see_it(upper):
    os.makedirs(f"{upper}/a/b")
    write(f"{upper}/a/f", bytes(1000))
    os.link(f"{upper}/a/f", f"{upper}/a/b/g")
    whiteout(f"{upper}/a/gone")
    os.symlink("/etc", f"{upper}/link")
    write(f"{upper}/sparse", b"")
    os.truncate(f"{upper}/sparse", 50_000)
    assert changed(upper) == (5, 51_000)


def test_counting_does_not_mind_a_container_that_writes(upper):
    write(f"{upper}/stays", bytes(10))
    over = threading.Event()

    def churn():
        while not over.is_set():
            for number in range(10):
                os.makedirs(f"{upper}/{number}/d")
                write(f"{upper}/{number}/d/f", b"")
            for number in range(10):
                shutil.rmtree(f"{upper}/{number}")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            files, size = changed(upper)
            assert 1 <= files <= 11
            assert size == 10
    finally:
        over.set()
        thread.join()


def test_counting_what_is_not_there_is_an_error(upper):
    with pytest.raises(EnvkitError, match=r"cannot read .*/nowhere: No such file or directory"):
        changed(f"{upper}/nowhere")


def test_inodes_without_attributes_are_noted_with_their_ctimes(upper):
    for name in ("plain", "marked"):
        write(f"{upper}/{name}")
    os.mkdir(f"{upper}/directory")
    os.symlink("plain", f"{upper}/link")
    os.setxattr(f"{upper}/marked", "user.a", b"1")
    with scan_upper(upper, IDS) as scan:
        plain = [os.lstat(f"{upper}/{name}") for name in ("plain", "directory", "link")]
        assert scan.plain == {status.st_ino: status.st_ctime_ns for status in plain}


def test_only_what_changed_since_an_earlier_scan_is_asked_for_its_attributes(upper):
    for name in ("same", "marked"):
        write(f"{upper}/{name}")
    with scan_upper(upper, IDS) as scan:
        plain = dict(scan.plain)
    os.setxattr(f"{upper}/marked", "user.a", b"1")
    os.setxattr(f"{upper}/same", "user.a", b"1")
    # As if the ctime had not moved, which it does: this is what an earlier scan is believed.
    same = os.stat(f"{upper}/same")
    plain[same.st_ino] = same.st_ctime_ns
    with scan_upper(upper, IDS, plain=plain) as scan:
        found = {entry.path: entry.xattrs for entry in scan.entries}
        assert found[b"marked"] == ((b"user.a", b"1"),)
        assert found[b"same"] == ()
        assert os.stat(f"{upper}/marked").st_ino not in scan.plain
