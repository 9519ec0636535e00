import pytest

from envkit.errors import InvalidInput
from envkit.model.job import Volume, parse_size, parse_variable


def test_volumes_have_a_source_a_target_and_a_mode():
    assert Volume.parse("/a:/b:ro") == Volume(source="/a", target="/b", read_only=True)
    assert Volume.parse("/a:/b:rw") == Volume(source="/a", target="/b")
    assert Volume.parse("/a") == Volume(source="/a", target="/a")


@pytest.mark.parametrize("text", ["", ":/b", "/a:b", "/a:/", "/a:/b:x", "/a:/../b", "a", "/a://"])
def test_malformed_volumes_are_refused(text):
    with pytest.raises(InvalidInput, match="invalid volume"):
        Volume.parse(text)


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("4G", 4 << 30), ("512M", 512 << 20), ("2k", 2048), ("1GiB", 1 << 30)]
)
def test_sizes_are_powers_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "G", "-1", "1.5G", "1X", "٣"])
def test_malformed_sizes_are_refused(text):
    with pytest.raises(InvalidInput, match="invalid size"):
        parse_size(text)


def test_variables_are_given_or_inherited():
    assert parse_variable("A=b=c", {}) == ("A", "b=c")
    assert parse_variable("A=", {"A": "x"}) == ("A", "")
    assert parse_variable("A", {"A": "x"}) == ("A", "x")
    with pytest.raises(InvalidInput, match="the variable B is not set"):
        parse_variable("B", {"A": "x"})
    with pytest.raises(InvalidInput, match="invalid variable"):
        parse_variable("=x", {})
