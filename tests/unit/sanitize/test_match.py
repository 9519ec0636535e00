import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.errors import InvalidInput
from envkit.sanitize.match import Matcher, State, expand_braces


def tags(globs: list[str], path: bytes, *, homes: frozenset[bytes] = frozenset()) -> set[int]:
    """Walk to a path as the planner does, through directories that may be homes, and return the globs that match."""
    matcher = Matcher(glob.encode() for glob in globs)
    state: State = matcher.at_home(matcher.start) if b"" in homes else matcher.start
    names = path.split(b"/")
    for depth, name in enumerate(names[:-1], start=1):
        state = matcher.step(state, name)
        if b"/".join(names[:depth]) in homes:
            state = matcher.at_home(state)
    leaf, full = matcher.leaf(state, names[-1]), matcher.step(state, names[-1])
    assert leaf.tags == full.tags
    return set(full.tags)


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/a/b", b"a/b", True),
        ("/a/b", b"a/b/c/d", True),
        ("/a/b", b"a", False),
        ("/a/b", b"a/bc", False),
        ("/a/b", b"x/a/b", False),
        ("/a/**", b"a", False),
        ("/a/**", b"a/b", True),
        ("/a/**", b"a/b/c", True),
        ("/a/*", b"a/b/c", True),
        ("/a/*/c", b"a/b/c", True),
        ("/a/*/c", b"a/b/x/c", False),
        ("/a/**/c", b"a/c", True),
        ("/a/**/c", b"a/b/x/c", True),
        ("/a/**/c", b"a/b/x/cc", False),
        ("**/c", b"c", True),
        ("**/c", b"a/b/c", True),
        ("**/c/*.x", b"a/c/y.x", True),
        ("**/c/*.x", b"a/c/y.xx", False),
        ("**/c/**/d/e", b"c/c/d/d/e", True),
        ("/a*b", b"ab", True),
        ("/a*b", b"a-b-b", True),
        ("/a*b", b"a/b", False),
        ("/a?", b"ab", True),
        ("/a?", b"a", False),
        ("/{a,b/c}/d", b"b/c/d", True),
        ("/{a,b/c}/d", b"a/d", True),
        ("/{a,b/c}/d", b"b/d", False),
        ("/x{,y}", b"x", True),
        ("/x{,y{1,2}}", b"xy2", True),
        ("/a[1].txt", b"a[1].txt", True),
        ("/a[1].txt", b"a1.txt", False),
        ("/a\\*", b"a*", True),
        ("/a\\*", b"ab", False),
        ("/a\\{b,c}", b"a{b,c}", True),
        ("/a}", b"a}", True),
        ("/{a,b}}", b"b}", True),
        ("/a.b", b"axb", False),
        ("/*", b"\xff\n\x80", True),
        ("/a*", b"a\n\xfe", True),
    ],
)
def test_globs_mean_what_they_say(glob: str, path: bytes, matches: bool) -> None:
    assert bool(tags([glob], path)) is matches


def test_a_home_glob_matches_in_homes_only() -> None:
    homes = frozenset((b"root", b"data/u", b"data/u/deeper", b""))
    for path in (b"root/.netrc", b"data/u/.netrc", b"data/u/deeper/.netrc", b".netrc"):
        assert tags(["~/.netrc"], path, homes=homes) == {0}
    for path in (b"root/x/.netrc", b"data/.netrc", b"data/u/deeper/x/.netrc"):
        assert tags(["~/.netrc"], path, homes=homes) == set()
    assert tags(["~/.netrc"], b".netrc") == set()


def test_all_globs_that_match_are_told() -> None:
    globs = ["/a/b", "**/b", "/a/*", "/a/**", "/a/c", "**/b/c"]
    assert tags(globs, b"a/b") == {0, 1, 2, 3}
    assert tags(globs, b"a/b/c") == {0, 1, 2, 3, 5}


def test_content_names_the_globs_that_cover_a_directorys_content() -> None:
    matcher = Matcher([b"/a/**", b"/a/b", b"**/x/**"])
    assert matcher.walk(b"a").content == {0}
    assert matcher.walk(b"a/b").content == set()
    assert matcher.walk(b"y/x").content == {2}


def test_states_are_shared() -> None:
    matcher = Matcher([b"/a/**", b"**/x/y"])
    assert matcher.walk(b"usr/lib/p") is matcher.walk(b"opt/q")
    assert matcher.walk(b"a/1") is matcher.walk(b"a/2/3")
    assert matcher.walk(b"x/y") is matcher.walk(b"o/x/y/x/z")


def test_a_walk_over_many_names_makes_few_states() -> None:
    matcher = Matcher([b"/a/**", b"**/x/*.y/z", b"**/q*/r"])
    for number in range(2000):
        matcher.walk(b"d%d/q%d/x/%d.y" % (number, number, number))
    assert len(matcher._states) < 10


@pytest.mark.parametrize("glob", ["", "a/b", "*", "~", "/", "/a/", "//a", "/a//b", "/a/../b", "/./a", "~user/x", "**"])
def test_a_glob_that_names_no_absolute_path_is_refused(glob: str) -> None:
    with pytest.raises(InvalidInput, match="invalid path") as caught:
        Matcher([glob.encode()])
    assert caught.value.resolution


@pytest.mark.parametrize("glob", ["/a{b", "/a{b,{c}", "/{{a,b}"])
def test_a_brace_that_is_not_closed_is_refused(glob: str) -> None:
    with pytest.raises(InvalidInput, match="a brace is not closed"):
        Matcher([glob.encode()])


def test_braces_that_stand_for_too_much_are_refused() -> None:
    with pytest.raises(InvalidInput, match="stands for more than 1000 paths"):
        Matcher([b"/" + b"{a,b}" * 30])


def test_braces_expand_in_order() -> None:
    assert expand_braces(b"/{a,b{1,2}}/c") == [b"/a/c", b"/b1/c", b"/b2/c"]


@given(st.text("ab.", min_size=1, max_size=6), st.text("ab.*?", min_size=1, max_size=6))
def test_one_component_matches_as_in_fnmatch(name: str, form: str) -> None:
    if form in (".", "..", "**") or name in (".", ".."):
        return
    expected = fnmatch.fnmatchcase(name, form)
    assert bool(tags([f"/d/{form}"], b"d/" + name.encode())) is expected


@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=6))
def test_any_depth_matches_like_a_search_in_the_path(names: list[bytes]) -> None:
    expected = any(names[at] == b"a" and b"b" in names[at + 1 :] for at in range(len(names)))
    assert bool(tags(["**/a/**/b"], b"/".join(names))) is expected
