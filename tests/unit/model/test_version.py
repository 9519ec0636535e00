import json

import pytest

from envkit.errors import Damaged, EnvkitError
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
    message='two lines\nand "quotes" and ünicode',
    author="alice",
    created="2026-01-31T12:00:00Z",
    arch="x86_64",
    report=Report(ruleset=1, findings=(Finding(rule="R001", path="/etc/ssh/x", action="drop"),)),
)


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
    ],
)
def test_records_that_break_the_format_are_damaged(change):
    document = json.loads(version_to_json(VERSION)) | change
    with pytest.raises(EnvkitError) as caught:
        version_from_json(json.dumps(document).encode(), where="envs/x")
    assert "envs/x" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000, b'{"format": 1}'])
def test_bytes_that_are_no_record_are_damaged(data):
    with pytest.raises(Damaged, match="envs/x"):
        version_from_json(data, where="envs/x")
