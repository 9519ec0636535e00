"""Owns the store in a directory: local disk, NFS, Lustre. The default, and it needs no server.

Own code rather than obstore's local backend: that one does not fsync, so what it acknowledges can be gone after a
power cut, and its import would cost every run more than all the reading here. Directories are opened component by
component and nothing is followed through a symbolic link, except the way to the store's own directory.

An object is written as a temporary file beside its place, synced, and given its name by link(2), which fails if the
name is taken: all of it is there or nothing, and one of several writers wins. Who may read a store is decided by the
mode of its directory; objects and directories in it follow the umask.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from envkit.store.base import Status, Store, is_component
from envkit.store.errors import (
    ObjectNotFound,
    ObjectTooLarge,
    ObjectTruncated,
    StoreError,
    StoreFull,
    StoreUnreadable,
    StoreUnwritable,
    reason,
)

# "~" cannot be part of a key, which keeps these files out of every listing.
_TEMPORARY = "~tmp."
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: opening a planted FIFO must not hang.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class DirectoryStore(Store):
    """A store below `path`, an existing directory."""

    def __init__(self, path: str) -> None:
        super().__init__(url=path)
        self._path = path
        # Directories whose entry in their parent is known to be on disk; nothing removes them.
        self._durable: set[str] = set()

    def remove_leftovers(self, *, older_than: float) -> int:
        """Remove temporary files of killed writers, last written over `older_than` seconds ago; return how many.

        Ages are taken from the clock of the store's filesystem, which may be another machine's.
        """
        now = self.now()
        root = self._root()
        try:
            with self._writing():
                return _remove_leftovers(root, now - older_than)
        finally:
            os.close(root)

    def _get(self, key: str, limit: int) -> bytes:
        with self._file(key) as (fd, status):
            if status.size > limit:
                raise ObjectTooLarge(self.url, key, status.size, limit)
            return self._read(fd, key, 0, status.size)

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        with self._file(key) as (fd, status):
            if start + length > status.size:
                raise ObjectTruncated(self.url, key, status.size, start + length)
            return self._read(fd, key, start, length)

    def _status(self, key: str) -> Status | None:
        try:
            with self._file(key) as (_, status):
                return status
        except ObjectNotFound:
            return None

    def _put_if_absent(self, key: str, pieces: Iterable[bytes]) -> bool:
        folder, _, name = key.rpartition("/")
        parent = self._made(folder)
        try:
            # Looking first spares writing a whole pack for nothing; link decides.
            created = self._status(key) is None and self._write(parent, name, pieces)
            # Also where the object was there already: its writer may not have come to this yet.
            with self._writing():
                os.fsync(parent)
        finally:
            os.close(parent)
        return created

    def _delete(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        with self._folder(folder) as parent, self._writing():
            if parent is not None:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=parent)
                os.fsync(parent)

    def _list(self, prefix: str) -> Iterator[str]:
        with self._folder(prefix.rstrip("/")) as folder:
            if folder is not None:
                yield from self._walk(folder, prefix)

    def _walk(self, folder: int, prefix: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as entries:
                # The slash gives the order of whole keys: "a.b" comes before "a/b".
                names = sorted(self._listed(entry, prefix) for entry in entries if is_component(entry.name))
        except OSError as error:
            raise self._unreadable(prefix, error) from error
        for name in names:
            if not name.endswith("/"):
                yield prefix + name
            elif (child := self._child(folder, name[:-1], prefix + name)) is not None:
                try:
                    yield from self._walk(child, prefix + name)
                finally:
                    os.close(child)

    def _listed(self, entry: "os.DirEntry[str]", prefix: str) -> str:
        if entry.is_dir(follow_symlinks=False):
            return entry.name + "/"
        if entry.is_file(follow_symlinks=False):
            return entry.name
        # Passing over it could hide a part of the store that somebody moved to another disk.
        raise self._foreign(prefix + entry.name)

    def _root(self) -> int:
        try:
            return os.open(self._path, _DIRECTORY)
        except FileNotFoundError as error:
            raise StoreUnreadable(
                self.url,
                reason(error),
                resolution=f"check whether its filesystem is mounted; `envkit store init {self._path}` makes a new one",
            ) from error
        except OSError as error:
            raise StoreUnreadable(self.url, reason(error)) from error

    def _child(self, folder: int, name: str, path: str) -> int | None:
        try:
            return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(path, error) from error

    @contextmanager
    def _folder(self, folder: str) -> Iterator[int | None]:
        """Open a directory of the store; give None if it does not exist."""
        fd = self._root()
        try:
            for part in folder.split("/") if folder else ():
                child = self._child(fd, part, folder)
                if child is None:
                    yield None
                    return
                fd, parent = child, fd  # first: a signal may come in between, and nothing is closed twice
                os.close(parent)
            yield fd
        finally:
            os.close(fd)

    def _made(self, folder: str) -> int:
        """Open a directory of the store, made where it is missing; every step to it is durable on return."""
        fd = self._root()
        path = ""
        for part in folder.split("/") if folder else ():
            path += f"{part}/"
            try:
                if path not in self._durable:
                    with self._writing():
                        with suppress(FileExistsError):
                            os.mkdir(part, dir_fd=fd)
                        # Also for one that was there: whoever made it may not have come to this yet.
                        os.fsync(fd)
                    self._durable.add(path)
                child = self._child(fd, part, path)
            finally:
                os.close(fd)
            if child is None:
                raise StoreUnwritable(self.url, f"{path} was removed meanwhile")
            fd = child
        return fd

    @contextmanager
    def _file(self, key: str) -> Iterator[tuple[int, Status]]:
        """Open an object for reading; give its descriptor and its status."""
        folder, _, name = key.rpartition("/")
        with self._folder(folder) as parent:
            if parent is None:
                raise ObjectNotFound(self.url, key)
            try:
                fd = os.open(name, _READ, dir_fd=parent)
            except FileNotFoundError as error:
                raise ObjectNotFound(self.url, key) from error
            except OSError as error:
                raise self._unreadable(key, error) from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise self._foreign(key)
            yield fd, Status(size=status.st_size, modified=status.st_mtime)
        finally:
            os.close(fd)

    def _read(self, fd: int, key: str, start: int, length: int) -> bytes:
        pieces = []
        while length:
            try:
                piece = os.pread(fd, length, start)
            except OSError as error:
                raise self._unreadable(key, error) from error
            if not piece:
                raise ObjectTruncated(self.url, key, start, start + length)
            pieces.append(piece)
            start += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _write(self, parent: int, name: str, pieces: Iterable[bytes]) -> bool:
        """Write an object beside its place and give it its name; return whether the name was free."""
        temporary = _temporary_name()
        try:
            with self._writing():
                out = os.open(temporary, _CREATE, 0o444, dir_fd=parent)
            try:
                for piece in pieces:
                    with self._writing():
                        _write_all(out, piece)
                with self._writing():
                    os.fsync(out)
            finally:
                # NFS reports a full quota as late as here, so this comes before the name is given.
                with self._writing():
                    os.close(out)
            return self._link(parent, temporary, name)
        finally:
            with suppress(OSError):  # what stays behind goes with `remove_leftovers`
                os.unlink(temporary, dir_fd=parent)

    def _link(self, parent: int, temporary: str, name: str) -> bool:
        with self._writing():
            try:
                os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                # An NFS client that repeats a request hears "exists" about the link that it made itself.
                return os.stat(temporary, dir_fd=parent, follow_symlinks=False).st_nlink > 1
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                raise StoreUnwritable(
                    self.url,
                    f"its filesystem makes no hard links ({reason(error)})",
                    resolution="use a directory on ext4, XFS, Btrfs, NFS or Lustre",
                ) from error
        return True

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Translate what the kernel says about writing."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(self.url, reason(error)) from error
            raise StoreUnwritable(self.url, reason(error)) from error

    def _unreadable(self, path: str, error: OSError) -> StoreError:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            return self._foreign(path)
        return StoreUnreadable(self.url, f"{path}: {reason(error)}")

    def _foreign(self, path: str) -> StoreError:
        return StoreUnreadable(
            self.url,
            f"{path} is a symbolic link or a special file, and those are not followed",
            resolution="remove it, or put the real files in its place",
        )


def _temporary_name() -> str:
    return f"{_TEMPORARY}{os.urandom(8).hex()}"


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _remove_leftovers(folder: int, before: float) -> int:
    removed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            # Writers are at work meanwhile: what was listed may have got its name, and lost this one.
            with suppress(FileNotFoundError):
                removed += _remove_leftover(folder, entry, before)
    return removed


def _remove_leftover(folder: int, entry: "os.DirEntry[str]", before: float) -> int:
    if entry.is_dir(follow_symlinks=False):
        child = os.open(entry.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            return _remove_leftovers(child, before)
        finally:
            os.close(child)
    if not entry.name.startswith(_TEMPORARY) or entry.stat(follow_symlinks=False).st_mtime >= before:
        return 0
    os.unlink(entry.name, dir_fd=folder)
    return 1
