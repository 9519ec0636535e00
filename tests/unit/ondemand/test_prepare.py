"""Making a layer's place in the cache: what comes from a store is looked at wholly before anything is made of it."""

import hashlib
import os
import subprocess
import sys

import msgspec
import pytest
import zstandard
from support import TreeBuilder

from envkit.cache.layer import CachedLayer
from envkit.content import treefile
from envkit.content.errors import DamagedTree
from envkit.model.paths import Paths
from envkit.model.tree import Chunk, Entry, Kind, Segment, Tree
from envkit.ondemand.prepare import prepare

ROOT = Entry(b"", Kind.DIRECTORY, mode=0o755)
CHUNK = Chunk(bytes(32), 100, bytes(32), 0, 100)


def stored(tree):
    """A tree as somebody writes it who checks nothing: its digest and its stored form."""
    plain = msgspec.msgpack.encode(tree)
    return hashlib.sha256(plain).hexdigest(), zstandard.compress(plain)


@pytest.fixture
def paths(tmp_path):
    return Paths.at(str(tmp_path))


def test_a_layer_gets_its_place_once(paths):
    builder = TreeBuilder()
    builder.file(b"a", b"text")
    digest, data = treefile.encode(builder.build()[0])
    asked = []

    def get_tree():
        asked.append(True)
        return data

    prepare(paths, digest, get_tree)
    prepare(paths, digest, get_tree)
    assert asked == [True]
    layer = CachedLayer.open(paths.layer(digest))
    assert layer.total_bytes == 4
    layer.close()


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (Tree(1, [ROOT, Entry(b"w", Kind.WHITEOUT, mode=1)], []), "/w has attributes but no inode"),
        (Tree(1, [ROOT, Entry(b"b", Kind.FILE), Entry(b"a", Kind.FILE)], []), "/a is out of order"),
        (Tree(1, [ROOT, Entry(b"../a", Kind.FILE)], []), "/../a is in a directory that the tree does not have"),
        (Tree(1, [ROOT, Entry(b"a", Kind.FILE, size=9, segments=(Segment(0, 9, 0, 92),))], [CHUNK]), "end of a chunk"),
        (Tree(1, [ROOT], [Chunk(bytes(32), 100, bytes(32), -1, 100)]), "an impossible size or offset"),
        (Tree(1, [ROOT], [], 1 << 40), "its epoch is out of range"),
        (Tree(1, [], []), "the first entry is not the root directory"),
    ],
)
def test_a_tree_that_breaks_a_rule_leaves_nothing(paths, tree, problem):
    digest, data = stored(tree)
    with pytest.raises(DamagedTree, match=problem):
        prepare(paths, digest, lambda: data)
    assert not os.path.exists(f"{paths.layer(digest)}/map")
    assert not os.path.exists(f"{paths.trees}/{digest}")


def test_a_tree_with_another_digest_is_not_even_decoded(paths):
    digest, data = stored(Tree(1, [ROOT], []))
    with pytest.raises(DamagedTree, match="its content has another digest"):
        prepare(paths, digest[::-1], lambda: data)


def test_msgspec_is_imported_without_what_it_does_not_need_and_that_can_still_be_imported():
    program = """
import sys
from envkit.ondemand.lean import import_msgspec
import_msgspec()
assert "msgspec" in sys.modules and "typing_extensions" not in sys.modules
import envkit.content.startpack, envkit.content.treefile, envkit.cache.mapfile
import typing_extensions
print(typing_extensions is sys.modules["typing_extensions"])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"
