from pathlib import Path

import pytest

from envkit.drivers import subids
from envkit.errors import Unavailable


def test_lines_that_are_none_are_skipped():
    assert subids.parse("root:1:2\n\n# c\nx:y:z\nbob:5:6:7\n") == [("root", 1, 2)]


def test_roots_range_must_be_in_both_files_and_large_enough():
    assert subids.root_range("root:100000:65536\n", "root:100000:65536\n") == 100_000
    assert subids.root_range("root:100000:65536\n", "root:200000:65536\n") is None
    assert subids.root_range("root:100000:65535\n", "root:100000:65535\n") is None
    assert subids.root_range("bob:100000:65536\n", "bob:100000:65536\n") is None


def test_a_new_range_overlaps_nobodys():
    assert subids.free_range("", "") == 100_000
    taken = "bob:100000:65536\nann:165536:65536\n"
    first = subids.free_range(taken, "eve:250000:10\n")
    ends = [(100_000, 231_072), (250_000, 250_010)]
    assert all(first >= end or first + 65_536 <= start for start, end in ends)


@pytest.fixture
def files(tmp_path, monkeypatch):
    paths = (str(tmp_path / "subuid"), str(tmp_path / "subgid"))
    monkeypatch.setattr(subids, "FILES", paths)
    return paths


def test_granting_adds_a_line_once_and_keeps_the_others(files):
    with open(files[0], "w") as file:
        file.write("bob:100000:65536")
    with pytest.raises(Unavailable, match="root has no range"):
        subids.container_range()
    first, is_new = subids.grant_range()
    assert is_new
    assert Path(files[0]).read_text() == f"bob:100000:65536\nroot:{first}:65536\n"
    assert subids.container_range() == first
    assert subids.grant_range() == (first, False)
