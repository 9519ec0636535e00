"""Owns the directory view of a layer: applying a tree to a real directory, as root.

Applied to an empty directory it gives what the EROFS image of the same tree shows, without the whiteouts; applied to
what the layers below gave, it gives what overlayfs shows. Nobody else may change the directory meanwhile.
"""

import os
from collections.abc import Callable, Sequence

from envkit.image.errors import BrokenTree, CannotApply
from envkit.image.rules import check_entry, check_name, checked_segments, root_of
from envkit.image.walk import Walk, clear, is_directory, remove
from envkit.model.tree import Chunk, Entry, Kind, Tree
from envkit.model.xattrs import allowed_xattr

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def apply_tree(tree: Tree, read_chunk: Callable[[int], bytes], directory: str) -> None:
    """Apply a layer to an existing directory.

    Whiteouts delete, opaque directories lose what they held, files are replaced, and directories keep what the layer
    does not list. Holes of files stay holes.

    :param tree: has passed `check_tree`.
    :param read_chunk: returns the plain, verified bytes of a chunk by its number in the tree; it is asked again for
        a chunk whose files are not neighbours.
    :raises BrokenTree: the tree breaks a rule of the format.
    :raises CannotApply: the file system refused; what was written so far stays.
    """
    at = root_of(tree)
    try:
        with Walk(directory) as top, Walk(directory) as walk:
            view = _View(top.fd, walk, tree.chunks, read_chunk)
            inside = [at]
            for entry in tree.entries[1:]:
                check_name(entry.path, entry.name)
                check_entry(entry)
                while inside and inside[-1].path != entry.parent:
                    at = inside.pop()
                    view.finish(at)
                if not inside:
                    raise BrokenTree(entry.path, "is in a directory that the tree does not have")
                at = entry
                view.put(entry)
                if entry.kind is Kind.DIRECTORY:
                    inside.append(entry)
            while inside:
                at = inside.pop()
                view.finish(at)
    except OSError as error:
        raise CannotApply(at.path, directory, error) from error


class _View:
    """The directory that entries are put into; `walk` is where the next one goes."""

    def __init__(self, top: int, walk: Walk, chunks: Sequence[Chunk], read_chunk: Callable[[int], bytes]) -> None:
        self._top = top
        self._walk = walk
        self._chunks = chunks
        self._read_chunk = read_chunk
        self._last_chunk: tuple[int, bytes] = (-1, b"")
        self._linkable: set[bytes] = set()

    def put(self, entry: Entry) -> None:
        """Create or delete one entry in the current directory; a directory becomes the current one."""
        name, here = entry.name, self._walk.fd
        if entry.kind is Kind.DIRECTORY:
            self._put_directory(entry)
            return
        remove(here, name)
        match entry.kind:
            case Kind.FILE:
                self._put_file(entry)
            case Kind.SYMLINK:
                os.symlink(entry.target, name, dir_fd=here)
                _describe_symlink(here, entry)
            case Kind.FIFO:
                os.mkfifo(name, 0o600, dir_fd=here)
                fifo = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                try:
                    _describe(fifo, entry)
                finally:
                    os.close(fifo)
            case Kind.HARDLINK:
                self._put_link(entry)
                return
            case Kind.WHITEOUT:
                return
        self._linkable.add(entry.path)

    def finish(self, directory: Entry) -> None:
        """Give the current directory its owner, mode, attributes and time, now that all is in it, and leave it.

        Not before: a default access control list would be inherited, and each new name changes the time.
        """
        _describe(self._walk.fd, directory)
        if directory.path:
            self._walk.leave()

    def _put_directory(self, entry: Entry) -> None:
        if not is_directory(self._walk.fd, entry.name):
            remove(self._walk.fd, entry.name)
            os.mkdir(entry.name, 0o700, dir_fd=self._walk.fd)
        self._walk.enter(entry.name)
        if entry.opaque:
            clear(self._walk.fd)

    def _put_file(self, entry: Entry) -> None:
        file = os.open(entry.name, _NEW_FILE, 0o600, dir_fd=self._walk.fd)
        try:
            os.ftruncate(file, entry.size)
            for segment in checked_segments(entry, self._chunks):
                data = memoryview(self._chunk(segment.chunk))[segment.offset : segment.offset + segment.length]
                if len(data) != segment.length:
                    raise BrokenTree(entry.path, "has content in a chunk that is shorter than the tree says")
                position = segment.start
                while data:
                    written = os.pwrite(file, data, position)
                    data, position = data[written:], position + written
            _describe(file, entry)
        finally:
            os.close(file)

    def _chunk(self, number: int) -> bytes:
        # Small files that follow one another share a chunk.
        if self._last_chunk[0] != number:
            self._last_chunk = (number, self._read_chunk(number))
        return self._last_chunk[1]

    def _put_link(self, entry: Entry) -> None:
        if entry.target not in self._linkable:
            raise BrokenTree(entry.path, "links to something that does not come before it")
        *parents, target = entry.target.split(b"/")
        with Walk(self._top) as walk:
            for parent in parents:
                walk.enter(parent)
            os.link(target, entry.name, src_dir_fd=walk.fd, dst_dir_fd=self._walk.fd, follow_symlinks=False)


def _describe(target: int, entry: Entry) -> None:
    """Set owner, mode, attributes and time through a descriptor, in the order in which none undoes another.

    A new owner clears set-user-ID bits and file capabilities, a new mode rewrites an access control list.
    """
    os.fchown(target, entry.uid, entry.gid)
    os.fchmod(target, entry.mode)
    wanted = dict(entry.xattrs)
    for name in map(os.fsencode, os.listxattr(target)):
        # Inherited from a default access control list, or left by the layer below.
        if allowed_xattr(name) and name not in wanted:
            os.removexattr(target, name)
    for name, value in entry.xattrs:
        os.setxattr(target, name, value)
    os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))


def _describe_symlink(parent: int, entry: Entry) -> None:
    """Set owner, attributes and time of a symlink, which has no mode and no descriptor that could do it."""
    name = entry.name
    os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    for xattr, value in entry.xattrs:
        os.setxattr(b"/proc/self/fd/%d/%s" % (parent, name), xattr, value, follow_symlinks=False)
    os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
