"""What several tests need: trees made by hand, images as files, and directories written down to compare them."""

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from envkit.model.tree import TREE_FORMAT, Chunk, Entry, Kind, Segment, Tree, path_key

NO_XATTRS: tuple[tuple[bytes, bytes], ...] = ()


class State(NamedTuple):
    """What a path looks like to somebody who uses it.

    `content` is the SHA-256 of a file or the target of a symlink; `size` is 0 but for files; `xattrs` leaves out
    trusted.*; `group` is the first path of those that are hard links of one another, None if there is but one.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    content: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = NO_XATTRS
    group: bytes | None = None


def snapshot_directory(path: str | bytes) -> dict[bytes, State]:
    """Write down a directory: path relative to it (the directory itself is `b""`) to State. As root.

    Symlinks are not followed, paths may be longer than PATH_MAX; a character device 0:0 is a "whiteout".
    """
    found: dict[bytes, State] = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    here = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found[b""] = _state(here, b".")[0]
        pending = [(b"", sorted(_names(here)))]
        while pending:
            prefix, rest = pending[-1]
            if not rest:
                pending.pop()
                if pending:
                    here = _move(here, b"..")
                continue
            name = rest.pop(0)
            full = prefix + name
            found[full], identity = _state(here, name)
            if found[full].kind == "directory":
                here = _move(here, name)
                pending.append((full + b"/", sorted(_names(here))))
            else:
                names.setdefault(identity, []).append(full)
    finally:
        os.close(here)
    for group in names.values():
        if len(group) > 1:
            first = min(group, key=path_key)
            found |= {name: found[name]._replace(group=first) for name in group}
    return found


def _names(directory: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(directory)]


def _move(here: int, name: bytes) -> int:
    there = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
    os.close(here)
    return there


def _state(parent: int, name: bytes) -> tuple[State, tuple[int, int]]:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    kind = {
        stat.S_IFDIR: "directory",
        stat.S_IFREG: "file",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFCHR: "device" if status.st_rdev else "whiteout",
    }.get(stat.S_IFMT(status.st_mode), "other")
    size, content = 0, b""
    if kind == "file":
        size = status.st_size
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent), "rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
    elif kind == "symlink":
        content = os.readlink(name, dir_fd=parent)
    state = State(
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        size,
        content,
        tuple(_xattrs(b"/proc/self/fd/%d/%s" % (parent, name))),
    )
    return state, (status.st_dev, status.st_ino)


def _xattrs(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for name in sorted(names):
        if not name.startswith("trusted."):
            yield os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)


class TreeBuilder:
    """Makes a tree and its chunks from paths in any order; directories that are missing are added.

    Small files share chunks of `chunk_size` bytes in path order, larger ones are cut.
    """

    def __init__(self, *, chunk_size: int = 65_536, mtime_ns: int = 1_700_000_000_123_456_789) -> None:
        self._chunk_size = chunk_size
        self._mtime_ns = mtime_ns
        self._entries: dict[bytes, Entry] = {}
        self._pieces: dict[bytes, list[tuple[int, bytes]]] = {}
        self.directory(b"")

    def _add(self, path: bytes, kind: Kind, attributes: dict[str, object]) -> None:
        values: dict[str, object] = {"mtime_ns": self._mtime_ns, **attributes}
        self._entries[path] = Entry(path, kind, **values)  # type: ignore[arg-type]
        while path:
            path = path.rpartition(b"/")[0]
            if path not in self._entries:
                self._entries[path] = Entry(path, Kind.DIRECTORY, mode=0o755, mtime_ns=self._mtime_ns)

    def directory(self, path: bytes, mode: int = 0o755, **attributes: object) -> None:
        self._add(path, Kind.DIRECTORY, {"mode": mode, **attributes})

    def file(
        self,
        path: bytes,
        content: bytes | Iterable[tuple[int, bytes]] = b"",
        mode: int = 0o644,
        *,
        size: int | None = None,
        **attributes: object,
    ) -> None:
        """Add a file; `content` may be pieces (start, bytes) with holes between them, `size` larger than their end."""
        pieces = [(0, content)] if isinstance(content, bytes) else list(content)
        self._pieces[path] = [piece for piece in pieces if piece[1]]
        end = max((start + len(data) for start, data in pieces), default=0)
        self._add(path, Kind.FILE, {"mode": mode, "size": end if size is None else size, **attributes})

    def symlink(self, path: bytes, target: bytes, **attributes: object) -> None:
        self._add(path, Kind.SYMLINK, {"mode": 0o777, "target": target, **attributes})

    def fifo(self, path: bytes, mode: int = 0o644, **attributes: object) -> None:
        self._add(path, Kind.FIFO, {"mode": mode, **attributes})

    def hardlink(self, path: bytes, target: bytes) -> None:
        self._add(path, Kind.HARDLINK, {"target": target, "mtime_ns": 0})

    def whiteout(self, path: bytes) -> None:
        self._add(path, Kind.WHITEOUT, {"mtime_ns": 0})

    def build(self) -> tuple[Tree, list[bytes]]:
        """Return the tree, and the plain bytes of its chunks."""
        chunks = [b""]
        entries = []
        for path in sorted(self._entries, key=path_key):
            segments = []
            for start, data in self._pieces.get(path, ()):
                done = 0
                while done < len(data):
                    if len(chunks[-1]) >= self._chunk_size:
                        chunks.append(b"")
                    part = data[done : done + self._chunk_size - len(chunks[-1])]
                    segments.append(Segment(start + done, len(part), len(chunks) - 1, len(chunks[-1])))
                    chunks[-1] += part
                    done += len(part)
            entry = self._entries[path]
            entries.append(Entry(*(getattr(entry, field) for field in Entry.__struct_fields__[:-1]), tuple(segments)))
        chunks = [chunk for chunk in chunks if chunk]
        table = [Chunk(hashlib.sha256(chunk).digest(), len(chunk), bytes(32), 0, len(chunk)) for chunk in chunks]
        return Tree(TREE_FORMAT, entries, table), chunks


def expected_states(tree: Tree, chunks: list[bytes]) -> dict[bytes, State]:
    """Return what `snapshot_directory` has to find where a tree is shown on its own."""
    found: dict[bytes, State] = {}
    links: dict[bytes, list[bytes]] = {}
    for entry in tree.entries:
        if entry.kind is Kind.HARDLINK:
            found[entry.path] = found[entry.target]
            links.setdefault(entry.target, [entry.target]).append(entry.path)
            continue
        content = entry.target
        if entry.kind is Kind.FILE:
            plain, position = hashlib.sha256(), 0
            for segment in entry.segments:
                plain.update(bytes(segment.start - position))
                plain.update(chunks[segment.chunk][segment.offset : segment.offset + segment.length])
                position = segment.start + segment.length
            plain.update(bytes(entry.size - position))
            content = plain.digest()
        kind = entry.kind.name.lower()
        found[entry.path] = State(
            kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, content, entry.xattrs
        )
    for group in links.values():
        found |= {name: found[name]._replace(group=group[0]) for name in group}
    return found


def write_image(image: object, chunks: list[bytes], path: str | os.PathLike[str]) -> None:
    """Write an `envkit.image.erofs.Image` as a whole, sparse file."""
    with open(path, "wb") as file:
        file.write(image.metadata)  # type: ignore[attr-defined]
        file.truncate(image.size)  # type: ignore[attr-defined]
        for number, extents in image.blocks.by_chunk():  # type: ignore[attr-defined]
            for extent in extents:
                file.seek(extent.image_offset)
                file.write(chunks[number][extent.offset : extent.offset + extent.length])


def acl(mode: int, *, users: Iterable[tuple[int, int]] = (), groups: Iterable[tuple[int, int]] = ()) -> bytes:
    """Return an access control list as an xattr value, that fits a file of `mode`; users and groups are (id, rwx)."""
    nobody = 0xFFFFFFFF
    rows = [(0x01, mode >> 6 & 7, nobody), *((0x02, bits, uid) for uid, bits in users), (0x04, mode >> 3 & 7, nobody)]
    rows += [(0x08, bits, gid) for gid, bits in groups]
    rows += [(0x10, mode >> 3 & 7, nobody), (0x20, mode & 7, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


def capability(permitted: int = 1 << 10, *, root: int | None = None) -> bytes:
    """Return `security.capability` with effective, permitted bits; of revision 3 if `root` is given."""
    revision = 0x02000001 if root is None else 0x03000001
    return struct.pack("<IIIII", revision, permitted, 0, 0, 0) + (b"" if root is None else struct.pack("<I", root))
