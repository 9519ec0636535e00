"""Squashing: one layer in place of several, and nobody can see the difference."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support import TreeBuilder
from tree_strategies import trees

from envkit.model.merge import merge, sorted_entries
from envkit.model.squash import squash
from envkit.model.tree import TREE_FORMAT, Entry, Kind, Tree, check_tree


def build(make):
    builder = TreeBuilder()
    make(builder)
    return builder.build()[0]


def squashed(below, *layers):
    """Squash layers on trees below; return the new tree, checked against the format and against the view."""
    lower = merge(tree.entries for tree in below)
    entries, chunks = squash(lower, layers)
    tree = Tree(TREE_FORMAT, entries, chunks)
    check_tree(tree)
    assert shown([*below, tree]) == shown([*below, *layers])
    assert needless(lower, tree) == []
    return tree


def shown(stack):
    """Return the merged view of a stack, with contents by digest in place of numbers of chunks."""
    return merge([[_by_content(entry, tree) for entry in tree.entries] for tree in stack])


def _by_content(entry, tree):
    places = [(s.start, s.length, tree.chunks[s.chunk].digest, s.offset) for s in entry.segments]
    return replace(entry, segments=tuple(places))


def needless(lower, tree):
    """Return the whiteouts that overlayfs would show, since nothing lies below them."""
    by_path = {entry.path: entry for entry in tree.entries}
    found = []
    for entry in tree.entries:
        if entry.kind is not Kind.WHITEOUT:
            continue
        path, alone = entry.path, entry.path not in lower
        while path:
            path = path.rpartition(b"/")[0]
            above = lower.get(path)
            alone = alone or by_path[path].opaque or above is None or above.kind is not Kind.DIRECTORY
        if alone:
            found.append(entry.path)
    return found


def kinds(tree):
    return {entry.path: entry.kind.name + ("!" if entry.opaque else "") for entry in tree.entries if entry.path}


@st.composite
def stacks(draw):
    """Return trees of a base and of layers on it, each made for what lies below it."""
    stack = [draw(trees())[0]]
    for _ in range(draw(st.integers(1, 4))):
        view = Tree(TREE_FORMAT, sorted_entries(merge(tree.entries for tree in stack)), [])
        stack.append(draw(trees(beneath=view))[0])
    return stack


@given(stacks(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_squashed_stack_looks_like_the_stack(stack, data):
    first = data.draw(st.integers(1, len(stack) - 1))
    tree = squashed(stack[:first], *stack[first:])
    digests = [chunk.digest for chunk in tree.chunks]
    assert len(set(digests)) == len(digests)
    assert {s.chunk for entry in tree.entries for s in entry.segments} == set(range(len(digests)))


@given(stacks())
@settings(max_examples=50, deadline=None)
def test_squashing_in_two_steps_is_squashing(stack):
    base, *layers = stack
    if len(layers) > 2:
        part = squashed([base], *layers[:2])
        assert shown([base, squashed([base], part, *layers[2:])]) == shown(stack)


_PATHS = (b"a", b"b", b"c", b"d", b"d/a", b"d/b", b"d/e", b"d/e/a", b"f")


@st.composite
def crowded(draw):
    """Return a layer on few paths, so that layers meet: directories, files, hard links, whiteouts of anything."""
    builder, directories, files = TreeBuilder(), {b""}, []
    for path in _PATHS:
        if path.rpartition(b"/")[0] not in directories:
            continue
        kind = draw(st.sampled_from(("", "directory", "opaque", "file", "link", "whiteout")))
        if kind in ("directory", "opaque"):
            builder.directory(path, opaque=kind == "opaque")
            directories.add(path)
        elif kind == "link" and files:
            builder.hardlink(path, draw(st.sampled_from(files)))
        elif kind in ("file", "link"):
            builder.file(path, draw(st.sampled_from((b"one", b"two", b"three"))))
            files.append(path)
        elif kind == "whiteout":
            builder.whiteout(path)
    return builder.build()[0]


@given(st.lists(crowded(), min_size=3, max_size=6))
@settings(max_examples=600, deadline=None)
def test_a_squashed_stack_of_layers_that_meet_looks_like_the_stack(stack):
    squashed(stack[:1], *stack[1:])


BASE = build(
    lambda b: (b.file(b"d/x", b"base"), b.file(b"d/e/y", b"base"), b.file(b"f", b"base"), b.symlink(b"l", b"f"))
)


def test_what_comes_and_goes_leaves_nothing():
    tree = squashed([BASE], build(lambda b: b.file(b"new", b"1")), build(lambda b: b.whiteout(b"new")))
    assert kinds(tree) == {}
    assert tree.chunks == []


def test_what_goes_from_the_base_stays_gone():
    tree = squashed([BASE], build(lambda b: b.whiteout(b"d")), build(lambda b: b.whiteout(b"f")))
    assert kinds(tree) == {b"d": "WHITEOUT", b"f": "WHITEOUT"}


def test_a_directory_that_comes_back_is_opaque():
    tree = squashed([BASE], build(lambda b: b.whiteout(b"d")), build(lambda b: b.file(b"d/n", b"new")))
    assert kinds(tree) == {b"d": "DIRECTORY!", b"d/n": "FILE"}


def test_a_directory_in_place_of_a_file_in_place_of_a_directory_is_opaque():
    tree = squashed([BASE], build(lambda b: b.file(b"d", b"file")), build(lambda b: b.directory(b"d")))
    assert kinds(tree) == {b"d": "DIRECTORY!"}


def test_a_directory_in_place_of_a_file_of_the_base_needs_no_mark():
    tree = squashed([BASE], build(lambda b: b.whiteout(b"f")), build(lambda b: b.file(b"f/in", b"new")))
    assert kinds(tree) == {b"f": "DIRECTORY", b"f/in": "FILE"}


def test_a_file_over_a_whiteout_is_the_file():
    tree = squashed([BASE], build(lambda b: b.whiteout(b"d")), build(lambda b: b.file(b"d", b"file")))
    assert kinds(tree) == {b"d": "FILE"}


def test_a_whiteout_in_an_opaque_directory_would_show():
    first = build(lambda b: (b.directory(b"d", opaque=True), b.file(b"d/x", b"own")))
    tree = squashed([BASE], first, build(lambda b: b.whiteout(b"d/x")))
    assert kinds(tree) == {b"d": "DIRECTORY!"}


def test_a_whiteout_above_a_file_that_only_a_squashed_layer_has_goes_and_one_of_the_base_stays():
    first = build(lambda b: (b.file(b"d/new", b"1"), b.file(b"d/x", b"2")))
    tree = squashed([BASE], first, build(lambda b: (b.whiteout(b"d/new"), b.whiteout(b"d/x"))))
    assert kinds(tree) == {b"d": "DIRECTORY", b"d/x": "WHITEOUT"}


def test_an_opaque_directory_above_a_merged_one_hides_both():
    first = build(lambda b: (b.file(b"d/one", b"1"), b.file(b"d/x", b"2")))
    tree = squashed([BASE], first, build(lambda b: (b.directory(b"d", opaque=True), b.file(b"d/two", b"3"))))
    assert kinds(tree) == {b"d": "DIRECTORY!", b"d/two": "FILE"}


def test_a_hard_link_outlives_its_first_name():
    first = build(lambda b: (b.file(b"a", b"data"), b.hardlink(b"b", b"a"), b.hardlink(b"c", b"a")))
    tree = squashed([BASE], first, build(lambda b: b.whiteout(b"a")))
    by_path = {entry.path: entry for entry in tree.entries}
    assert kinds(tree) == {b"b": "FILE", b"c": "HARDLINK"}
    assert by_path[b"c"].target == b"b"
    assert by_path[b"b"].size == 4
    tree = squashed([BASE], first, build(lambda b: b.file(b"a", b"another")))
    assert kinds(tree) == {b"a": "FILE", b"b": "FILE", b"c": "HARDLINK"}


def test_only_the_chunks_that_are_still_used_are_kept_and_each_content_once():
    first = build(lambda b: (b.file(b"a", b"one" * 99), b.file(b"b", b"two" * 99)))
    twin = build(lambda b: (b.file(b"c", b"one" * 99), b.file(b"d/z", b"two" * 99)))
    again = squashed([BASE], first, twin)
    assert again.chunks == first.chunks
    gone = build(lambda b: [b.whiteout(path) for path in (b"a", b"b", b"c")] and b.whiteout(b"d/z"))
    assert squashed([BASE], first, twin, gone).chunks == []


def test_the_check_for_needless_whiteouts_finds_one():
    lower = merge([BASE.entries])
    assert needless(lower, build(lambda b: b.whiteout(b"nothing"))) == [b"nothing"]
    inside = build(lambda b: (b.directory(b"d", opaque=True), b.whiteout(b"d/x")))
    assert needless(lower, inside) == [b"d/x"]
    assert needless(lower, build(lambda b: b.whiteout(b"d/x"))) == []


def test_the_comparison_of_views_finds_other_contents():
    one, two = (build(lambda b, data=data: b.file(b"a", data)) for data in (b"one", b"two"))
    assert shown([BASE, one]) != shown([BASE, two])
    assert isinstance(shown([BASE])[b"f"], Entry)
