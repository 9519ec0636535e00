"""Owns names and digests: what a user may call things, and how stored data is addressed.

Everything here is checked on construction, so a value of these types never needs a second look before it becomes
part of a path or an object key.
"""

import re

from envkit.errors import InvalidInput
from envkit.model.record import Record

NAME_RULE = "1 to 64 of a-z 0-9 . _ - and first a letter or digit"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
TAG_RULE = "1 to 64 of a-z 0-9 . _ - and first a letter, but not `latest`"
_TAG = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_LATEST = "latest"
_DIGEST = re.compile(r"[0-9a-f]{64}")

BASE_OWNER = "base"
"""Bases are environments of this owner, so that they share every rule of environments."""

MAX_VERSION = 99_999_999


def check_name(name: str) -> str:
    """Return an environment's or base's name unchanged; raise InvalidInput with the rule if it breaks it."""
    if not _NAME.fullmatch(name) or name.endswith(".lock"):
        raise InvalidInput(f"invalid name {name!r}", resolution=f"use {NAME_RULE}")
    return name


def check_owner(owner: str) -> str:
    """Return an owner (a login name) unchanged; raise InvalidInput if it cannot be part of an object key."""
    if not _OWNER.fullmatch(owner):
        raise InvalidInput(f"invalid owner {owner!r}", resolution="set ENVKIT_OWNER to a name of letters and digits")
    return owner


def is_tag(text: str) -> bool:
    """Tell whether text can be the name of a tag."""
    return _TAG.fullmatch(text) is not None and text != _LATEST


def check_tag(tag: str) -> str:
    """Return a tag's name unchanged; raise InvalidInput with the rule if it breaks it."""
    if not is_tag(tag):
        raise InvalidInput(f"invalid tag {tag!r}", resolution=f"use {TAG_RULE}")
    return tag


def is_digest(text: str) -> bool:
    """Tell whether text is a SHA-256 in lower-case hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


class EnvName(Record):
    """An environment: owner and name. `str()` gives `owner/name`."""

    owner: str
    name: str

    def __post_init__(self) -> None:
        check_owner(self.owner)
        check_name(self.name)

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def is_base(self) -> bool:
        """Whether this names a base."""
        return self.owner == BASE_OWNER


class EnvRef(Record):
    """An environment as a user names it: `[owner/]name[@version|@tag]`; with neither it is the latest version."""

    env: EnvName
    version: int | None = None
    tag: str | None = None

    @classmethod
    def parse(cls, text: str, *, owner: str) -> "EnvRef":
        """Read `[owner/]name[@N|@TAG|@latest]`; `owner` completes a name without one.

        :raises InvalidInput: the text does not have that form.
        """
        path, at, tail = text.partition("@")
        given, slash, name = path.rpartition("/")
        env = EnvName(owner=given if slash else owner, name=name)
        if not at or tail == _LATEST:
            return cls(env=env)
        if is_tag(tail):
            return cls(env=env, tag=tail)
        if not (tail.isascii() and tail.isdigit() and 0 < int(tail[:9]) <= MAX_VERSION):
            raise InvalidInput(
                f"invalid version {tail!r} in {text!r}", resolution="use a number or a tag, as in name@3 or name@stable"
            )
        return cls(env=env, version=int(tail))

    @property
    def is_whole(self) -> bool:
        """Whether this names the environment and none of its versions in particular."""
        return self.version is None and self.tag is None

    def __str__(self) -> str:
        chosen = self.tag if self.version is None else self.version
        return str(self.env) if chosen is None else f"{self.env}@{chosen}"
