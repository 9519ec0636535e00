"""Owns spans of time as people write them: 90s, 30m, 12h, 7d, 2w, or 0."""

import re

from envkit.errors import InvalidInput

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_FORM = re.compile(r"([0-9]{1,6})([smhdw])")


def parse_duration(text: str) -> float:
    """Return a span of time in seconds.

    :raises InvalidInput: the text does not have that form.
    """
    if text == "0":
        return 0.0
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"invalid span of time {text!r:.40}", resolution="write a number and a unit, as in 30m, 12h, 7d or 2w; or 0"
        )
    return float(int(match[1]) * _SECONDS[match[2]])


def human_duration(seconds: float) -> str:
    """Return a span of time for people, in its two largest units."""
    rest = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
