"""Owns the mounted stack: layer images, shared with other containers of this node, below a writable upper.

    MNT/layers/DIGEST   one image, ids as stored; other containers copy this mount, so that all share a page cache
    MNT/lower/N         the same, ids mapped into the container's range; 0 is the topmost
    MNT/root            the overlay

All of it lies on a tmpfs in this process's private mount namespace. Host users see an empty directory.
"""

import os
from collections.abc import Sequence

from envkit.drivers import mount
from envkit.drivers.files import locked
from envkit.drivers.userns import user_namespace
from envkit.model.idmap import IdMap
from envkit.model.paths import Paths
from envkit.model.record import Record
from envkit.node.instance import Holder, live_holders, write_holder

_STARTING_READ_AHEAD = 16
"""KiB that the kernel reads ahead while first touches are recorded, or come in a start pack: those of the program."""


class StackSpec(Record):
    """What to stack: (digest, image file) of each layer, the lowest first; the directory with `upper` and `work`.

    `options` is overlay(5)'s option string for the names `0:1:...` of the lowers and the two directories. `own` says
    that the stack lives and ends with this process, which others may then copy its layers from; the monitor of a
    session records itself. `alone`: no layer is shared with containers that run already, as its reads are recorded.
    `starting`: the kernel is to read ahead only a little in what is mounted now.
    """

    layers: tuple[tuple[str, str], ...]
    directory: str
    ids: IdMap
    options: str
    nosuid: bool
    own: bool
    alone: bool = False
    starting: bool = False


def mount_stack(paths: Paths, spec: StackSpec, *, through_loop: bool) -> tuple[str, frozenset[str]]:
    """Mount a stack in this process's private namespace; return its root and the devices that read ahead a little only.

    Call `mount.enter_private_namespace` first. Records this process as the holder of the layers, if it is.
    """
    mount.mount_tmpfs(paths.mnt, mode=0o755)
    layers, lower, root = (f"{paths.mnt}/{name}" for name in ("layers", "lower", "root"))
    os.mkdir(layers, 0o700)
    os.mkdir(lower, 0o755)
    os.mkdir(root, 0o755)
    with locked(paths.lock):
        devices = mount.image_devices() if spec.starting else frozenset()
        _mount_layers(paths, spec.layers, layers, [] if spec.alone else live_holders(paths), through_loop=through_loop)
        limited = mount.limit_read_ahead(devices, _STARTING_READ_AHEAD) if spec.starting else frozenset()
        if spec.own:
            write_holder(spec.directory, os.getpid(), tuple(digest for digest, _ in spec.layers))
    userns = user_namespace(spec.ids)
    try:
        for number, (digest, _) in enumerate(reversed(spec.layers)):
            os.mkdir(f"{lower}/{number}")
            mount.attach(mount.idmapped_clone(f"{layers}/{digest}", userns), f"{lower}/{number}")
    finally:
        os.close(userns)
    _prepare_upper(spec, f"{lower}/0")
    mount.mount_overlay(root, spec.options, directory=lower, nosuid=spec.nosuid)
    return root, limited


def _mount_layers(
    paths: Paths,
    layers: Sequence[tuple[str, str]],
    directory: str,
    holders: Sequence[Holder],
    *,
    through_loop: bool,
) -> None:
    """Mount each layer below `directory`: a copy of a holder's mount of it, else the image itself."""
    for digest, image in layers:
        target = f"{directory}/{digest}"
        os.mkdir(target)
        for holder in holders:
            if digest in holder.layers:
                clone = mount.clone_from_namespace(holder.pid, target)
                if clone is not None:
                    mount.attach(clone, target)
                    break
        else:
            # The image server's file is read from its cache, which is on a disk; a complete image stays in memory for
            # the next container.
            mount.mount_image(image, target, through_loop=through_loop, direct=not image.startswith(paths.layers))


def _prepare_upper(spec: StackSpec, top: str) -> None:
    """Create the upper and work directories; the upper's own attributes become those of the merged root."""
    upper = f"{spec.directory}/upper"
    work = f"{spec.directory}/work"
    if not os.path.isdir(upper):
        # Renamed into place when it is complete, so that a kill cannot leave an upper with the wrong owner.
        unfinished = f"{upper}.new"
        attributes = os.stat(top)
        os.makedirs(unfinished, mode=0o700, exist_ok=True)
        os.chown(unfinished, attributes.st_uid, attributes.st_gid)
        os.chmod(unfinished, attributes.st_mode & 0o7777)
        os.utime(unfinished, ns=(attributes.st_mtime_ns, attributes.st_mtime_ns))
        os.rename(unfinished, upper)
    os.makedirs(work, mode=0o700, exist_ok=True)


def unmount_stack(paths: Paths) -> None:
    """Take the stack out of this process's namespace."""
    mount.detach(paths.mnt)
