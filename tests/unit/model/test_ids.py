import pytest

from envkit.errors import InvalidInput
from envkit.model.ids import EnvName, EnvRef, check_name, check_owner, check_tag, is_digest


@pytest.mark.parametrize("name", ["sci", "a", "9", "py3.11_x-y", "a" * 64])
def test_ordinary_names_are_accepted(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", ".x", "-x", "a" * 65, "a/b", "a b", "a\n", "ä", "x.lock", "..", "a\0b", "$(x)", "a@1"]
)
def test_names_that_could_mean_something_else_are_refused(name):
    with pytest.raises(InvalidInput, match="invalid name"):
        check_name(name)


@pytest.mark.parametrize("owner", ["", ".", "..", "a/b", "-x", "a\n", "x y"])
def test_owners_that_could_mean_something_else_are_refused(owner):
    with pytest.raises(InvalidInput, match="invalid owner"):
        check_owner(owner)


def test_a_reference_is_completed_with_the_owner():
    assert EnvRef.parse("sci", owner="alice") == EnvRef(env=EnvName(owner="alice", name="sci"))
    assert EnvRef.parse("bob/sci@12", owner="alice") == EnvRef(env=EnvName(owner="bob", name="sci"), version=12)
    assert EnvRef.parse("sci@latest", owner="alice").version is None
    assert str(EnvRef.parse("sci@3", owner="alice")) == "alice/sci@3"


def test_a_tag_stands_where_a_number_can():
    assert EnvRef.parse("bob/sci@stable", owner="alice") == EnvRef(env=EnvName(owner="bob", name="sci"), tag="stable")
    assert str(EnvRef.parse("sci@v1.0", owner="alice")) == "alice/sci@v1.0"
    assert EnvRef.parse("sci", owner="alice").is_whole
    assert not EnvRef.parse("sci@1", owner="alice").is_whole
    assert not EnvRef.parse("sci@v1", owner="alice").is_whole


@pytest.mark.parametrize("tag", ["stable", "v1.0", "a", "latest2", "a" * 64])
def test_ordinary_tags_are_accepted(tag):
    assert check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", "latest", "1", "1a", "A", "-a", ".a", "a" * 65, "a/b", "a b", "a\n", "ä", "a@b"])
def test_tags_that_could_mean_something_else_are_refused(tag):
    with pytest.raises(InvalidInput, match="invalid tag"):
        check_tag(tag)


@pytest.mark.parametrize(
    "text",
    [
        "sci@",
        "sci@0",
        "sci@X",
        "sci@3x",
        "sci@a/b",
        "sci@a@b",
        "sci@" + "a" * 65,
        "sci@-1",
        "sci@1.0",
        "sci@100000000",
        "sci@٣",
        "@3",
        "a/b/c",
    ],
)
def test_malformed_references_are_refused(text):
    with pytest.raises(InvalidInput):
        EnvRef.parse(text, owner="alice")


def test_a_digest_is_64_lower_case_hexadecimal_digits():
    assert is_digest("0f" * 32)
    assert not is_digest("0F" * 32)
    assert not is_digest("0f" * 31)
    assert not is_digest("0f" * 32 + "\n")
