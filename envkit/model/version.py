"""Owns the version: the immutable record that gives a name to a stack of layers, and its JSON form.

A version lists every layer that it needs, the base's first, so that nothing else has to be read to run it. Records of
other kinds share the numbers of versions and say something about them (see `VersionKind`).
On the path of `envkit run`: the JSON is checked by hand here rather than by a schema library.
"""

import enum
import json
import re
import zlib

from envkit.errors import Damaged, InvalidInput
from envkit.model.ids import MAX_VERSION, EnvName, is_digest, is_tag
from envkit.model.needs import NOTHING, Needs, needs_from_json, needs_to_json
from envkit.model.record import Record

VERSION_FORMAT = 1
MAX_VERSION_BYTES = 4 * 1024 * 1024
MAX_LAYERS = 400

# Packs and trees are addressed by their digest; a version is not, so it carries a checksum against bit rot.
_CRC = b'"crc32": "%s"'
_NO_CRC = "00000000"
_TOKEN = re.compile(r"[0-9a-f]{32}|")


class VersionKind(enum.Enum):
    """What a version record says."""

    BASE = "base"
    ENVIRONMENT = "environment"
    TOMBSTONE = "tombstone"
    """Deletes the versions that it names; its own number stays taken."""
    RESTORE = "restore"
    """Brings the versions that it names back, if they were deleted."""
    TAG = "tag"
    """Lets a tag stand for a version, or for none."""
    DESCRIBE = "describe"
    """Changes the environment's description."""


class LayerRef(Record):
    """A layer of a stack: hex digest of its tree, number of entries, logical bytes, bytes that its save stored."""

    tree: str
    entries: int
    size: int
    stored: int


class Finding(Record):
    """One thing that sanitizing did or was told to let pass; the path is for people (see `display_path`)."""

    rule: str
    path: str
    action: str


class Report(Record):
    """What sanitizing did: version of the rule set, and its findings."""

    ruleset: int
    findings: tuple[Finding, ...] = ()


class Version(Record):
    """One version of an environment or a base, or a record of another kind.

    `created` is UTC as in 2026-01-31T12:00:00Z, `arch` as in uname(1), `needs` what else nodes must have.
    `description` is the environment's, which
    versions carry on; `origin` names the version that this one is a copy of. `token` is random, so that no two writers
    ever write the same bytes. `deletes`, `restores`, `tag` with `target` (0 for none) and `renamed` (the name that the
    deleted versions now have) belong to records of other kinds.
    """

    env: EnvName
    number: int
    kind: VersionKind
    layers: tuple[LayerRef, ...] = ()
    base: str | None = None
    parent: str | None = None
    origin: str | None = None
    deletes: tuple[int, ...] = ()
    renamed: EnvName | None = None
    restores: tuple[int, ...] = ()
    tag: str | None = None
    target: int = 0
    message: str = ""
    description: str = ""
    author: str = ""
    created: str = ""
    arch: str = ""
    needs: Needs = NOTHING
    token: str = ""
    report: Report | None = None

    def __str__(self) -> str:
        return f"{self.env}@{self.number}"

    @property
    def is_version(self) -> bool:
        """Whether this is a version, and not a record that speaks of versions."""
        return self.kind is VersionKind.ENVIRONMENT or self.kind is VersionKind.BASE

    @property
    def size(self) -> int:
        """Logical bytes of all layers."""
        return sum(layer.size for layer in self.layers)


class Newest(Record):
    """The newest version of an environment, its description as it stands, and the tags that mean this version."""

    version: Version
    description: str
    tags: tuple[str, ...]


def version_to_json(version: Version) -> bytes:
    """Return the stored form: JSON with sorted keys, ending in a newline.

    `crc32` is taken over all of it, with eight zeros in its own place.
    """
    document: dict[str, object] = {
        "format": VERSION_FORMAT,
        "crc32": _NO_CRC,
        "owner": version.env.owner,
        "name": version.env.name,
        "version": version.number,
        "kind": version.kind.value,
        "layers": [{field: getattr(layer, field) for field in LayerRef._fields} for layer in version.layers],
        "base": version.base,
        "parent": version.parent,
        "origin": version.origin,
        "deletes": list(version.deletes),
        "message": version.message,
        "description": version.description,
        "author": version.author,
        "created": version.created,
        "arch": version.arch,
        "token": version.token,
    }
    if version.needs != NOTHING:
        document["needs"] = needs_to_json(version.needs)
    if version.restores:
        document["restores"] = list(version.restores)
    if version.tag is not None:
        document |= {"tag": version.tag, "target": version.target}
    if version.renamed is not None:
        document["renamed"] = str(version.renamed)
    if version.report is not None:
        findings = [[f.rule, f.path, f.action] for f in version.report.findings]
        document["report"] = {"ruleset": version.report.ruleset, "findings": findings}
    data = json.dumps(document, sort_keys=True, indent=1).encode() + b"\n"
    return data.replace(_CRC % _NO_CRC.encode(), _CRC % f"{zlib.crc32(data):08x}".encode(), 1)


