"""Owns reading CDI files, in which an admin says what belongs to a device: nodes, libraries, variables.

The Container Device Interface is what container engines agree on; `nvidia-ctk cdi generate --format=json` writes such a
file. Hooks are never executed: two that everybody uses are understood, see `Edits`.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence

from envkit.drivers.files import read_bounded
from envkit.errors import Damaged, EnvkitError, NotFound
from envkit.model.record import Record

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_MAX_BYTES = 4 << 20
_MAX_FILES = 64
_MAX_ITEMS = 4096
_LDCACHE = "update-ldcache"
_SYMLINKS = "create-symlinks"


class Edits(Record):
    """What a container gets with a device: nodes and mounts as (path of the host, path in the container), mounts with
    whether they can be written, variables; links as (path, target), and directories in which libraries are looked for.
    """

    nodes: tuple[tuple[str, str], ...] = ()
    mounts: tuple[tuple[str, str, bool], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()


class Kind(Record):
    """Devices of one kind, such as `nvidia.com/gpu`, by name; `common` comes with each of them."""

    name: str
    devices: dict[str, Edits]
    common: Edits


class BrokenCdi(Damaged):
    """A CDI file is not what it should be."""

    def __init__(self, path: str, why: object) -> None:
        super().__init__(f"{path} is no valid CDI file: {why}", resolution="write it again, as with nvidia-ctk")


def read_kinds(directories: Sequence[str] = DIRECTORIES) -> list[Kind]:
    """Return what the CDI files of this machine say; of two files for one kind, the later directory counts.

    :raises NotFound: there are only YAML files.
    :raises BrokenCdi: one is none.
    """
    kinds: dict[str, Kind] = {}
    other = ""
    for directory in directories:
        for name in _names(directory):
            path = f"{directory}/{name}"
            if name.endswith((".yaml", ".yml")):
                other = path
            elif name.endswith(".json"):
                kind = _read(path)
                kinds[kind.name] = kind
    if other and not kinds:
        raise NotFound(
            f"{other} is YAML, and envkit reads JSON only",
            resolution=f"nvidia-ctk cdi generate --format=json --output={other.rpartition('.')[0]}.json",
        )
    return list(kinds.values())


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))[:_MAX_FILES]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: str) -> Kind:
    try:
        data = read_bounded(path, _MAX_BYTES) or b""
        document = _object(json.loads(data))
        devices = {}
        for item in _items(document, "devices"):
            device = _object(item)
            devices[_text(device, "name")] = _edits(_object(device.get("containerEdits") or {}))
        common = _edits(_object(document.get("containerEdits") or {}))
        return Kind(name=_text(document, "kind"), devices=devices, common=common)
    except (ValueError, TypeError, KeyError, RecursionError, EnvkitError) as error:
        raise BrokenCdi(path, error) from error


def _edits(fields: Mapping[str, object]) -> Edits:
    nodes = []
    for item in map(_object, _items(fields, "deviceNodes")):
        path = _path(item, "path")
        nodes.append((_path(item, "hostPath") if item.get("hostPath") else path, path))
    mounts = []
    for item in map(_object, _items(fields, "mounts")):
        writable = "rw" in _items(item, "options")
        mounts.append((_path(item, "hostPath"), _path(item, "containerPath"), writable))
    variables = []
    for text in _items(fields, "env"):
        if not isinstance(text, str) or not text.isprintable() or text.find("=") < 1:
            raise ValueError(f"{text!r:.80} is no variable")
        name, _, value = text.partition("=")
        variables.append((name, value))
    links: list[tuple[str, str]] = []
    folders: list[str] = []
    for item in map(_object, _items(fields, "hooks")):
        words = [word for word in _items(item, "args") if isinstance(word, str)]
        if _LDCACHE in words:
            folders += _values(words, "--folder")
        elif _SYMLINKS in words:
            for value in _values(words, "--link"):
                target, separator, path = value.partition("::")
                if not separator or not target or not _is_path(path):
                    raise ValueError(f"{value!r:.80} is no link")
                links.append((path, target))
    if not all(map(_is_path, folders)):
        raise ValueError("a directory of libraries is no absolute path")
    return Edits(
        nodes=tuple(nodes),
        mounts=tuple(mounts),
        variables=tuple(variables),
        links=tuple(links),
        folders=tuple(folders),
    )


def _values(words: Sequence[str], option: str) -> Iterator[str]:
    """Yield the values of an option, given as two words or as one."""
    for number, word in enumerate(words):
        if word == option and number + 1 < len(words):
            yield words[number + 1]
        elif word.startswith(f"{option}="):
            yield word.partition("=")[2]


def _is_path(path: str) -> bool:
    return path.startswith("/") and path.isprintable() and ".." not in path.split("/") and ":" not in path


def _path(fields: Mapping[str, object], name: str) -> str:
    path = _text(fields, name)
    if not _is_path(path):
        raise ValueError(f"{name} is {path!r:.80}, no absolute path")
    return path


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} is no text")
    return value


def _items(fields: Mapping[str, object], name: str) -> list[object]:
    value = fields.get(name) or []
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise TypeError(f"{name} is no list of at most {_MAX_ITEMS}")
    return value


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} is no object")
    return value
