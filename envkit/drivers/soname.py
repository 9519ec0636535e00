"""Owns reading from an ELF library by which name programs load it, as ldconfig(8) does."""

import struct
from typing import BinaryIO

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_LOAD, _DYNAMIC = 1, 2
_STRINGS, _NAME = 5, 14
_MOST = 4096


def soname(path: str) -> str | None:
    """Return the name that a 64-bit library gives itself; None where it has none, or is no such library."""
    try:
        with open(path, "rb") as file:
            return _soname(file)
    except (OSError, struct.error, ValueError):
        return None


def _soname(file: BinaryIO) -> str | None:
    fields = _HEADER.unpack(file.read(_HEADER.size))
    if fields[0][:6] != b"\x7fELF\x02\x01":
        return None
    offset, size, count = fields[5], fields[9], fields[10]
    if size != _SEGMENT.size:
        return None
    file.seek(offset)
    segments = list(_SEGMENT.iter_unpack(file.read(size * count)))
    entries: dict[int, int] = {}
    for kind, _, start, _, _, length, _, _ in segments:
        if kind == _DYNAMIC:
            file.seek(start)
            entries = dict(_ENTRY.iter_unpack(file.read(min(length, _MOST * _ENTRY.size))))
    if _NAME not in entries or _STRINGS not in entries:
        return None
    for kind, _, start, address, _, length, _, _ in segments:
        if kind == _LOAD and address <= entries[_STRINGS] < address + length:
            file.seek(start + entries[_STRINGS] - address + entries[_NAME])
            name = file.read(256).split(b"\0")[0].decode("ascii")
            return name if name and "/" not in name and name.isprintable() else None
    return None
