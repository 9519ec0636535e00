import pytest

from envkit.errors import InvalidInput
from envkit.model.sweep import parse_lists, rows_of


def no_file(path):
    raise AssertionError(path)


def test_lists_and_files():
    found = parse_lists(
        ["a=1,2,", "b=@some/file", "c=x=y"], lambda path: {"some/file": b"one two\n\n$(id)\r\nla\xe2\x80\xa8st"}[path]
    )
    assert found == {"a": ("1", "2", ""), "b": ("one two", "$(id)", "la\u2028st"), "c": ("x=y",)}


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (["a"], "'a'"),
        (["=1"], "no list"),
        (["1a=1"], "'1a=1'"),
        (["a b=1"], "no list"),
        (["SLURM_ARRAY_TASK_ID=1"], "no list"),
        (["a="], "no values"),
        (["a=1", "a=2"], "twice"),
    ],
)
def test_other_lists_are_refused(texts, text):
    with pytest.raises(InvalidInput) as refused:
        parse_lists(texts, no_file)
    assert text in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xff\n", b"a\0b\n"])
def test_files_that_hold_no_values_are_refused(data):
    with pytest.raises(InvalidInput):
        parse_lists(["a=@file"], lambda _: data)


def test_lists_go_together_and_single_values_with_all():
    lists = {"a": ("1", "2", "3"), "b": ("x",), "c": ("p", "q", "r")}
    assert rows_of(lists, product=False) == (("1", "x", "p"), ("2", "x", "q"), ("3", "x", "r"))
    assert rows_of({"a": ("1",)}, product=False) == (("1",),)


def test_a_product_combines_all():
    lists = {"a": ("1", "2"), "b": ("x",), "c": ("p", "q")}
    assert rows_of(lists, product=True) == (("1", "x", "p"), ("1", "x", "q"), ("2", "x", "p"), ("2", "x", "q"))


def test_lengths_that_differ_are_named():
    with pytest.raises(InvalidInput) as refused:
        rows_of({"a": ("1", "2"), "b": ("1", "2", "3")}, product=False)
    assert "'a' has 2" in str(refused.value)
    assert "'b' has 3" in str(refused.value)


def test_too_many_tasks_are_refused_before_they_are_made():
    many = tuple(map(str, range(1000)))
    with pytest.raises(InvalidInput) as refused:
        rows_of({"a": many, "b": many, "c": many, "d": many}, product=True)
    assert "1,000,000,000,000 tasks" in str(refused.value)
    assert len(rows_of({"a": many, "b": many[:100]}, product=True)) == 100_000
