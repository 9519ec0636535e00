"""The two readers of settings files must agree."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.config.plain import plain_document

BITS = st.sampled_from(
    ['"', '"""', "'", "\\", "=", " = ", "\t", "\r", "#", "[", "]", "[[", "[profile.", "[profile.a]", "profile", "store", "a-b",
     "1", "true", ".", "{", ",", "/s", "\x7f", "\0", "\u00e9", 'net = "none"', "x = 1", " "]
)  # fmt: skip
LINES = st.one_of(
    st.lists(BITS, max_size=6).map("".join),
    st.builds(
        '{} = "{}"'.format, st.sampled_from(["store", "root", "owner", "profile"]), st.text("ab /:#'=[]", max_size=6)
    ),
    st.sampled_from(["[profile.lab]", "[profile.b]", "# said", ""]),
)


@settings(max_examples=400)
@given(st.lists(LINES, max_size=6).map("\n".join))
def test_what_is_read_plainly_is_what_the_parser_reads(text):
    document = plain_document(text.encode())
    if document is not None:
        assert document == tomllib.loads(text)


def test_what_most_machines_have_is_plain():
    text = """\
# Our cluster.
store = "s3://lab/environments"
root = "/var/lib/envkit"
"""
    text += '\n\t[profile.work]\n  net="host"\n[profile.a-b]\n'
    document = plain_document(text.encode())
    assert document == {
        "store": "s3://lab/environments",
        "root": "/var/lib/envkit",
        "profile": {"work": {"net": "host"}, "a-b": {}},
    }
    assert document == tomllib.loads(text)


@pytest.mark.parametrize(
    "text",
    ["a", "a = 1", "a = 'b'", 'a = "b" # c', 'a = "\\u0041"', 'a.b = "c"', 'a = "b"\na = "c"', "[a]", "[profile]",
     "[profile.a]\n[profile.a]", 'profile = "a"\n[profile.b]', '"a" = "b"', 'a = """b"""', 'a = "\u00e9"', 'a = "b"\r', "= \"b\""],
)  # fmt: skip
def test_the_rest_is_left_to_the_parser(text):
    assert plain_document(text.encode()) is None
