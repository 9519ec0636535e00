"""Owns the scan: a directory on the host, an overlay's upper or a plain root file system, becomes a layer's entries.

The directory is read as it lies on the host, not through an overlay; everything in it is hostile. File contents are
read later, one file at a time, through the scan. What must not leave the machine is `sanitize`'s to say.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

from envkit.model.idmap import IdMap, IdRange
from envkit.model.tree import MAX_FILE, MAX_ID, MAX_MTIME_SECONDS, Entry, Kind, display_path
from envkit.model.version import Finding
from envkit.overlay.attributes import Attributes, container_id, translate
from envkit.overlay.errors import EntryRefused, LimitExceeded, MountInside, PartOfOverlay
from envkit.overlay.extents import Identity, identity, read_extents
from envkit.overlay.findings import Findings
from envkit.overlay.privilege import require_privilege
from envkit.overlay.walk import Listing, open_root, read_attributes, read_link, walk

Progress = Callable[[int], None]

# `Kind.FILE` is a slow look-up in Python 3.11.
_DIRECTORY, _FILE, _SYMLINK, _FIFO, _HARDLINK, _WHITEOUT = Kind
_KINDS = {stat.S_IFDIR: _DIRECTORY, stat.S_IFREG: _FILE, stat.S_IFLNK: _SYMLINK, stat.S_IFIFO: _FIFO}
_DROPPED = {
    stat.S_IFCHR: ("R018", "character device not stored"),
    stat.S_IFBLK: ("R018", "block device not stored"),
    stat.S_IFSOCK: ("R114", "socket not stored"),
}
_MAX_MTIME_NS = (MAX_MTIME_SECONDS + 1) * 1_000_000_000 - 1
_ALL_IDS = (IdRange(inside=0, outside=0, count=MAX_ID + 1),)
_IDENTITY_MAP = IdMap(uids=_ALL_IDS, gids=_ALL_IDS)
_NO_ATTRIBUTES = Attributes()
_NOTHING: Mapping[int, int] = {}


class Scan:
    """What a directory holds, as a context manager that keeps the directory open for reading contents.

    `entries` are in canonical order, the root's first, files without segments; `findings` say what was left out;
    `began_ns` is when it began, in nanoseconds since 1970. `files` are those of the entries that are files; `plain`
    has the inodes without extended attributes, with their ctimes in nanoseconds.
    """

    def __init__(
        self,
        root: int,
        entries: list[Entry],
        findings: list[Finding],
        files: dict[bytes, Identity],
        plain: dict[int, int],
        began_ns: int,
    ) -> None:
        self.entries = entries
        self.findings = findings
        self.began_ns = began_ns
        self.files: Mapping[bytes, Identity] = files
        self.plain: Mapping[int, int] = plain
        self._root = root

    def __enter__(self) -> "Scan":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory; contents cannot be read any more."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def open(self, entry: Entry, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (start, bytes) of a file's data from a byte on, at most 4 MiB each; what lies between is holes.

        Thread-safe.

        :raises ChangedMeanwhile: the file is not what was scanned, or is written to.
        :raises ScanFailed: the file system gave an error.
        """
        return read_extents(self._root, entry.path, self.files[entry.path], start)

    def stamp(self, path: bytes, size: int | None = None) -> tuple[int, int] | None:
        """Return a file's inode and ctime in nanoseconds; None if there is none at the path, or none of that size."""
        found = self.files.get(path)
        return None if found is None or size not in (None, found.size) else (found.inode, found.ctime_ns)


def scan_upper(
    directory: str, ids: IdMap, progress: Progress | None = None, *, plain: Mapping[int, int] = _NOTHING
) -> Scan:
    """Scan the upper directory of a container's overlay, while nothing writes to it.

    Names whose node is left out (sockets, devices) become whiteouts: what they hide below must not come back.

    :param ids: the container's; entries hold its ids.
    :param progress: called with the number of entries found so far, after each directory.
    :param plain: what an earlier scan of this directory found to have no extended attributes; what has had its ctime
        since then has none now, and is not asked, which is a third of the work.
    :raises MissingPrivilege: this process would not see all of it.
    :raises EntryRefused: something in it cannot be part of a layer.
    :raises ChangedMeanwhile: something was written during the scan.
    :raises ScanFailed: the file system gave an error.
    """
    return _scan(directory, ids, progress, plain, base=False)


