"""What is wrong with a settings file is said by file, table and key, and nothing of what it holds is repeated."""

import pytest

from envkit.config.file import parse_settings
from envkit.errors import InvalidInput

PATH = "/etc/envkit/config.toml"
CANARY = "hunter2"


def problem(text):
    with pytest.raises(InvalidInput) as caught:
        parse_settings(text if isinstance(text, bytes) else text.encode(), PATH)
    error = caught.value
    told = f"{error.brief}\n{error.details}\n{error.resolution}\n{error.__cause__!r}"
    assert error.brief.startswith(f"{PATH}: ")
    assert CANARY not in told
    return error.brief.removeprefix(f"{PATH}: "), error.resolution


def test_keys_and_profiles():
    settings = parse_settings(b'store = "/s"\n[profile.work]\nnet = "nat"\n[profile.empty]\n', PATH)
    assert settings.keys == {"store": "/s"}
    assert settings.profiles == {"work": {"net": "nat"}, "empty": {}}


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        ("stor = 'hunter2'", "unknown key 'stor'"),
        ("store = 5", "store must be a string"),
        ("store = ['hunter2']", "store must be a string"),
        ("net = 'hunter2'", "net must be one of none, nat, host"),
        ("root = 'hunter2'", "root must be an absolute path"),
        ("cache_quota = 'hunter2'", "cache_quota must be a size or a share of the file system, as in 20G or 50%"),
        ("cache_quota = '120%'", "cache_quota must be a size or a share of the file system, as in 20G or 50%"),
        ("cache_quota = ''", "cache_quota must be a size or a share of the file system, as in 20G or 50%"),
        ('root = "/hunter2\\u0000"', "root has control characters in it"),
        ("owner = 'hunter2/x'", "owner must be a name of letters, digits and . _ -"),
        ("endpoint = 'hunter2'", "endpoint must be a URL"),
        ("endpoint = 'ftp://hunter2'", "endpoint must be a URL"),
        ("endpoint = 'https://me:hunter2@host'", "endpoint must not have a user name or password in it"),
        ("store = 's3://me:hunter2@bucket/x'", "store must not have a user name or password in it"),
        ("region = 'hunter2 x'", "region is no name of a region"),
        ("[profile.work]\nstor = 'hunter2'", "[profile.work]: unknown key 'stor'"),
        ("[profile.work]\nnet = 'hunter2'", "[profile.work]: net must be one of none, nat, host"),
        ("[profile.work]\nnet = 7", "[profile.work]: net must be a string"),
        ("[profile.work]\nroot = '/hunter2'", "[profile.work]: root cannot be set in a profile"),
        ("[profile.work]\ncache_quota = '1G'", "[profile.work]: cache_quota cannot be set in a profile"),
        ("[profile.work]\ndefault_profile = 'hunter2'", "[profile.work]: unknown key 'default_profile'"),
        ("[profile.work.deep]\nstore = 'hunter2'", "[profile.work]: unknown key 'deep'"),
        ("[profile]\nwork = 'hunter2'", "[profile.work] must be a table"),
        ("[profile.'a b']\nstore = 'hunter2'", "[profile.'a b']: no name for a profile"),
        ("profile = 'hunter2'", "profile must be tables, as in [profile.NAME]"),
        ("[[profile]]\nstore = 'hunter2'", "profile must be tables, as in [profile.NAME]"),
        ("[store]\nx = 'hunter2'", "store must be a string"),
    ],
)
def test_a_mistake_is_told_by_table_and_key(text, brief):
    assert problem(text)[0] == brief


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        ("store = hunter2", "not TOML, line 1, column 9"),
        ("a = 'x'\nhunter2 'y'\n", "not TOML, line 2, column 9"),
        ("store = 'hunter2", "not TOML, end of document"),
        ("hunter2 = 1\nhunter2 = 2\n", "not TOML, line 2, column 12"),
        ("store = '''hunter2\x00'''", "not TOML, line 1, column 19"),
        (b"a = 'hunter2'\nb = '\xff'\n", "not UTF-8, line 2"),
        ("x = " + "[" * 100_000, "not TOML that envkit can read"),
        (f"x = {'9' * 5000}", "not TOML that envkit can read"),
    ],
)
def test_what_is_no_toml_is_told_by_its_place_alone(text, brief):
    assert problem(text)[0] == brief


@pytest.mark.parametrize("table", ["", "[profile.work]\n"])
@pytest.mark.parametrize(
    "key",
    ["secret_key", "aws_secret_access_key", "AWS_ACCESS_KEY_ID", "password", "passwd", "token", "session-token", "key",
     "credentials", "api_key", "private_key"],
)  # fmt: skip
def test_secrets_are_refused_with_the_place_where_they_belong(table, key):
    brief, resolution = problem(f"{table}{key} = 'hunter2'")
    assert brief.endswith(f"{key}: secrets do not belong in here")
    assert "~/.aws/credentials" in resolution


def test_no_known_key_looks_like_a_secret():
    text = "root = '/x'\nstore = '/x'\naws_profile = 'x'\nregion = 'x'\nendpoint = 'http://x'\nowner = 'x'\nnet = 'nat'"
    assert len(parse_settings(text.encode(), PATH).keys) == 7
