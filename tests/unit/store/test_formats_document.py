"""The examples in docs/formats.md are what envkit reads and writes."""

import hashlib
import json
import re
from pathlib import Path

from envkit.content import frame, treefile
from envkit.model.tree import Kind
from envkit.model.version import version_from_json, version_to_json
from envkit.store.base import MAX_COMPONENT, MAX_KEY
from envkit.store.open import init_store, read_format

TEXT = (Path(__file__).parents[3] / "docs/formats.md").read_text()


def example(kind):
    (found,) = re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)
    return found


def test_the_version_is_one_byte_for_byte():
    data = example("json").encode()
    version = version_from_json(data, where="docs/formats.md")
    assert str(version) == "alice/sci@2"
    assert version_to_json(version) == data


def test_the_tree_is_one_and_has_its_digest():
    plain = bytes.fromhex(example("hex"))
    (digest,) = re.findall(r"has the digest\n`([0-9a-f]{64})`", TEXT)
    tree = treefile.decode(frame.compressor().compress(plain), digest)
    assert [(entry.path, entry.kind) for entry in tree.entries] == [(b"", Kind.DIRECTORY), (b"hello", Kind.FILE)]
    assert tree.chunks[0].digest == hashlib.sha256(b"hello\n").digest()
    assert treefile.encode(tree)[0] == digest


def test_the_format_file_is_one(tmp_path):
    (line,) = re.findall(r'    (\{"format".*\})', TEXT)
    store = init_store(str(tmp_path / "store"))
    store.delete("format.json")
    store.put_if_absent("format.json", line.encode())
    assert read_format(store).id == json.loads(line)["id"]


def test_limits_are_those_of_the_code():
    assert f"{treefile.MAX_ENTRIES:,} entries and as many chunks" in TEXT
    assert treefile.MAX_CHUNKS == treefile.MAX_ENTRIES
    assert f"at most {MAX_KEY} characters: components of 1 to {MAX_COMPONENT}" in TEXT
    assert f"Windows are at most {frame.MAX_WINDOW >> 20} MiB (2^{frame.WINDOW_LOG})" in TEXT
