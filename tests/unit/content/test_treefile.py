"""Trees keep their meaning in the store, and bytes that are not a tree never become one."""

import gc
import hashlib
import time
import tracemalloc

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import TreeBuilder
from tree_strategies import hostile_trees, trees

from envkit.content import frame, treefile
from envkit.content.errors import DamagedTree, NewerTree
from envkit.errors import EXIT_DAMAGED, Damaged, EnvkitError
from envkit.model.tree import Chunk, Entry, Kind, Tree, check_tree

_slow = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def stored(plain):
    """Return digest and stored form of bytes that need not be a tree."""
    return hashlib.sha256(plain).hexdigest(), frame.compressor().compress(plain)


def refused(plain, problem, error=DamagedTree):
    digest, data = stored(plain)
    with pytest.raises(error, match=problem) as caught:
        treefile.decode(data, digest)
    assert digest in caught.value.brief
    assert caught.value.exit_code == EXIT_DAMAGED
    return caught.value


@given(trees())
@_slow
def test_a_tree_is_the_same_after_storing_and_its_digest_is_that_of_the_plain_bytes(made):
    tree = made[0]
    digest, data = treefile.encode(tree)
    assert treefile.decode(data, digest) == tree
    assert treefile.encode(tree) == (digest, data)
    assert hashlib.sha256(msgspec.msgpack.encode(tree)).hexdigest() == digest


@given(trees(), st.data())
@_slow
def test_a_changed_bit_or_a_missing_end_never_gives_another_tree(made, data):
    digest, whole = treefile.encode(made[0])
    changed = bytearray(whole)
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, len(changed) * 8 - 1))
        changed[bit // 8] ^= 1 << bit % 8
    else:
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    try:
        decoded = treefile.decode(bytes(changed), digest)
    except DamagedTree as error:
        assert error.brief.startswith(f"tree {digest} is damaged: ")
    else:
        assert decoded == made[0], "a bit that means nothing may change; what is read may not"


@given(hostile_trees())
@_slow
def test_a_tree_that_breaks_a_rule_is_neither_written_nor_read(made):
    tree = made[0]
    try:
        plain = msgspec.msgpack.encode(tree)
    except (msgspec.MsgspecError, OverflowError):
        return
    try:
        check_tree(tree)
    except Damaged:
        with pytest.raises(Damaged):
            treefile.encode(tree)
        refused(plain, "is damaged")
    else:
        assert treefile.decode(*reversed(treefile.encode(tree))) == tree


@given(st.binary(max_size=200))
def test_random_bytes_are_no_tree(plain):
    digest, data = stored(plain)
    with pytest.raises((DamagedTree, NewerTree)):
        treefile.decode(data, digest)


def test_another_tree_under_the_digest_is_refused():
    _, data = treefile.encode(TreeBuilder().build()[0])
    with pytest.raises(DamagedTree, match="its content has another digest"):
        treefile.decode(data, "ab" * 32)


@pytest.mark.parametrize("number", [2, 127, 128, 300, 70_000, 1 << 40])
@pytest.mark.parametrize("rest", [[], [{"entries": 5}, "anything"], [[]] * 20, [[]] * 70_000])
def test_a_newer_format_is_refused_by_number_whatever_its_shape(number, rest):
    plain = msgspec.msgpack.encode([number, *rest])
    error = refused(plain, f"has format {number}, this envkit reads format 1", NewerTree)
    assert error.resolution == "update envkit"
    assert error.format == number


ROOT = Entry(b"", Kind.DIRECTORY, 0o755)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([1, [], []], "the first entry is not the root directory"),
        ([0, [ROOT], []], "tree of format 0"),
        ([1, [ROOT]], "Expected `array` of at least length 3"),
        ([1, [ROOT], [], 4, 5], "Expected `array` of at most length 4"),
        ([1, [ROOT], [], -1], "its epoch is out of range"),
        ({"format": 1}, "Expected `array`, got `object`"),
        ([True, [ROOT], []], "Expected `int`, got `bool`"),
        ([1.0, [ROOT], []], "Expected `int`, got `float`"),
        ([1, [["", 1]], []], "Expected `bytes`, got `str`"),
        ([1, [[b"", 9]], []], "Invalid enum value 9"),
        ([1, [[b""]], []], "Expected `array` of at least length 2"),
        ([1, [[b"", 1, -1]], []], "impossible mode"),
        ([1, [ROOT], [[b"x" * 31, 1, b"y" * 32, 0, 1]]], "a digest of the wrong length"),
        ([1, [ROOT], [[b"x" * 32, 5 << 20, b"y" * 32, 0, 1]]], "an impossible size"),
        ([1, [ROOT, [b"a/../b", 2]], []], "impossible path"),
    ],
)
def test_a_wrong_shape_is_damage_with_its_place(document, problem):
    refused(msgspec.msgpack.encode(document), problem)


