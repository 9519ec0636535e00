import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.drivers.urls import is_loopback, is_plain, is_web, without_credentials


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:3142/debian",
        "http://LOCALHOST",
        "127.0.0.1:3128",
        "localhost:3128",
        "http://user:secret@127.8.8.8/",
        "https://[::1]:8080/",
        "socks5h://127.0.0.1:1080",
        "http://0.0.0.0:80",
        "pypi.localhost",
    ],
)
def test_addresses_of_the_machine_itself_are_loopback(url):
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url", ["http://proxy.example:3128", "10.0.0.1:80", "http://localhost.example/", "", "DIRECT", "http://["]
)
def test_other_addresses_and_nonsense_are_not(url):
    assert not is_loopback(url)


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://user:secret@repo.example/debian", "https://repo.example/debian"),
        ("https://token@repo.example", "https://repo.example"),
        ("https://a@b@repo.example/x@y", "https://repo.example/x@y"),
        ("http://repo.example:8080/debian", "http://repo.example:8080/debian"),
        ("repo.example", "repo.example"),
    ],
)
def test_credentials_are_taken_out_and_nothing_else(url, clean):
    assert without_credentials(url) == clean


@pytest.mark.parametrize(
    "url", ["file:///opt/simple", "/opt/simple", "ftp://x.example", "https://", "cdrom:[Debian]/", ""]
)
def test_what_is_not_http_or_names_no_host_is_not_web(url):
    assert not is_web(url)


@pytest.mark.parametrize("value", ["", "a b", 'a"b', "a\nb", "a;b", "a'b", "x" * 3000, "a\\b", "é"])
def test_values_that_would_need_quoting_are_not_plain(value):
    assert not is_plain(value)


@given(st.text())
def test_any_text_gets_an_answer(text):
    is_loopback(text), is_web(text), is_plain(text)
    assert "://" not in text or without_credentials(text).startswith(text.partition("://")[0])
