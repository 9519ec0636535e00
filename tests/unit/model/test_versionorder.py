"""Which version is the later one."""

import itertools
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.model.versionorder import compare_versions

ROWS = {
    "dpkg": ["1~~", "1~~a", "1~", "1", "1+b1", "1.0", "1.0-1", "1.0-1+deb12u1", "1.0a", "1.2", "1.10", "1:0.1", "2:0"],
    "pip": ["1.dev0", "1.0a1", "1.0b1", "1.0b2", "1.0rc1", "1", "1.0+local", "1.0.post1", "1.1", "1.10", "2024.1", "1!0.1"],
    "npm": ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0"],
    "conda": ["1.9.0=py39_0", "1.26.4=py310_0", "1.26.4=py311_0", "2.0.0=0"],
}  # fmt: skip


@pytest.mark.parametrize("manager", ROWS)
def test_rows_are_in_order(manager):
    row = ROWS[manager]
    for (i, a), (j, b) in itertools.product(enumerate(row), repeat=2):
        assert compare_versions(manager, a, b) == (i > j) - (i < j), (a, b)


@pytest.mark.parametrize(("a", "b"), [("1.0", "1"), ("1.0.0", "1.0"), ("1.0rc0", "1.0.0rc")])
def test_zeros_at_the_end_say_nothing(a, b):
    assert compare_versions("pip", a, b) == 0


_parts = st.sampled_from(("0", "1", "9", "10", "001", "a", "b", "z", "~", "+", ".", "-", "rc"))
_debian = st.tuples(st.sampled_from(("", "0:", "1:")), st.lists(_parts, max_size=6).map("".join)).map(
    lambda pair: f"{pair[0]}1{pair[1]}".rstrip("-")
)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is not installed")
@given(_debian, _debian)
@settings(max_examples=120, deadline=None)
def test_dpkg_itself_agrees(a, b):
    for word, results in (("lt", (-1,)), ("eq", (0,))):
        done = subprocess.run(["dpkg", "--compare-versions", a, word, b], capture_output=True, check=False)
        assert (done.returncode == 0) == (compare_versions("dpkg", a, b) in results), (a, word, b)


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(("dpkg", "pip")))
@settings(max_examples=300, deadline=None)
def test_any_text_has_its_place(a, b, manager):
    assert compare_versions(manager, a, b) == -compare_versions(manager, b, a)
    assert compare_versions(manager, a, a) == 0


def test_long_numbers_take_no_time():
    assert compare_versions("pip", "9" * 100_000, "1") == 1
    assert compare_versions("dpkg", "0" * 100_000 + "1", "1") == 0
