import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.sanitize.gitconfig import without_credentials

PLAIN = b"""[core]
\trepositoryformatversion = 0
[remote "origin"]
\turl = %s
\tfetch = +refs/heads/*:refs/remotes/origin/*
[user]
\temail = me@example.org
"""


@pytest.mark.parametrize(
    ("url", "cleaned"),
    [
        (b"https://me:hunter2@example.org/a.git", b"https://example.org/a.git"),
        (b"https://ghp_0123456789@example.org/a.git", b"https://example.org/a.git"),
        (b"HTTPS://me:x@example.org", b"HTTPS://example.org"),
        (b"https://me:p@ss@example.org/a", b"https://example.org/a"),
        (b"http://me:x@[::1]:8080/a", b"http://[::1]:8080/a"),
        (b"git+https://t@example.org/a", b"git+https://example.org/a"),
        (b"ftp://u:p@example.org/a", b"ftp://example.org/a"),
        (b"ssh://git:hunter2@example.org/a", b"ssh://git@example.org/a"),
        (b"s3://KEY:hunter2@bucket/a", b"s3://KEY@bucket/a"),
        (b"https://\xff:\xfe@example.org/a", b"https://example.org/a"),
    ],
)
def test_credentials_leave_a_url(url: bytes, cleaned: bytes) -> None:
    assert without_credentials(PLAIN % url) == PLAIN % cleaned


@pytest.mark.parametrize(
    "url",
    [
        b"https://example.org/a.git",
        b"https://example.org/a@b.git",
        b"https://example.org?x=a@b",
        b"https://example.org:8443/a",
        b"git@example.org:me/a.git",
        b"ssh://git@example.org/a.git",
        b"ssh://example.org:2222/a@b",
        b"/srv/git/a@b.git",
        b"file:///srv/a.git",
    ],
)
def test_a_url_without_credentials_stays_byte_for_byte(url: bytes) -> None:
    assert without_credentials(PLAIN % url) == PLAIN % url


@pytest.mark.parametrize(
    ("config", "cleaned"),
    [
        (b"[http]\n\textraheader = AUTHORIZATION: basic eA==\n\tx = 1\n", b"[http]\n\tx = 1\n"),
        (b"[http]\n\textraHeader=x", b"[http]\n"),
        (b"[http]\r\n\textraheader = x\r\n\ty = 1\r\n", b"[http]\r\n\ty = 1\r\n"),
        (b'[http "https://h/"] extraheader = x\n\ty = 1\n', b'[http "https://h/"]\n\ty = 1\n'),
        (b"[http]\n\textraheader = a\\\n b\n\ty = 1\n", b"[http]\n\ty = 1\n"),
        (b'[http]\n\textraheader = "a\\"b"\n\ty = 1\n', b"[http]\n\ty = 1\n"),
        (b"[sendemail]\n\tsmtpPass = x\n", b"[sendemail]\n"),
        (b'[url "https://t@h/"]\n\tinsteadOf = h:\n', b'[url "https://h/"]\n\tinsteadOf = h:\n'),
        (b"[http]\n\tproxy = http://u:p@proxy:3128\n", b"[http]\n\tproxy = http://proxy:3128\n"),
        (b"[x]\n\tmyextraheader = 1\n", b"[x]\n\tmyextraheader = 1\n"),
        (b"", b""),
    ],
)
def test_headers_and_passwords_leave_with_their_line(config: bytes, cleaned: bytes) -> None:
    assert without_credentials(config) == cleaned


fragments = st.sampled_from(
    [b"https://", b"ssh://", b"u", b":", b"@", b"h/", b"\n", b"\\", b"extraheader", b" = ", b"[s]", b'"', b"\r\n", b"#"]
)


@given(st.lists(fragments, max_size=30).map(b"".join))
def test_cleaning_twice_changes_nothing_more(config: bytes) -> None:
    once = without_credentials(config)
    assert without_credentials(once) == once


@pytest.mark.parametrize("unit", [b"a", b"a:", b"://", b"https://a", b"[", b"]", b"\\", b"extraheader", b"@", b" "])
def test_hostile_text_takes_little_time(unit: bytes) -> None:
    started = time.monotonic()
    without_credentials(unit * ((1 << 19) // len(unit)))
    assert time.monotonic() - started < 5
