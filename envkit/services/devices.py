"""Owns which devices of this machine a job gets: GPUs as CDI files describe them, and nodes that it names itself."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from envkit.drivers import cdi
from envkit.drivers.caller import find_caller, groups_of
from envkit.drivers.lxc import Device
from envkit.drivers.soname import soname
from envkit.errors import InvalidInput, NotFound
from envkit.model.job import Volume
from envkit.node.devices import Devices

ALL = "all"
_MAX_NODES = 256
_GPU = "/gpu"
_HOW = "describe them in /etc/cdi, as with `nvidia-ctk cdi generate --format=json --output=/etc/cdi/nvidia.json`"


def find_devices(gpus: str | None, paths: Sequence[str], *, directories: Sequence[str] = cdi.DIRECTORIES) -> Devices:
    """Return what a job gets for the GPUs and the device nodes that it asks for.

    :param gpus: "all", or names with commas; `VENDOR/CLASS=NAME` where several kinds of GPU have them.
    :param directories: where CDI files are.
    :raises NotFound: there is no such device.
    :raises InvalidInput: a path is none of a device.
    """
    edits = [] if gpus is None else _gpu_edits(gpus, cdi.read_kinds(directories))
    nodes = dict.fromkeys(Device(source=source, target=target) for edit in edits for source, target in edit.nodes)
    for path in paths:
        nodes |= dict.fromkeys(Device(source=node, target=node) for node in _nodes(path))
    if len(nodes) > _MAX_NODES:
        raise InvalidInput(f"these are {len(nodes)} devices, and a job gets {_MAX_NODES} at most")
    groups = {os.stat(node.source).st_gid for node in nodes if _is_device(node.source)}
    for node in nodes:
        if not _is_device(node.source):
            raise NotFound(f"this machine has no device {node.source}")
    mounts = dict.fromkeys(mount for edit in edits for mount in edit.mounts)
    folders = tuple(dict.fromkeys(folder for edit in edits for folder in edit.folders))
    return Devices(
        nodes=tuple(nodes),
        mounts=tuple(Volume(source=one, target=other, read_only=not writable) for one, other, writable in mounts),
        variables=tuple(pair for edit in edits for pair in edit.variables),
        links=tuple(dict.fromkeys(link for edit in edits for link in edit.links)),
        folders=folders,
        names=tuple(_library_names(mounts, folders)) if folders else (),
        gids=tuple(sorted(groups.intersection(groups_of(find_caller(os.environ))) - {0})),
    )


def _gpu_edits(text: str, kinds: Sequence[cdi.Kind]) -> list[cdi.Edits]:
    """Return what belongs to GPUs, by their names."""
    known = [kind for kind in kinds if kind.name.endswith(_GPU)]
    if not known:
        raise NotFound("this machine has no GPU that envkit knows of", resolution=_HOW)
    found: list[cdi.Edits] = []
    for word in text.split(","):
        name = word.strip()
        wanted, _, own = name.rpartition("=")
        matching = [kind for kind in known if wanted in ("", kind.name)]
        if own == ALL:
            for kind in matching:
                whole = kind.devices.get(ALL)
                found += [kind.common, *([whole] if whole else kind.devices.values())]
            continue
        matching = [kind for kind in matching if own in kind.devices]
        if not matching:
            names = ", ".join(name for kind in known for name in kind.devices)
            raise NotFound(f"this machine has no GPU {name!r:.80}", resolution=f"it has {names:.500}")
        if len(matching) > 1:
            raise InvalidInput(
                f"several kinds of GPU have one {name!r:.80}",
                resolution="say which, as in " + " or ".join(f"{kind.name}={own}" for kind in matching),
            )
        found += [matching[0].common, matching[0].devices[own]]
    return found


def _library_names(mounts: Iterable[tuple[str, str, bool]], folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names by which programs load libraries, where these are not the names of their files."""
    for source, target, _ in mounts:
        if target.rpartition("/")[0] in folders:
            name = soname(source)
            if name is not None and name != target.rpartition("/")[2]:
                yield name, target


def _nodes(path: str) -> list[str]:
    """Return the device nodes that a path means: itself, or those in a directory."""
    if not path.startswith("/dev/") or ".." in path.split("/"):
        raise InvalidInput(
            f"--device {path!r:.80} is no path below /dev", resolution="as in --device /dev/dri/renderD128"
        )
    real = os.path.realpath(path)
    if real.startswith("/dev/") and os.path.isdir(real):
        return [node for name in sorted(os.listdir(real)) if _is_device(node := f"{path.rstrip('/')}/{name}")]
    if not _is_device(path):
        raise NotFound(f"this machine has no device {path}")
    return [path]


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
