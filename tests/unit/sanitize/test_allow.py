import pytest

from envkit.errors import EXIT_USAGE, InvalidInput
from envkit.sanitize import RULE_IDS, Allow


def test_a_waiver_names_a_rule_and_a_path() -> None:
    waiver = Allow.parse("R103:/root/.bash_history")
    assert waiver == Allow(rule="R103", glob=b"/root/.bash_history")
    assert str(waiver) == "R103:/root/.bash_history"


def test_a_path_may_hold_colons_and_bytes_that_are_no_text() -> None:
    assert Allow.parse("R019:/tmp/a:b\udcff").glob == b"/tmp/a:b\xff"


@pytest.mark.parametrize("text", ["R999:/x", "*:/x", "r103:/x", ":/x", "", "/root/.netrc", " R103:/x"])
def test_an_unknown_rule_is_refused_with_the_list_of_rules(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Allow.parse(text)
    assert caught.value.brief == f"--allow {text!r} names no rule"
    assert caught.value.resolution == "the rules are " + ", ".join(RULE_IDS)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("text", ["R103", "R103:"])
def test_a_waiver_without_a_path_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Allow.parse(text)
    assert caught.value.brief == f"--allow {text!r} names no path"
    assert caught.value.resolution == "write R103:/path/of/the/file"


@pytest.mark.parametrize("path", ["root/.netrc", "/", "/root/../etc", "*"])
def test_a_path_that_could_mean_anything_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="invalid path"):
        Allow.parse(f"R005:{path}")
