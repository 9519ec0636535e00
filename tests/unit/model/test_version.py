import json
import zlib

import pytest

from envkit.errors import Damaged
from envkit.model.ids import EnvName
from envkit.model.version import (
    Finding,
    LayerRef,
    Report,
    Version,
    VersionKind,
    version_from_json,
    version_to_json,
)

VERSION = Version(
    env=EnvName(owner="alice", name="sci"),
    number=3,
    kind=VersionKind.ENVIRONMENT,
    layers=(LayerRef(tree="ab" * 32, entries=7, size=1 << 40, stored=9),),
    base="base/debian-12@1",
    parent="alice/sci@2",
    origin="bob/sci@7",
    description="solver",
    token="0123456789abcdef" * 2,
    message='two lines\nand "quotes" and ünicode',
    author="alice",
    created="2026-01-31T12:00:00Z",
    arch="x86_64",
    report=Report(ruleset=1, findings=(Finding(rule="R001", path="/etc/ssh/x", action="drop"),)),
)


def signed(document):
    """Return a record with a checksum that fits."""
    data = json.dumps(document | {"crc32": "00000000"}).encode()
    return data.replace(b'"crc32": "00000000"', b'"crc32": "%08x"' % zlib.crc32(data))


def test_a_version_survives_being_stored():
    assert version_from_json(version_to_json(VERSION), where="here") == VERSION


def test_a_newer_format_is_refused_by_number():
    document = json.loads(version_to_json(VERSION)) | {"format": 2}
    with pytest.raises(Damaged) as caught:
        version_from_json(json.dumps(document).encode(), where="envs/x")
    assert caught.value.brief == "envs/x has format 2, this envkit reads format 1"
    assert caught.value.resolution == "update envkit"


@pytest.mark.parametrize(
    "change",
    [
        {"layers": []},
        {"layers": [{"tree": "x" * 64, "entries": 1, "size": 1, "stored": 1}]},
        {"layers": [{"tree": "ab" * 32, "entries": 1, "size": 1, "stored": 1, "extra": 1}]},
        {"layers": [{"tree": "ab" * 32, "entries": -1, "size": 1, "stored": 1}]},
        {"layers": {}},
        {"version": 0},
        {"version": True},
        {"version": "3"},
        {"name": "../x"},
        {"owner": "a/b"},
        {"kind": "other"},
        {"deletes": ["1"]},
        {"message": 5},
        {"report": {"ruleset": 1, "findings": [["R1", "x"]]}},
        {"report": []},
        {"origin": 5},
        {"description": None},
        {"token": "0" * 31},
        {"token": "X" * 32},
        {"token": None},
        {"restores": [1]},
        {"kind": "restore", "restores": [1]},
        {"tag": "stable", "target": 1},
        {"renamed": "alice/other"},
        {"version": 100_000_000},
        {"layers": [{"tree": "ab" * 32, "entries": 1, "size": 1, "stored": 1}] * 401},
    ],
)
def test_records_that_break_the_format_are_damaged(change):
    document = json.loads(version_to_json(VERSION)) | change
    with pytest.raises(Damaged, match="envs/x is not a valid version record") as caught:
        version_from_json(signed(document), where="envs/x")
    assert "checksum" not in caught.value.details


def _record(kind, **fields):
    return Version(env=VERSION.env, number=5, kind=kind, author="alice", created=VERSION.created, **fields)


@pytest.mark.parametrize(
    "record",
    [
        _record(VersionKind.TAG, tag="stable", target=4),
        _record(VersionKind.TAG, tag="stable"),
        _record(VersionKind.RESTORE, restores=(1, 3)),
        _record(VersionKind.DESCRIBE, description="new"),
        _record(VersionKind.TOMBSTONE, deletes=(4,), renamed=EnvName(owner="bob", name="other")),
    ],
)
def test_records_of_other_kinds_survive_being_stored(record):
    assert version_from_json(version_to_json(record), where="here") == record
    assert not record.is_version


def test_a_record_of_before_there_were_tags_can_be_read():
    document = json.loads(version_to_json(VERSION))
    for field in ("origin", "description", "token"):
        del document[field]
    plain = VERSION.replace(origin=None, description="", token="")
    assert version_from_json(signed(document), where="here") == plain


TAG = _record(VersionKind.TAG, tag="stable", target=4)
TOMBSTONE = _record(VersionKind.TOMBSTONE, deletes=(4,), renamed=EnvName(owner="bob", name="other"))
RESTORE = _record(VersionKind.RESTORE, restores=(1, 3))


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (TAG, {"target": 5}),
        (TAG, {"target": -1}),
        (TAG, {"target": "4"}),
        (TAG, {"target": True}),
        (TAG, {"tag": ""}),
        (TAG, {"tag": None}),
        (TAG, {"tag": 4}),
        (TAG, {"tag": "latest"}),
        (TAG, {"tag": "4"}),
        (TAG, {"tag": "../x"}),
        (TAG, {"tag": "a" * 65}),
        (TAG, {"kind": "describe"}),
        (TAG, {"deletes": [1]}),
        (TOMBSTONE, {"renamed": "bob"}),
        (TOMBSTONE, {"renamed": "bob/other/third"}),
        (TOMBSTONE, {"renamed": "../other"}),
        (TOMBSTONE, {"renamed": 5}),
        (TOMBSTONE, {"deletes": [5]}),
        (TOMBSTONE, {"deletes": [0]}),
        (RESTORE, {"restores": [5]}),
        (RESTORE, {"restores": ["1"]}),
        (RESTORE, {"restores": 1}),
        (RESTORE, {"kind": "tombstone"}),
    ],
)
def test_records_of_other_kinds_are_held_to_their_rules(record, change):
    document = json.loads(version_to_json(record))
    assert version_from_json(signed(document), where="envs/x") == record
    with pytest.raises(Damaged, match="envs/x is not a valid version record") as caught:
        version_from_json(signed(document | change), where="envs/x")
    assert "checksum" not in caught.value.details


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000, b'{"format": 1}'])
def test_bytes_that_are_no_record_are_damaged(data):
    with pytest.raises(Damaged, match="envs/x"):
        version_from_json(data, where="envs/x")
