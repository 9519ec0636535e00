"""The rules of trees: which one is broken first is told, however quickly ordinary entries are passed."""

import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace
from support import TreeBuilder
from tree_strategies import hostile_trees, trees

from envkit.errors import Damaged
from envkit.model import tree as model
from envkit.model.tree import MAX_DEPTH, MAX_FILE, Chunk, Entry, Kind, Segment, Tree, check_tree, path_key

ROOT = Entry(b"", Kind.DIRECTORY, mode=0o755)
CHUNK = Chunk(bytes(32), 100, bytes(32), 0, 100)
_slow = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


def problem_of(*entries, chunks=(CHUNK,)):
    """Return what `check_tree` says about entries behind a root directory; None if nothing."""
    try:
        check_tree(Tree(1, [ROOT, *entries], list(chunks)))
    except Damaged as error:
        return error.brief
    return None


def problem_one_by_one(tree):
    """Return what is wrong with a tree's entries, looked for with all rules for each of them; None if nothing."""
    directories, linkable = set(), set()
    before = None
    for entry in tree.entries:
        key = path_key(entry.path)
        parent = entry.path.rpartition(b"/")[0]
        problem = None
        if before is not None and key <= before:
            problem = "is out of order or twice there"
        problem = problem or model._entry_problem(entry, tree.chunks)
        if not problem and entry.path and parent not in directories:
            problem = "is in a directory that the tree does not have"
        if not problem and entry.kind is Kind.HARDLINK and entry.target not in linkable:
            problem = "links to something that does not come before it"
        if problem:
            return f"tree: entry {model.display_path(entry.path)} {problem}"
        before = key
        if entry.kind is Kind.DIRECTORY:
            directories.add(entry.path)
        elif entry.kind in (Kind.FILE, Kind.SYMLINK, Kind.FIFO):
            linkable.add(entry.path)
    return None


@_slow
@given(hostile_trees())
def test_the_first_broken_rule_is_found_as_if_each_entry_were_looked_at_with_all_rules(made):
    tree = made[0]
    first = tree.entries[0]
    if first.path or first.kind is not Kind.DIRECTORY or first.opaque:
        return
    assert problem_of(*tree.entries[1:], chunks=tree.chunks) == problem_one_by_one(
        Tree(1, [ROOT, *tree.entries[1:]], tree.chunks)
    )


@_slow
@given(trees())
def test_a_valid_tree_passes(made):
    check_tree(made[0])


