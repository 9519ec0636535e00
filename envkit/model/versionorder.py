"""Owns which of two package versions is the later one, by the rules of dpkg, and for other managers by common usage."""

import re

_RUNS = re.compile(r"[0-9]+|[a-z]+")
_BEFORE_RELEASE = {"dev": -5, "a": -4, "alpha": -4, "b": -3, "beta": -3, "pre": -2, "preview": -2, "c": -1, "rc": -1}
_MAX_DIGITS = 18  # longer ones are no numbers that anybody counts with, and int() takes long over them


def compare_versions(manager: str, a: str, b: str) -> int:
    """Return a number below, at or above zero: whether `a` comes before, with or after `b`."""
    if manager == "dpkg":
        return _compare_dpkg(a, b)
    left, right = _key(a), _key(b)
    return (left > right) - (left < right)


def _compare_dpkg(a: str, b: str) -> int:
    """Compare as deb-version(7) says: epoch, upstream version, revision."""
    for left, right in zip(_dpkg_parts(a), _dpkg_parts(b), strict=True):
        left_key, right_key = _dpkg_key(left), _dpkg_key(right)
        if left_key != right_key:
            return 1 if left_key > right_key else -1
    return 0


def _dpkg_parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _dpkg_key(text: str) -> list[tuple[list[int], int]]:
    """Return texts and numbers in turns; "~" comes before the end, letters before everything else."""
    key = []
    place = 0
    while place < len(text):
        start = place
        while place < len(text) and not _is_digit(text[place]):
            place += 1
        letters = [_dpkg_order(c) for c in text[start:place]] + [0]
        start = place
        while place < len(text) and _is_digit(text[place]):
            place += 1
        key.append((letters, _number(text[start:place])))
    # The end itself, so that "1~" comes before "1" and that before "1a".
    return [*key, ([0], 0)]


def _dpkg_order(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 0x11_0000


def _is_digit(character: str) -> bool:
    return "0" <= character <= "9"


def _number(digits: str) -> int:
    return int(digits[-_MAX_DIGITS:] or "0") if len(digits.lstrip("0")) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _key(version: str) -> list[tuple[int, int, str]]:
    """Return numbers and words; what marks a pre-release comes before the end, anything else after it."""
    public, _, local = version.lower().partition("+")
    epoch, mark, rest = public.partition("!")
    known = mark and epoch.isascii() and epoch.isdigit()
    key = [(1, _number(epoch) if known else 0, "")]
    numbers: list[tuple[int, int, str]] = []
    for run in _RUNS.findall(rest if mark else public):
        if _is_digit(run[0]):
            numbers.append((1, _number(run), ""))
        else:
            key += [*_without_zeros(numbers), (_BEFORE_RELEASE.get(run, 0), 0, run)]
            numbers = []
    return [*key, *_without_zeros(numbers), (0, 0, ""), (0, 0, local)]


def _without_zeros(numbers: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Drop zeros at the end: 1.0 is 1."""
    end = len(numbers)
    while end and not numbers[end - 1][1]:
        end -= 1
    return numbers[:end]