def scan_directory(directory: str, progress: Progress | None = None) -> Scan:
    """Scan a plain root file system with the ids it has, to make a base of it.

    Of what is mounted inside, the mount points alone are kept. Raises as `scan_upper` does, also for overlay's
    whiteouts and opaque directories, which say that this is only a part of a root file system.
    """
    return _scan(directory, _IDENTITY_MAP, progress, _NOTHING, base=True)


def _scan(directory: str, ids: IdMap, progress: Progress | None, plain: Mapping[int, int], *, base: bool) -> Scan:
    require_privilege()
    root = open_root(directory)
    began_ns = time.time_ns()
    try:
        scanner = _Scanner(root, ids, plain, base=base)
        for listing in walk(root, at_mount=scanner.at_mount):
            scanner.add(listing)
            if progress is not None:
                progress(len(scanner.entries))
        return Scan(root, scanner.finish(), scanner.findings.summary(), scanner.files, scanner.plain, began_ns)
    except BaseException:
        os.close(root)
        raise


class _Scanner:
    """Collects entries in the order of the walk."""

    def __init__(self, root: int, ids: IdMap, plain: Mapping[int, int], *, base: bool) -> None:
        self.files: dict[bytes, Identity] = {}
        self.plain: dict[int, int] = {}
        self._plain_before = plain
        self.findings = Findings()
        self.entries: list[Entry] = []
        self._base = base
        self._ids = ids
        self._uids: dict[int, int] = {}
        self._gids: dict[int, int] = {}
        self._linked: dict[bytes, tuple[int, int]] = {}
        top = os.fstat(root)
        self._device = top.st_dev
        self._add_entry(b"", top, _DIRECTORY, read_attributes(root, b".", b""))

    def at_mount(self, path: bytes) -> None:
        if not self._base:
            raise MountInside(display_path(path))
        self.findings.add("R020", path, "not entered: something else is mounted there")

    def add(self, listing: Listing) -> None:
        """Add what a directory holds."""
        prefix = listing.path + b"/" if listing.path else b""
        fd = listing.fd
        for name, status in listing.children:
            path = prefix + name
            form = status.st_mode & 0o170000
            kind = _KINDS.get(form)
            if status.st_dev != self._device:
                self._add_mount_point(path, status)
            elif kind is None:
                self._add_special(path, status, form)
            else:
                found: dict[bytes, bytes] = {}
                inode, ctime = status.st_ino, status.st_ctime_ns
                if self._plain_before.get(inode) != ctime:
                    found = read_attributes(fd, name, path)
                if not found:
                    self.plain[inode] = ctime
                if found or kind is not _FILE or not self._add_plain_file(path, status):
                    target = read_link(fd, name, path) if kind is _SYMLINK else b""
                    self._add_entry(path, status, kind, found, target)

    def _add_plain_file(self, path: bytes, status: os.stat_result) -> bool:
        """Add a file like nearly all, in half the time that the others take; return False if it is not one."""
        size, mtime = status.st_size, status.st_mtime_ns
        uid, gid = self._uids.get(status.st_uid), self._gids.get(status.st_gid)
        if uid is None or gid is None or status.st_nlink > 1 or size > MAX_FILE or not 0 <= mtime <= _MAX_MTIME_NS:
            return False
        self.files[path] = Identity(status.st_ino, size, mtime, status.st_ctime_ns)
        self.entries.append(Entry(path, _FILE, status.st_mode & 0o7777, uid, gid, mtime, size))
        return True

    def _add_entry(
        self, path: bytes, status: os.stat_result, kind: Kind, found: dict[bytes, bytes], target: bytes = b""
    ) -> None:
        xattrs, opaque, dropped = (
            translate(path, found, self._ids, directory=kind is _DIRECTORY) if found else _NO_ATTRIBUTES
        )
        for name in dropped:
            self.findings.add("R306", path, f"{_shown_name(name)} not stored")
        if opaque and self._base:
            raise PartOfOverlay(display_path(path), "an opaque directory")
        uid, gid = self._owner(path, status)
        size = 0
        if kind is _FILE:
            size = status.st_size
            if size > MAX_FILE:
                raise LimitExceeded(display_path(path), "bytes", MAX_FILE)
            self.files[path] = identity(status)
        if status.st_nlink > 1 and kind is not _DIRECTORY:
            self._linked[path] = (status.st_ino, status.st_nlink)
        mtime = status.st_mtime_ns
        if not 0 <= mtime <= _MAX_MTIME_NS:
            # Only what the format cannot hold: cutting at today's date would give each save other bytes.
            mtime = min(max(mtime, 0), _MAX_MTIME_NS)
            self.findings.add("R308", path, "time outside 1970 to 2514 set to the nearest one inside")
        mode = status.st_mode & 0o7777
        self.entries.append(Entry(path, kind, mode, uid, gid, mtime, size, target, opaque, xattrs))

    def _owner(self, path: bytes, status: os.stat_result) -> tuple[int, int]:
        try:
            return self._uids[status.st_uid], self._gids[status.st_gid]
        except KeyError:
            self._uids[status.st_uid] = container_id(path, "owner", self._ids.uids, status.st_uid)
            self._gids[status.st_gid] = container_id(path, "group", self._ids.gids, status.st_gid)
            return self._uids[status.st_uid], self._gids[status.st_gid]

    def _add_special(self, path: bytes, status: os.stat_result, form: int) -> None:
        if form not in _DROPPED:
            _refuse_form(path, form)
        if form == stat.S_IFCHR and status.st_rdev == 0:
            if self._base:
                raise PartOfOverlay(display_path(path), "a whiteout")
        else:
            self.findings.add(*_finding(path, form))
        if not self._base:
            self.entries.append(Entry(path, _WHITEOUT))

    def _add_mount_point(self, path: bytes, status: os.stat_result) -> None:
        """Keep a directory on which another file system is mounted, without the attributes of that."""
        if not self._base:
            raise MountInside(display_path(path))
        if stat.S_ISDIR(status.st_mode):
            self._add_entry(path, status, _DIRECTORY, {})

    def finish(self) -> list[Entry]:
        """Return the entries in canonical order, hard links resolved, whiteouts only where something may be below."""
        # This is `path_key`, without a call for each.
        self.entries.sort(key=lambda entry: entry.path.replace(b"/", b"\0"))
        found: dict[int, int] = {}
        for inode, _ in self._linked.values():
            found[inode] = found.get(inode, 0) + 1
        first: dict[int, bytes] = {}
        covered: bytes | None = None
        result: list[Entry] = []
        for entry in self.entries:
            path = entry.path
            if covered is not None and not path.startswith(covered):
                covered = None
            if entry.kind is _WHITEOUT:
                # Below an opaque directory there is nothing to hide, and overlayfs would list the whiteout itself.
                if covered is None:
                    result.append(entry)
                continue
            if entry.opaque and covered is None:
                covered = path + b"/"
            if path in self._linked:
                inode, links = self._linked[path]
                target = first.setdefault(inode, path)
                if target != path:
                    entry = Entry(path, _HARDLINK, target=target)
                elif links > found[inode]:
                    self.findings.add("R303", path, "stored without its hard links outside of what is saved")
            result.append(entry)
        self.entries = result
        return result


def _shown_name(name: bytes) -> str:
    return "user.overlay.*" if name.startswith(b"user.overlay.") else name.decode("ascii", "backslashreplace")


def _finding(path: bytes, form: int) -> tuple[str, bytes, str]:
    rule, action = _DROPPED[form]
    return rule, path, action


def _refuse_form(path: bytes, form: int) -> NoReturn:
    raise EntryRefused(
        "R018", display_path(path), f"is of the unknown kind {form:#o}", resolution="remove it, or ask the file system"
    )
