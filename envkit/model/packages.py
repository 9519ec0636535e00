"""Owns what package managers leave in a file system: where their notes lie, and how to read them.

Everything here was written by somebody else. Whatever is no note of its kind gives nothing; no input raises, and none
takes more than time and space in proportion to its size.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_NOTE = 32 << 20
"""Larger files are nobody's notes, and not read."""
_MAX_TEXT = 256
_PYTHON_PLACES = (b"site-packages", b"dist-packages")
_DPKG_STATUS = b"var/lib/dpkg/status"
_DPKG_PARTS = b"var/lib/dpkg/status.d/"


@dataclass(frozen=True, order=True)
class Package:
    """A package that is installed: by which manager, in which place (empty for the whole system), name, version."""

    manager: str
    place: str
    name: str
    version: str


@dataclass(frozen=True)
class Note:
    """A file or directory that says which packages are there; `whole` if its name alone says it."""

    manager: str
    place: bytes
    whole: Package | None = None


def note_at(path: bytes) -> Note | None:
    """Return what a path tells about packages, or None if it is none of their notes."""
    parent, _, name = path.rpartition(b"/")
    if path == _DPKG_STATUS or (parent == _DPKG_PARTS[:-1] and not name.endswith(b".md5sums")):
        return Note("dpkg", b"")
    if name == b"package.json":
        place = _npm_place(parent)
        return None if place is None else Note("npm", place)
    folder, _, above = parent.rpartition(b"/")
    if above == b"conda-meta" and name.endswith(b".json"):
        return _conda(folder, name)
    if name.endswith((b".dist-info", b".egg-info")) and above in _PYTHON_PLACES:
        return _python(parent, name)
    nameless = name in (b"METADATA", b"PKG-INFO") and above.endswith((b".dist-info", b".egg-info"))
    if nameless and folder.rpartition(b"/")[2] in _PYTHON_PLACES and _python(folder, above) is None:
        return Note("pip", folder)
    return None


def _npm_place(directory: bytes) -> bytes | None:
    """Return the project of a package's directory, if the package is not nested in another one."""
    parts = directory.split(b"/")
    if parts.count(b"node_modules") != 1:
        return None
    depth = len(parts) - parts.index(b"node_modules") - 1
    scoped = parts[-2].startswith(b"@") if len(parts) > 1 else False
    if parts[-1].startswith(b"@") or depth != (2 if scoped else 1):
        return None
    return b"/".join(parts[: parts.index(b"node_modules") + 1])


def _conda(prefix: bytes, name: bytes) -> Note | None:
    stem, _, build = name[:-5].rpartition(b"-")
    package, _, version = stem.rpartition(b"-")
    if not package or not version or not build:
        return None
    return Note("conda", prefix, _package("conda", prefix, _text(package), f"{_text(version)}={_text(build)}"))


def _python(place: bytes, name: bytes) -> Note | None:
    """Read `name-version.dist-info` or `name-version-py3.11.egg-info`; None where the name does not say it."""
    stem = name.rpartition(b".")[0]
    parts = stem.split(b"-")
    if len(parts) < 2 or not parts[0] or not parts[1][:1].isdigit():
        return None
    return Note("pip", place, _package("pip", place, python_name(_text(parts[0])), _text(parts[1])))


def _package(manager: str, place: bytes, name: str, version: str) -> Package:
    return Package(manager, "/" + _text(place, limit=4096) if place else "", name, version)


def python_name(name: str) -> str:
    """Return a Python project's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _text(data: bytes, *, limit: int = _MAX_TEXT) -> str:
    return data[:limit].decode("utf-8", "backslashreplace")


def packages_in(note: Note, data: bytes) -> list[Package]:
    """Return the packages that the content of a note names."""
    if note.manager == "dpkg":
        return _dpkg_packages(data)
    if note.manager == "npm":
        fields = _json_object(data)
        name, version = fields.get("name"), fields.get("version")
        if isinstance(name, str) and isinstance(version, str) and name:
            return [_package("npm", note.place, name[:_MAX_TEXT], version[:_MAX_TEXT])]
        return []
    if note.manager == "pip":
        header = _stanza(data[:65_536].split(b"\n\n")[0].replace(b"\r", b"").split(b"\n"))
        name_bytes, version_bytes = header.get(b"name"), header.get(b"version")
        if name_bytes and version_bytes:
            return [_package("pip", note.place, python_name(_text(name_bytes)), _text(version_bytes))]
    return []


def _dpkg_packages(data: bytes) -> list[Package]:
    found = []
    for stanza in _stanzas(data):
        name, version = stanza.get(b"package"), stanza.get(b"version")
        # The single files of images without dpkg have no status.
        status = stanza.get(b"status", b"installed").split()
        if name and version and status[-1:] == [b"installed"]:
            found.append((_text(name), _text(stanza.get(b"architecture", b"all")), _text(version)))
    usual = Counter(architecture for _, architecture, _ in found if architecture != "all").most_common(1)
    plain = {"all", *(architecture for architecture, _ in usual)}
    return [
        _package("dpkg", b"", name if architecture in plain else f"{name}:{architecture}", version)
        for name, architecture, version in found
    ]


def _stanzas(data: bytes) -> Iterator[dict[bytes, bytes]]:
    lines: list[bytes] = []
    for line in io.BytesIO(data):
        if line.strip():
            lines.append(line)
        elif lines:
            yield _stanza(lines)
            lines = []
    if lines:
        yield _stanza(lines)


def _stanza(lines: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the fields of a stanza, first lines only."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and not line.startswith((b" ", b"\t")):
            fields.setdefault(name.lower(), value.strip())
    return fields


def _json_object(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def dpkg_files(data: bytes) -> Iterator[bytes]:
    """Yield the paths of a package's `.list` file, relative to the root."""
    return (path for line in io.BytesIO(data) if line.startswith(b"/") and (path := line[1:].rstrip(b"\n")))


def pip_files(data: bytes) -> Iterator[bytes]:
    """Yield the paths of a RECORD file, as they are written: relative to its site-packages."""
    rows = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:  # a field that is too long, or the like
            continue
        if row and row[0]:
            yield row[0].encode("utf-8", "surrogateescape")


def conda_files(data: bytes) -> Iterator[bytes]:
    """Yield the paths of a conda-meta file, relative to its prefix."""
    files = _json_object(data).get("files")
    for path in files if isinstance(files, list) else ():
        if isinstance(path, str):
            yield path.encode("utf-8", "surrogatepass")
