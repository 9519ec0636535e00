"""What differs between two views: compared with what the views show."""

from hypothesis import given, settings
from hypothesis import strategies as st
from support import expected_states
from tree_strategies import trees

from envkit.model.difference import Change, How, by_directory, compare, same_content
from envkit.model.merge import sorted_entries
from envkit.model.tree import TREE_FORMAT, Chunk, Entry, Kind, Segment, Tree
from envkit.model.view import View, stacked


@st.composite
def two_views(draw):
    """Two views that share layers or do not, and the plain bytes of their chunks."""
    lower, lower_chunks = draw(trees())
    upper, upper_chunks = draw(trees(beneath=lower))
    below = stacked(View(), [lower])
    first = (below, lower_chunks)
    if draw(st.booleans()):
        return first, (stacked(below, [upper]), lower_chunks + upper_chunks)
    other, other_chunks = draw(trees())
    return first, (stacked(View(), [other]), other_chunks)


def states(view, plain):
    tree = Tree(TREE_FORMAT, sorted_entries(view.entries), view.chunks)
    return expected_states(tree, plain)


def content(entry, plain):
    data = bytearray(entry.size)
    for s in entry.segments:
        data[s.start : s.start + s.length] = plain[s.chunk][s.offset : s.offset + s.length]
    return bytes(data)


def what(path, old, new):
    """Say by hand what differs between two states of a path."""
    if old.kind != new.kind:
        return ("kind",)
    words = {
        "content": old.kind == "file" and (old.content, old.size) != (new.content, new.size),
        "target": old.kind == "symlink" and old.content != new.content,
        "mode": old.mode != new.mode,
        "owner": (old.uid, old.gid) != (new.uid, new.gid),
        "xattrs": old.xattrs != new.xattrs,
        "time": old.kind != "directory" and old.mtime_ns != new.mtime_ns,
        "links": (old.group or path) != (new.group or path),
    }
    return tuple(word for word, differs in words.items() if differs)


@given(two_views())
@settings(deadline=None, max_examples=150)
def test_what_differs_is_what_can_be_seen(views):
    (before, before_plain), (after, after_plain) = views
    old, new = states(before, before_plain), states(after, after_plain)
    expected = {path: (How.ADDED, ()) for path in new.keys() - old.keys()}
    expected |= {path: (How.REMOVED, ()) for path in old.keys() - new.keys()}
    for path in old.keys() & new.keys():
        if words := what(path, old[path], new[path]):
            expected[path] = (How.CHANGED, words)
    found = {}
    growth = 0
    for change in compare(before, after):
        if change.undecided:
            same = content(change.before, before_plain) == content(change.after, after_plain)
            change = change.decided(same=same)
        if change is not None:
            found[change.path] = (change.how, change.what)
            growth += change.growth
    assert found == expected
    sizes = [sum(e.size for e in view.entries.values() if e.kind is Kind.FILE) for view in (before, after)]
    assert growth == sizes[1] - sizes[0]


@given(two_views())
@settings(deadline=None, max_examples=30)
def test_a_view_does_not_differ_from_itself(views):
    for view, _ in views:
        assert compare(view, view) == []
        assert compare(view, View(dict(view.entries), list(view.chunks))) == []


def chunk(name, size=10):
    return Chunk(bytes([name]) * 32, size, bytes(32), 0, 5)


def file(*segments, size=10):
    return Entry(b"f", Kind.FILE, size=size, segments=tuple(Segment(*s) for s in segments))


def test_content_is_decided_without_reading_where_that_can_be_done():
    whole = file((0, 10, 0, 0))
    assert same_content(whole, [chunk(1)], whole, [chunk(1)]) is True
    assert same_content(whole, [chunk(1)], whole, [chunk(2)]) is False
    assert same_content(whole, [chunk(1)], file((0, 11, 0, 0), size=11), [chunk(1, 11)]) is False
    part = file((0, 10, 0, 3))
    assert same_content(part, [chunk(1, 20)], part, [chunk(2, 20)]) is None
    assert same_content(part, [chunk(1, 20)], part, [chunk(1, 20)]) is True
    assert same_content(file(), [], file(), []) is True
    assert same_content(file(), [], whole, [chunk(1)]) is None
    two = file((0, 4, 0, 0), (4, 6, 1, 0))
    assert same_content(two, [chunk(1, 4), chunk(2, 6)], two, [chunk(1, 4), chunk(3, 6)]) is False


def added(*paths):
    return [Change(path, None, Entry(path, Kind.FILE, size=2), growth=2) for path in paths]


def test_many_changes_are_summed_up_by_directory():
    changes = added(*(b"usr/lib/python/p%d/%d" % (p, n) for p in range(9) for n in range(100)), b"etc/x", b"usr/y")
    rows = by_directory(changes, rows=12)
    assert [(row.path, row.direct, row.changes) for row in rows] == [
        (b"etc", False, 1),
        (b"usr", True, 1),
        *((b"usr/lib/python/p%d" % p, False, 100) for p in range(9)),
    ]
    assert sum(row.growth for row in rows) == 2 * len(changes)
    assert rows[-1].counts == {How.ADDED: 100}


@given(
    st.lists(st.lists(st.sampled_from((b"a", b"b", b"c", b"d.e")), min_size=1, max_size=5).map(b"/".join), unique=True),
    st.integers(1, 9),
)
@settings(deadline=None, max_examples=100)
def test_summaries_count_everything_once_in_as_many_rows_as_asked(paths, most):
    rows = by_directory(added(*paths), rows=most)
    assert sum(row.changes for row in rows) == len(paths)
    assert len(rows) <= most
    assert len({(row.path, row.direct) for row in rows}) == len(rows)


def test_a_directory_with_too_many_parts_stays_whole():
    changes = added(*(b"many/%03d/f" % n for n in range(300)))
    assert [(row.path, row.changes) for row in by_directory(changes, rows=20)] == [(b"many", 300)]
