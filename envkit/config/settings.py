"""Owns what can be set: the keys of a settings file, and which values they take. Reasons never repeat a value."""

import re
from collections.abc import Mapping

from envkit.config.model import FETCH, NETWORKS, QUEUES
from envkit.errors import InvalidInput
from envkit.model.ids import check_owner
from envkit.model.record import Record

MACHINE_KEYS = ("root", "cache_quota", "slots", "node_program")
"""What is one for the whole machine: a profile that moved the root would hide the open sessions."""
PROFILE_KEYS = ("store", "endpoint", "region", "aws_profile", "owner", "net", "fetch", "queue")
DEFAULT_PROFILE = "default_profile"
PROFILES = "profile"
FILE_KEYS = (*MACHINE_KEYS, *PROFILE_KEYS, DEFAULT_PROFILE)

# Patterns are compiled where a value has to be checked: most starts check none.
_PROFILE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_REGION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ENDPOINT = r"https?://[^/\s?#]+(/[^\s?#]*)?"
SECRETS_ELSEWHERE = "keep keys in ~/.aws/credentials, and name their profile there: aws_profile = NAME"


class Settings(Record):
    """What one file says: its keys, and those of each profile in it."""

    path: str
    keys: Mapping[str, str] = {}
    profiles: Mapping[str, Mapping[str, str]] = {}


def is_profile(name: str) -> bool:
    """Tell whether a profile can have this name."""
    return re.fullmatch(_PROFILE, name) is not None


def check_value(key: str, value: str, source: str) -> str:
    """Return a value unchanged; `source` says where it is from and which key it is of.

    :raises InvalidInput: the setting cannot have it.
    """
    problem = _problem(key, value)
    if problem is not None:
        raise InvalidInput(f"{source} {problem[0]}", resolution=problem[1])
    return value


def _problem(key: str, value: str) -> tuple[str, str | None] | None:
    """Return what is wrong with a value and what to do, or None."""
    if any(character < " " or character == "\x7f" for character in value):
        return "has control characters in it", None
    if key == "net" and value not in NETWORKS:
        return f"must be one of {', '.join(NETWORKS)}", None
    if key == "fetch" and value not in FETCH:
        return f"must be one of {', '.join(FETCH)}", None
    if key == "queue" and value not in QUEUES:
        return f"must be one of {', '.join(QUEUES)}", None
    if key == "slots" and value and not (value.isascii() and value.isdigit() and 0 < int(value[:6]) < 100_000):
        return "must be a number above zero", None
    if key in ("root", "node_program") and not value.startswith("/"):
        return "must be an absolute path", None
    if key == "cache_quota":
        return _quota_problem(value)
    if key in ("store", "endpoint") and "@" in value.partition("://")[2].partition("/")[0]:
        return "must not have a user name or password in it", SECRETS_ELSEWHERE
    if not value:
        return None
    if key == "endpoint" and not re.fullmatch(_ENDPOINT, value):
        return "must be a URL", "write it as https://HOST or http://HOST:PORT"
    if key == "region" and not re.fullmatch(_REGION, value):
        return "is no name of a region", None
    if key == "owner":
        return _owner_problem(value)
    return None


def _quota_problem(value: str) -> tuple[str, str | None] | None:
    from envkit.model.amounts import parse_share
    from envkit.model.job import parse_size

    try:
        if value.endswith("%"):
            parse_share(value)
        else:
            parse_size(value)
    except InvalidInput:
        return "must be a size or a share of the file system, as in 20G or 50%", None
    return None


def _owner_problem(value: str) -> tuple[str, str | None] | None:
    try:
        check_owner(value)
    except InvalidInput:
        return "must be a name of letters, digits and . _ -", None
    return None
