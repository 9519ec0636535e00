import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.errors import InvalidInput
from envkit.model.template import filled, parse_template

TEXT = st.text(max_size=20)
NAMES = st.text(alphabet="abcdefgh_", min_size=1, max_size=4)


def escaped(text):
    return text.replace("{", "{{").replace("}", "}}")


@given(st.lists(TEXT, max_size=5))
def test_escaped_words_come_out_as_they_were(words):
    assert filled([escaped(word) for word in words], {}) == tuple(words)


@given(st.dictionaries(NAMES, TEXT, min_size=1, max_size=4), TEXT, TEXT)
def test_values_go_where_their_names_stand_and_stay_what_they_are(values, before, after):
    words = [f"{escaped(before)}{{{name}}}{escaped(after)}" for name in values]
    assert filled(words, values) == tuple(f"{before}{value}{after}" for value in values.values())


@given(st.lists(st.text(alphabet="{}ab ", max_size=8), max_size=3), st.dictionaries(NAMES, TEXT, max_size=2))
def test_any_words_are_filled_or_refused(words, values):
    try:
        parse_template(words, values)
    except InvalidInput:
        with pytest.raises(InvalidInput):
            filled(words, values)
    else:
        assert len(filled(words, values)) == len(words)


def test_values_are_not_looked_at_again():
    assert filled(["{a}{b}"], {"a": "{b}", "b": "{{$(id); x y"}) == ("{b}{{$(id); x y",)


@pytest.mark.parametrize(
    ("words", "names", "text"),
    [
        (["x", "{b}"], ["a"], "a parameter 'b' that is not given"),
        (["{}"], [], "a parameter '' that is not given"),
        (["{a!r}"], ["a"], "a parameter 'a!r' that is not given"),
        (["{a.__class__}"], ["a"], "is not given"),
        (["{a} }"], ["a"], "a single brace"),
        (["{", "{a}"], ["a"], "a single brace"),
        (["{{a}}"], ["a"], "does not use the parameter 'a'"),
        (["{a}"], ["a", "b"], "does not use the parameter 'b'"),
    ],
)
def test_what_is_unknown_unused_or_unclear_is_refused(words, names, text):
    with pytest.raises(InvalidInput, match=text) as refused:
        parse_template(words, names)
    assert refused.value.resolution
