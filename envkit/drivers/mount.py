"""Owns mounting: images, idmapped clones, overlays, binds, and the private namespace they live in.

Everything is mounted in a mount namespace that belongs to one envkit process, so that the kernel undoes it all when
that process and its container are gone, whatever killed them.
"""

import contextlib
import errno
import os
from collections.abc import Iterable

from envkit.drivers import libc, loop
from envkit.drivers.errors import KernelRefused

_DEVICES = "/sys/class/bdi"


def enter_private_namespace(*, follow: bool = False) -> None:
    """Give this process a mount namespace of its own, from which nothing propagates.

    :param follow: let the host's later mounts and unmounts come through, so that a process that stays for long keeps
        no disk of the host from being unmounted.
    """
    try:
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount(None, "/", None, (libc.MS_SLAVE if follow else libc.MS_PRIVATE) | libc.MS_REC)
    except OSError as error:
        raise KernelRefused("create a mount namespace", error, resolution="run as root: sudo envkit ...") from error


def mount_tmpfs(target: str, *, mode: int, uid: int = 0, gid: int = 0, size: str = "") -> None:
    """Mount an empty tmpfs, nodev and nosuid; `size` as tmpfs(5) takes it, for example `50%`."""
    data = f"mode={mode:04o},uid={uid},gid={gid}" + (f",size={size}" if size else "")
    try:
        libc.mount("tmpfs", target, "tmpfs", libc.MS_NODEV | libc.MS_NOSUID, data)
    except OSError as error:
        raise KernelRefused(f"mount a tmpfs on {target}", error) from error


def mount_image(image: str, target: str, *, through_loop: bool = False, direct: bool = False) -> None:
    """Mount an EROFS image read-only: the file itself where the kernel can (6.12), else through a loop device.

    mount(8) is not used: it would always make a loop device.

    :param direct: keep the pages of the image file out of memory, where those of the files in it are anyway. They would
        outlive the mount, though, and make the next one fast.
    """
    try:
        if not through_loop:
            for options in ("directio", None) if direct else (None,):
                try:
                    libc.mount(image, target, "erofs", libc.MS_RDONLY | libc.MS_NODEV, options)
                    return
                except OSError as error:
                    if error.errno == errno.EINVAL and options is not None:
                        continue  # before 6.15
                    if error.errno != errno.ENOTBLK:
                        raise
                    break
        device, path = loop.attach(image)
        try:
            libc.mount(path, target, "erofs", libc.MS_RDONLY | libc.MS_NODEV)
        finally:
            os.close(device)  # autoclear: the device now lives as long as the mount
    except OSError as error:
        hint = "the kernel needs EROFS: run `envkit doctor`" if error.errno == errno.ENODEV else None
        raise KernelRefused(f"mount the layer image {image}", error, resolution=hint) from error


def limit_read_ahead(before: frozenset[str], kibibytes: int) -> frozenset[str]:
    """Have the kernel read ahead less in images that were mounted from files since `before`; return their devices.

    Where it cannot be found out which those are (see `image_devices`), nothing is changed.
    """
    devices = image_devices() - before
    set_read_ahead(devices, kibibytes)
    return devices


def set_read_ahead(devices: Iterable[str], kibibytes: int) -> None:
    """Say how far the kernel reads ahead in images, by their devices; one that is gone is passed over."""
    for name in devices:
        with contextlib.suppress(OSError), open(f"{_DEVICES}/{name}/read_ahead_kb", "w", encoding="ascii") as file:
            file.write(str(kibibytes))


def image_devices() -> frozenset[str]:
    """Return the kernel's names for the backing devices of images that are mounted from files."""
    try:
        return frozenset(name for name in os.listdir(_DEVICES) if name.startswith("erofs-"))
    except OSError:
        return frozenset()


def idmapped_clone(source: str, userns: int) -> int:
    """Return a detached copy of a mount whose ids are seen through a user namespace's map."""
    try:
        clone = libc.open_tree(libc.AT_FDCWD, source, libc.OPEN_TREE_CLONE)
        try:
            libc.mount_setattr(clone, set_attributes=libc.MOUNT_ATTR_IDMAP, userns_fd=userns)
        except OSError:
            os.close(clone)
            raise
    except OSError as error:
        raise KernelRefused(f"map the ids of {source}", error, resolution="idmapped EROFS needs kernel 5.19") from error
    return clone


def mount_overlay(target: str, options: str, *, directory: str, nosuid: bool) -> None:
    """Mount an overlay; relative names in `options` are looked up in `directory`. Always nodev."""
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(directory)
        libc.mount("envkit", target, "overlay", libc.MS_NODEV | (libc.MS_NOSUID if nosuid else 0), options)
    except OSError as error:
        hint = (
            "the upper directory must be on a local ext4, XFS or Btrfs file system: move the root with --root"
            if error.errno == errno.EINVAL
            else None
        )
        raise KernelRefused(f"mount the overlay on {target}", error, resolution=hint) from error
    finally:
        os.fchdir(here)
        os.close(here)


def bind_clone(source: str | int, *, read_only: bool, recursive: bool = True) -> int:
    """Return a detached copy of `source` and (if `recursive`) all that is mounted below it, nosuid and nodev.

    :param source: a path, or a descriptor of what is to be seen.

    :raises KernelRefused: it does not exist or cannot be copied.
    """
    try:
        flags = libc.OPEN_TREE_CLONE | (libc.AT_RECURSIVE if recursive else 0)
        if isinstance(source, int):
            clone = libc.open_tree(source, "", flags | libc.AT_EMPTY_PATH)
        else:
            clone = libc.open_tree(libc.AT_FDCWD, source, flags)
        attributes = libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV | (libc.MOUNT_ATTR_RDONLY if read_only else 0)
        try:
            libc.mount_setattr(clone, set_attributes=attributes, recursive=recursive)
        except OSError:
            os.close(clone)
            raise
    except OSError as error:
        raise KernelRefused(f"bind {source}", error) from error
    return clone


def attach(mount_fd: int, target: str) -> None:
    """Attach a detached mount to a path, and close its descriptor."""
    try:
        libc.move_mount(mount_fd, libc.AT_FDCWD, target)
    except OSError as error:
        raise KernelRefused(f"attach a mount to {target}", error) from error
    finally:
        os.close(mount_fd)


def attach_to(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount onto an open file or directory, and close the mount's descriptor."""
    try:
        libc.move_mount(mount_fd, target_fd)
    except OSError as error:
        raise KernelRefused("attach a mount", error) from error
    finally:
        os.close(mount_fd)


def clone_from_namespace(pid: int, path: str) -> int | None:
    """Return a detached copy of the mount at `path` in another process's mount namespace; None if it is not there.

    Copies share the file system behind them, so that all containers of a node share one page cache.
    """
    try:
        theirs = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    ours = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc.unshare(libc.CLONE_FS)  # setns(2) refuses while threads share the working directory
        libc.setns(theirs, libc.CLONE_NEWNS)
        try:
            return libc.open_tree(libc.AT_FDCWD, path, libc.OPEN_TREE_CLONE)
        except OSError:
            return None
        finally:
            libc.setns(ours, libc.CLONE_NEWNS)
            os.fchdir(here)
    except OSError:
        return None
    finally:
        for descriptor in (theirs, ours, here):
            os.close(descriptor)


def detach(target: str) -> None:
    """Take a mount and all below it out of this namespace at once; it ends when its last user does."""
    try:
        libc.umount(target, libc.MNT_DETACH)
    except OSError as error:
        raise KernelRefused(f"unmount {target}", error) from error
