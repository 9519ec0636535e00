"""Owns what a layer needs of the nodes that run it: which CPU its programs were compiled for, which MPI they use.

Programs that come in packages choose at run time what they use of a CPU; those that were compiled here may have been
told not to. So of the programs that no package brought the machine code is looked at. A wheel counts as a package if
its tag promises to run elsewhere (manylinux, musllinux); one that pip compiled here has the tag `linux_x86_64`.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from envkit.content.machinecode import MAGIC, MAX_PROGRAM, cpu_flags
from envkit.drivers.files import read_bounded, write_atomic
from envkit.errors import EnvkitError
from envkit.model.needs import Needs
from envkit.model.packages import conda_files, dpkg_files, pip_files
from envkit.model.tree import Entry, Kind, display_path

_FILE, _SYMLINK = Kind.FILE, Kind.SYMLINK
_MAX_LIST = 32 << 20
_MAX_NOTES = 16 << 20
_LEAST_SIZE = 64
_LIBRARY = re.compile(rb"\.so(\.[0-9.]+)?$")
_MPI = {
    "openmpi": re.compile(rb"/libmpi\.so\.[1-4]0(\.|$)"),
    "mpich": re.compile(rb"/lib(mpich|mpi)\.so\.1[0-9](\.|$)"),
}
_PORTABLE = re.compile(rb"^Tag: *\S*-(many|musl)linux|^Root-Is-Purelib: *true", re.MULTILINE)
Read = Callable[[Entry, int], bytes]
Stamp = Callable[[bytes], "tuple[int, int] | None"]


def layer_needs(entries: Sequence[Entry], read: Read, stamp: Stamp, *, notes: str) -> Needs:
    """Return what the entries of a layer need.

    :param read: gives at most so many first bytes of a file.
    :param stamp: tells one state of a file from the next one.
    :param notes: path of a file that keeps what was found the last time: it may be lost or wrong in any way but one,
        what it says of a stamp was found for that stamp.
    """
    known = _Notes(notes, stamp)
    programs = [entry for entry in entries if (entry.mode & 0o111 or b".so" in entry.path) and _is_program(entry)]
    flags = [known.flags(entry) for entry in programs]
    unknown = [entry for entry, found in zip(programs, flags, strict=True) if found is None]
    if unknown:
        owned = _owned(entries, read)
        for entry in unknown:
            known.learn(entry, [] if entry.path in owned or _resolved(entry.path) in owned else _flags(entry, read))
        known.save()
        flags = [known.flags(entry) for entry in programs]
    cpu: dict[str, str] = {}
    for entry, found in zip(programs, flags, strict=True):
        for flag in found or ():
            cpu.setdefault(flag, display_path(entry.path))
    # The longest name says most: avx512vl rather than avx.
    telling = max(cpu, key=lambda flag: (flag.startswith("a"), len(flag)), default="")
    return Needs(cpu=tuple(sorted(cpu)), cpu_file=cpu.get(telling, ""), mpi=_families(entries))


def _families(entries: Iterable[Entry]) -> tuple[str, ...]:
    paths = [b"/" + entry.path for entry in entries if b"/libmpi" in entry.path and entry.kind in (_FILE, _SYMLINK)]
    return tuple(sorted(family for family, name in _MPI.items() if any(name.search(path) for path in paths)))


def _is_program(entry: Entry) -> bool:
    if entry.kind is not _FILE or not _LEAST_SIZE < entry.size <= MAX_PROGRAM:
        return False
    return bool(entry.mode & 0o111) or _LIBRARY.search(entry.path) is not None


def _flags(entry: Entry, read: Read) -> list[str]:
    return sorted(cpu_flags(read(entry, MAX_PROGRAM))) if read(entry, len(MAGIC)) == MAGIC else []


def _resolved(path: bytes) -> bytes:
    """Return a path as packages may call it: /usr/lib is /lib to some of them."""
    return path.removeprefix(b"usr/")


def _owned(entries: Sequence[Entry], read: Read) -> set[bytes]:
    """Return the paths that packages of this layer have brought, as their lists say."""
    by_path = {entry.path: entry for entry in entries if entry.kind is _FILE}
    owned: set[bytes] = set()
    for listed, entry in by_path.items():
        parent, _, name = listed.rpartition(b"/")
        if entry.size > _MAX_LIST:
            continue
        if parent == b"var/lib/dpkg/info" and name.endswith(b".list"):
            owned.update(named.removeprefix(b"/") for named in dpkg_files(read(entry, _MAX_LIST)))
        elif parent.endswith(b"/conda-meta") and name.endswith(b".json"):
            place = parent[: -len(b"/conda-meta")]
            owned.update(place + b"/" + named for named in conda_files(read(entry, _MAX_LIST)))
        elif name == b"RECORD" and parent.endswith(b".dist-info"):
            wheel = by_path.get(parent + b"/WHEEL")
            if wheel is not None and _PORTABLE.search(read(wheel, 1 << 16)):
                place = parent.rpartition(b"/")[0]
                named = (place + b"/" + file for file in pip_files(read(entry, _MAX_LIST)))
                owned.update(os.path.normpath(path) if b".." in path else path for path in named)
    return owned


class _Notes:
    """What was found in programs that no package has brought, by path and stamp; nothing in those of packages."""

    def __init__(self, path: str, stamp: Stamp) -> None:
        self._path = path
        self._stamp = stamp
        self._old: Mapping[str, object] = {}
        self._new: dict[bytes, list[str]] = {}
        self._kept: dict[str, list[object]] = {}
        try:
            document = json.loads(read_bounded(path, _MAX_NOTES) or b"{}")
            self._old = document if isinstance(document, dict) else {}
        except (ValueError, RecursionError, EnvkitError):
            self._old = {}

    def flags(self, entry: Entry) -> list[str] | None:
        """Return the CPU flags of a program, None if they are not known yet."""
        if entry.path in self._new:
            return self._new[entry.path]
        name = entry.path.decode("utf-8", "backslashreplace")
        old, found = self._old.get(name), self._stamp(entry.path)
        if found is None or not isinstance(old, list) or old[:2] != list(found):
            return None
        self._kept[name] = old
        return [flag for flag in old[2:] if isinstance(flag, str)]

    def learn(self, entry: Entry, flags: list[str]) -> None:
        """Note what was found in a program."""
        self._new[entry.path] = flags
        found = self._stamp(entry.path)
        if found is not None:
            self._kept[entry.path.decode("utf-8", "backslashreplace")] = [*found, *flags]

    def save(self) -> None:
        """Keep what is known of the programs that were asked for, for the next time."""
        write_atomic(self._path, json.dumps(self._kept).encode(), durable=False)
