"""Spans of time and shares, as people write them."""

import pytest

from envkit.errors import InvalidInput
from envkit.model.amounts import parse_share
from envkit.model.duration import human_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_spans_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5h", "7 d", "7D", "1y", "9999999d", "1d2h", "٣d"])
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidInput, match="invalid span of time"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-5, "0 s"), (59.9, "59 s"), (3600, "1 h"), (14_399, "3 h 59 min"), (90_061, "1 d 1 h"), (86_405, "1 d 5 s")],
)  # fmt: skip
def test_spans_are_shown(seconds, text):
    assert human_duration(seconds) == text


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("100%", 1.0), ("0.5%", 0.005)])
def test_shares_are_read(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "5", "0%", "101%", "-5%", "5 %", "%", "0.0000001%", "٥%"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(InvalidInput, match="invalid share"):
        parse_share(text)