def version_from_json(data: bytes, *, where: str) -> Version:
    """Read a stored version; `where` names the object in messages.

    :raises Damaged: it is no version record, or one of a newer format.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{where} is not a version record", details=str(error)) from error
    if not isinstance(document, dict):
        raise Damaged(f"{where} is not a version record")
    found = document.get("format")
    if found != VERSION_FORMAT:
        raise Damaged(
            f"{where} has format {found!r:.20}, this envkit reads format {VERSION_FORMAT}", resolution="update envkit"
        )
    try:
        _check_crc(data, _text(document["crc32"]))
        return _version(document)
    except (KeyError, TypeError, ValueError, InvalidInput) as error:
        raise Damaged(f"{where} is not a valid version record", details=str(error)) from error


def _check_crc(data: bytes, stored: str) -> None:
    # Quotes inside JSON strings are escaped, so the field's text cannot occur in a message or a path.
    plain = data.replace(_CRC % stored.encode(), _CRC % _NO_CRC.encode(), 1)
    if stored != f"{zlib.crc32(plain):08x}":
        raise ValueError("the checksum does not fit")


def _version(document: dict[str, object]) -> Version:
    report, tag, renamed = (document.get(field) for field in ("report", "tag", "renamed"))
    version = Version(
        env=EnvName(owner=_text(document["owner"]), name=_text(document["name"])),
        number=_number(document["version"]),
        kind=VersionKind(document["kind"]),
        layers=tuple(_layer(item) for item in _list(document["layers"])),
        base=_optional_text(document["base"]),
        parent=_optional_text(document["parent"]),
        origin=_optional_text(document.get("origin")),
        deletes=tuple(_number(item) for item in _list(document["deletes"])),
        renamed=None if renamed is None else _env(_text(renamed)),
        restores=tuple(_number(item) for item in _list(document.get("restores", []))),
        tag=_optional_text(tag),
        target=_number(document["target"]) if tag is not None else 0,
        message=_text(document["message"]),
        description=_text(document.get("description", "")),
        author=_text(document["author"]),
        created=_text(document["created"]),
        arch=_text(document["arch"]),
        needs=needs_from_json(document.get("needs")),
        token=_text(document.get("token", "")),
        report=None if report is None else _report(report),
    )
    _check_rules(version)
    return version


def _check_rules(version: Version) -> None:
    kind, number = version.kind, version.number
    if not 0 < number <= MAX_VERSION or len(version.layers) > MAX_LAYERS or version.is_version != bool(version.layers):
        raise ValueError("layers or version out of range")
    if version.deletes and kind is not VersionKind.TOMBSTONE:
        raise ValueError("it deletes versions but is no tombstone")
    if version.renamed is not None and kind is not VersionKind.TOMBSTONE:
        raise ValueError("it names a new name but is no tombstone")
    if version.restores and kind is not VersionKind.RESTORE:
        raise ValueError("it restores versions but is of another kind")
    if (version.tag is not None) != (kind is VersionKind.TAG):
        raise ValueError("it is a tag without a name, or names one but is of another kind")
    if version.tag is not None and not is_tag(version.tag):
        raise ValueError("the name of its tag is invalid")
    if not all(0 < named < number for named in (*version.deletes, *version.restores)) or version.target >= number:
        raise ValueError("it speaks of versions that did not come before it")
    if not _TOKEN.fullmatch(version.token):
        raise ValueError("its token is not 32 hexadecimal digits")


def _env(text: str) -> EnvName:
    owner, _, name = text.partition("/")
    return EnvName(owner=owner, name=name)


def _layer(item: object) -> LayerRef:
    if not isinstance(item, dict) or set(item) != set(LayerRef._fields):
        raise ValueError("a layer has the wrong fields")
    tree = _text(item["tree"])
    if not is_digest(tree):
        raise ValueError("a layer has no valid digest")
    counts = {field: _number(item[field]) for field in ("entries", "size", "stored")}
    return LayerRef(tree=tree, **counts)


def _report(item: object) -> Report:
    if not isinstance(item, dict):
        raise ValueError("the report is no object")
    findings = []
    for row in _list(item["findings"]):
        rule, path, action = (_text(cell) for cell in _list(row))
        findings.append(Finding(rule=rule, path=path, action=action))
    return Report(ruleset=_number(item["ruleset"]), findings=tuple(findings))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not text")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r:.40} is not a number in range")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is not a list")
    return value