def file_entry(path, *segments, size=9):
    return Entry(path, Kind.FILE, size=size, segments=segments)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([Entry(b"", Kind.DIRECTORY)], "/ is out of order or twice there"),
        ([Entry(b"b", Kind.FILE), Entry(b"a", Kind.FILE)], "/a is out of order or twice there"),
        ([Entry(b"a", Kind.FILE), Entry(b"a", Kind.FILE)], "/a is out of order or twice there"),
        (
            [Entry(b"d", Kind.DIRECTORY), Entry(b"d/b", Kind.FILE), Entry(b"d/a", Kind.FILE)],
            "/d/a is out of order or twice there",
        ),
        (
            [Entry(b"d", Kind.DIRECTORY), Entry(b"d-", Kind.FILE), Entry(b"d/a", Kind.FILE)],
            "/d/a is out of order or twice there",
        ),
        ([Entry(b"/a", Kind.FILE)], "//a has an impossible path"),
        ([Entry(b"d", Kind.DIRECTORY), Entry(b"d/", Kind.FILE)], "/d/ has an impossible path"),
        ([Entry(b"d", Kind.DIRECTORY), Entry(b"d/.", Kind.FILE)], "/d/. has an impossible path"),
        ([Entry(b"d", Kind.DIRECTORY), Entry(b"d/..", Kind.FILE)], "/d/.. has an impossible path"),
        ([Entry(b"a\0", Kind.FILE)], "/a\\x00 has an impossible path"),
        ([Entry(b"x" * 256, Kind.FILE)], f"/{'x' * 256} has an impossible path"),
        ([Entry(b"a/b", Kind.FILE)], "/a/b is in a directory that the tree does not have"),
        ([Entry(b"a", Kind.FILE), Entry(b"a/b", Kind.FILE)], "/a/b is in a directory that the tree does not have"),
        ([Entry(b"a", Kind.FILE, mode=0o10_000)], "/a has an impossible mode or owner"),
        ([Entry(b"a", Kind.FILE, uid=-1)], "/a has an impossible mode or owner"),
        ([Entry(b"a", Kind.FILE, gid=(1 << 31) - 1)], "/a has an impossible mode or owner"),
        ([Entry(b"a", Kind.FILE, mtime_ns=-1)], "/a has a time outside 1970 to 2514"),
        ([Entry(b"a", Kind.FILE, mtime_ns=(1 << 34) * 10**9)], "/a has a time outside 1970 to 2514"),
        ([Entry(b"a", Kind.FILE, opaque=True)], "/a is opaque but no directory"),
        ([Entry(b"a", Kind.DIRECTORY, size=1)], "/a has content but is no file"),
        ([Entry(b"a", Kind.SYMLINK, target=b"t", segments=(Segment(0, 1, 0, 0),))], "/a has content but is no file"),
        ([Entry(b"a", Kind.FILE, target=b"t")], "/a has a link target that does not fit its kind"),
        ([Entry(b"a", Kind.DIRECTORY, target=b"t")], "/a has a link target that does not fit its kind"),
        ([Entry(b"a", Kind.SYMLINK)], "/a has a link target that does not fit its kind"),
        ([Entry(b"a", Kind.SYMLINK, target=b"t\0")], "/a has an impossible link target"),
        ([Entry(b"a", Kind.SYMLINK, target=b"t" * 4096)], "/a has an impossible link target"),
        ([Entry(b"a", Kind.WHITEOUT, mode=1)], "/a is a whiteout with attributes"),
        ([Entry(b"a", Kind.WHITEOUT), Entry(b"b", Kind.HARDLINK, target=b"a")], "/b links to something"),
        ([Entry(b"a", Kind.DIRECTORY), Entry(b"b", Kind.HARDLINK, target=b"a")], "/b links to something"),
        ([Entry(b"a", Kind.HARDLINK, target=b"b"), Entry(b"b", Kind.FILE)], "/a links to something"),
        ([Entry(b"a", Kind.FILE), Entry(b"b", Kind.HARDLINK, uid=1, target=b"a")], "/b is a hard link with attributes"),
        ([Entry(b"a", Kind.FILE, xattrs=((b"trusted.a", b""),))], "/a has an extended attribute that layers may not"),
        ([file_entry(b"a", size=-1)], "/a has an impossible size"),
        ([file_entry(b"a", size=MAX_FILE + 1)], "/a has an impossible size"),
        ([file_entry(b"a", Segment(0, 10, 0, 0))], "/a has content outside its size"),
        ([file_entry(b"a", Segment(0, 0, 0, 0))], "/a has content outside its size"),
        ([file_entry(b"a", Segment(-1, 5, 0, 0))], "/a has content outside its size"),
        ([file_entry(b"a", Segment(0, 5, 0, 0), Segment(4, 1, 0, 0))], "/a has content outside its size"),
        ([file_entry(b"a", Segment(0, 5, 1, 0))], "/a names a chunk that the tree does not have"),
        ([file_entry(b"a", Segment(0, 5, -1, 0))], "/a names a chunk that the tree does not have"),
        ([file_entry(b"a", Segment(0, 5, 0, -1))], "/a names a chunk that the tree does not have"),
        ([file_entry(b"a", Segment(0, 5, 0, 96))], "/a reads beyond the end of a chunk"),
    ],
)
def test_a_broken_rule_is_told_with_its_path(entries, problem):
    assert str(problem_of(*entries)).startswith(f"tree: entry {problem}")


@pytest.mark.parametrize(
    "entry",
    [
        Entry(b"-", Kind.FILE),
        Entry(b"...", Kind.FILE),
        Entry(b"..a", Kind.DIRECTORY),
        Entry(
            b"x" * 255, Kind.FILE, mode=0o7777, uid=(1 << 31) - 2, gid=1, mtime_ns=(1 << 34) * 10**9 - 1, size=MAX_FILE
        ),
        Entry(b"a", Kind.SYMLINK, target=b"t" * 4095),
        Entry(b"a", Kind.FIFO),
        Entry(b"a", Kind.WHITEOUT),
        Entry(b"a", Kind.DIRECTORY, opaque=True, xattrs=((b"user.a", b""),)),
        file_entry(b"a", Segment(0, 4, 0, 96), Segment(8, 1, 0, 0)),
    ],
)
def test_what_is_unusual_but_right_passes(entry):
    assert problem_of(entry) is None


def test_a_path_may_be_as_deep_as_the_limit_and_no_deeper():
    for depth, problem in ((MAX_DEPTH, None), (MAX_DEPTH + 1, f"is deeper than {MAX_DEPTH}")):
        paths = [b"/".join([b"d"] * number) for number in range(1, depth + 1)]
        found = problem_of(*(Entry(path, Kind.DIRECTORY) for path in paths))
        assert found is problem is None or str(found).endswith(str(problem))


def test_the_root_has_rules_of_its_own():
    builder = TreeBuilder()
    builder.file(b"a", b"x")
    tree, _ = builder.build()
    for entries, problem in (
        ([], "the first entry is not the root directory"),
        (tree.entries[1:], "the first entry is not the root directory"),
        ([replace(tree.entries[0], opaque=True)], "the root directory is opaque"),
        ([replace(tree.entries[0], mode=1 << 12)], "entry / has an impossible mode or owner"),
    ):
        with pytest.raises(Damaged, match=problem):
            check_tree(Tree(1, entries, tree.chunks))
