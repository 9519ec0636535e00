"""Owns changes to a mounted root file system from the outside, before a container starts in it.

The content of an environment is hostile: a symlink at any place may lead anywhere. Every path is resolved by the
kernel inside the root (openat2 with RESOLVE_IN_ROOT), so links can only lead to other places of the same root.
"""

import contextlib
import errno
import os
import stat

from envkit.drivers import libc, mount
from envkit.drivers.files import io_error
from envkit.errors import EnvkitError, InvalidInput
from envkit.model.idmap import IdMap, outside

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_MAX_ATTEMPTS = 8


class Rootfs:
    """A root directory as its container will see it; ids given to its methods are the container's."""

    def __init__(self, path: str, ids: IdMap) -> None:
        self.path = path
        self._ids = ids
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> "Rootfs":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)  # a directory that is held cannot be unmounted

    def _open(self, path: str, flags: int) -> int:
        for _ in range(_MAX_ATTEMPTS):
            with contextlib.suppress(BlockingIOError):  # EAGAIN: something was renamed during the walk
                return libc.openat2(self._fd, path.lstrip("/") or ".", flags, resolve=libc.RESOLVE_IN_ROOT)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)

    def read_file(self, path: str, limit: int) -> bytes | None:
        """Return a regular file's bytes, or None where there is none; raise EnvkitError if it is beyond `limit`."""
        try:
            descriptor = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO):
                return None
            raise io_error(f"read {path} of the environment", error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise EnvkitError(f"{path} of the environment is larger than {limit} bytes")
        return data

    def exists(self, path: str) -> bool:
        """Tell whether a path leads to something."""
        try:
            os.close(self._open(path, os.O_PATH))
        except OSError:
            return False
        return True

    def is_executable(self, path: str) -> bool | None:
        """Tell whether a path leads to a file that may be executed; None where it leads to nothing."""
        try:
            descriptor = self._open(path, os.O_PATH)
        except OSError as error:
            return None if error.errno in (errno.ENOENT, errno.ENOTDIR) else False
        try:
            mode = os.fstat(descriptor).st_mode
        finally:
            os.close(descriptor)
        return stat.S_ISREG(mode) and bool(mode & 0o111)

    def interpreter(self, path: str) -> str | None:
        """Return the interpreter that a script names after `#!`, or None where the file is no script."""
        try:
            descriptor = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return None
        try:
            head = os.read(descriptor, 256)
        finally:
            os.close(descriptor)
        words = head[2:].split(b"\n")[0].split() if head.startswith(b"#!") else []
        return os.fsdecode(words[0]) if words else None

    def make_directory(self, path: str, *, uid: int = 0, gid: int = 0, mode: int = 0o755) -> int:
        """Return a descriptor of a directory; what is missing of the path is created with the given owner."""
        try:
            current = os.open(".", _DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
            walked = ""
            for name in path.split("/"):
                if name in ("", "."):
                    continue
                if name == "..":
                    raise InvalidInput(f"the path {path!r} holds '..'")
                walked = f"{walked}/{name}"
                try:
                    following = self._open(walked, _DIRECTORY)
                except FileNotFoundError:
                    os.mkdir(name, 0o700, dir_fd=current)
                    following = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
                    os.fchown(following, *self._host_ids(uid, gid))
                    os.fchmod(following, mode)
                os.close(current)
                current = following
        except OSError as error:
            raise io_error(f"create {path} in the environment", error) from error
        return current

    def replace_file(self, path: str, data: bytes, *, uid: int = 0, gid: int = 0, mode: int = 0o644) -> None:
        """Put a regular file at a path, in place of the file or symlink that may be there."""
        directory, _, name = path.rpartition("/")
        parent = self.make_directory(directory)
        temporary = f".envkit-{os.getpid()}"
        try:
            descriptor = os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
                dir_fd=parent,
            )
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fchown(descriptor, *self._host_ids(uid, gid))
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError as error:
            raise io_error(f"write {path} in the environment", error) from error
        finally:
            os.close(parent)

    def require_mount_points(self) -> None:
        """Make sure that LXC finds real directories for what it mounts; those that are missing are created.

        :raises EnvkitError: the environment has a link or a file there.
        """
        for name in ("dev", "proc", "sys"):
            try:
                mode = os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode
            except FileNotFoundError:
                os.close(self.make_directory(name))
            else:
                if not stat.S_ISDIR(mode):
                    raise EnvkitError(
                        f"/{name} of the environment is no directory", resolution=f"containers need a real /{name}"
                    )

    def link(self, path: str, target: str) -> None:
        """Put a symlink at a path where nothing is yet; its directory is created if it is missing."""
        directory, _, name = path.rpartition("/")
        parent = self.make_directory(directory)
        try:
            with contextlib.suppress(FileExistsError):
                os.symlink(target, name, dir_fd=parent)
        except OSError as error:
            raise io_error(f"create {path} in the environment", error) from error
        finally:
            os.close(parent)

    def mount_tmpfs(self, path: str, *, mode: int = 0o755) -> None:
        """Mount an empty tmpfs of the container's root at a path, which must be a directory or nothing yet."""
        target = self.make_directory(path)
        try:
            mount.mount_tmpfs(
                f"/proc/self/fd/{target}", mode=mode, uid=self._ids.root_uid, gid=self._ids.root_gid, size="50%"
            )
        finally:
            os.close(target)

    def bind(self, source: str | int, target: str, *, read_only: bool, recursive: bool = True) -> None:
        """Bind a host's file or directory, a path or a descriptor, to a path, which is created if it is missing."""
        clone = mount.bind_clone(source, read_only=read_only, recursive=recursive)
        if stat.S_ISDIR(os.fstat(clone).st_mode):
            place = self.make_directory(target)
        else:
            if not self.exists(target):
                self.replace_file(target, b"")
            place = self._open(target, os.O_PATH)
        try:
            mount.attach_to(clone, place)
        finally:
            os.close(place)

    def _host_ids(self, uid: int, gid: int) -> tuple[int, int]:
        return outside(self._ids.uids, uid), outside(self._ids.gids, gid)