def test_trailing_bytes_are_refused():
    refused(msgspec.msgpack.encode(TreeBuilder().build()[0]) + b"\0", "trailing characters")


@pytest.mark.parametrize(
    "plain",
    [
        b"\x91" * 10_000_000,
        b"\x93\x01" + b"\x91" * 10_000_000,
        b"\x93\x01\x91\x9b\xc4\0\x01\0\0\0\0\0\xc4\0\xc2" + b"\x91" * 10_000_000,
        b"\x93\x01\xdd\xff\xff\xff\xff",
        b"\x93\x01\xdd" + (treefile.MAX_ENTRIES + 1).to_bytes(4, "big") + b"\x92\xc4\0\x01" * 1000,
        b"\x93\x01\x91\x92\xc6\xff\xff\xff\xff",
        b"\x93\x01\x90\xdd" + (treefile.MAX_CHUNKS + 1).to_bytes(4, "big"),
    ],
    ids=["deep", "deep entries", "deep xattrs", "endless list", "too many entries", "endless path", "too many chunks"],
)
def test_bombs_are_refused_at_once(plain):
    digest, data = stored(plain)
    before = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(DamagedTree):
            treefile.decode(data, digest)
        assert tracemalloc.get_traced_memory()[1] < len(plain) + (8 << 20)
    finally:
        tracemalloc.stop()
    assert time.monotonic() - before < 5


def test_a_declared_size_over_the_limit_is_refused_before_it_is_allocated():
    data = b"\x28\xb5\x2f\xfd\xe0" + (10 << 30).to_bytes(8, "little") + b"\x03\0\0"
    with pytest.raises(DamagedTree, match="it declares 10737418240 bytes, more than the 1073741824"):
        treefile.decode(data, "ab" * 32)


def test_a_tree_that_no_reader_would_accept_is_not_written(monkeypatch):
    monkeypatch.setattr(treefile, "MAX_ENTRIES", 1)
    builder = TreeBuilder()
    builder.file(b"a", b"1")
    with pytest.raises(EnvkitError, match="this layer is too large: 2 entries, 1 chunks") as caught:
        treefile.encode(builder.build()[0])
    assert caught.value.resolution


@pytest.mark.parametrize("enabled", [True, False])
def test_decoding_leaves_the_collector_as_it_was(enabled):
    digest, data = treefile.encode(TreeBuilder().build()[0])
    try:
        (gc.enable if enabled else gc.disable)()
        treefile.decode(data, digest)
        with pytest.raises(DamagedTree):
            refused(b"\x93\x01\x91\x91\x91", "is damaged")
            treefile.decode(data, "ab" * 32)
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_the_stored_form_is_that_of_the_documentation():
    tree = Tree(
        1,
        [ROOT, Entry(b"f", Kind.FILE, 0o644, 1, 2, 3, 1)],
        [Chunk(b"\1" * 32, 1, b"\2" * 32, 0, 10)],
        epoch=7,
    )
    plain = frame.unpack(treefile.encode(tree)[1], size=len(msgspec.msgpack.encode(tree)))
    assert plain == (
        b"\x94\x01\x92"
        b"\x9b\xc4\x00\x01\xcd\x01\xed\x00\x00\x00\x00\xc4\x00\xc2\x90\x90"
        b"\x9b\xc4\x01f\x02\xcd\x01\xa4\x01\x02\x03\x01\xc4\x00\xc2\x90\x90"
        b"\x91\x95\xc4\x20" + b"\1" * 32 + b"\x01\xc4\x20" + b"\2" * 32 + b"\x00\x0a\x07"
    )
