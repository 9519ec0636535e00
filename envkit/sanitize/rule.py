"""Owns what a rule is: one row of the table in `rules`."""

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Verb(enum.Enum):
    """What a rule wants; what is carried out also depends on the lower layers (see `plan.Outcome`)."""

    REMOVE = "remove"
    """Gone for good: dropped, and hidden by a whiteout where a lower layer has the path too."""
    RESTORE = "restore"
    """Dropped, so that the lower layers' version shows again where there is one."""
    EMPTY = "empty"
    """A file of zero bytes. Links, which have no content, stay."""
    EMPTY_OR_REMOVE = "empty or remove"
    """A file of zero bytes where a lower layer has the path, else dropped. Links stay."""
    EDIT = "edit"
    """The file stays without what `Rule.edit` takes out of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One row. A pattern that matches a directory covers all that is in it, and so do the exceptions in `keep`.

    Directories themselves stay, because software expects the ones it was installed with. With `drop_directories`
    those that match and end up empty go too, unless a lower layer has them. The content that a `secret` row hits
    goes under every name: hard links to it are treated like the path itself.
    """

    id: str
    title: str
    verb: Verb
    patterns: tuple[str, ...]
    keep: tuple[str, ...] = ()
    secret: bool = False
    drop_directories: bool = False
    edit: Callable[[bytes], bytes] | None = None
