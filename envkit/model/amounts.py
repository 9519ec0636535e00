"""Owns how amounts are written for people."""

import re

from envkit.errors import InvalidInput


def human_bytes(count: float) -> str:
    """Return a size for people, in powers of 1000 as file managers and `ls --si` show it."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def human_time(seconds: float) -> str:
    """Return a span of time for people: 0:05, 12:34, 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def parse_share(text: str) -> float:
    """Return a share that is written as `5%`, above 0 and at most 1.

    :raises InvalidInput: the text does not have that form.
    """
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", text)
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise InvalidInput(f"invalid share {text!r:.40}", resolution="write a percentage, as in 5% or 0.5%")
    return share
