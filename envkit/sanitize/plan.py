"""Owns the plan: what sanitizing does to each path of one layer, decided before anything is changed.

Nothing on disk changes, neither now nor later: `apply` filters the entries that a save goes on with, the session
keeps all of its files.
"""

import enum
from collections.abc import Mapping

import msgspec

from envkit.sanitize.allow import Allow


class Outcome(enum.Enum):
    """What happens to a path. A whiteout is only needed where a lower layer would show through."""

    DROP = "drop"
    RESTORE = "restore"
    WHITEOUT = "whiteout"
    EMPTY = "empty"
    EDIT = "edit"


class Action(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What happens to one path, and why.

    `size` counts the bytes of content that the save loses by it; `scope` is the directory all of whose content the
    rule covers, or the path itself; `link` the path that the rule hits where this one is only a hard link to it.
    """

    rule: str
    path: bytes
    outcome: Outcome
    size: int
    scope: bytes
    directory: bool = False
    link: bytes = b""


class Waived(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A path that a rule hits and that stays because the user said so. `scope` as in `Action`."""

    rule: str
    path: bytes
    scope: bytes


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that sanitizing does, in the entries' order; `edits` is the new content of the paths that are edited.

    `unused_allows` are the waivers that let nothing pass: most likely somebody mistyped a path.
    """

    actions: tuple[Action, ...] = ()
    waived: tuple[Waived, ...] = ()
    unused_allows: tuple[Allow, ...] = ()
    edits: Mapping[bytes, bytes] = {}

    @property
    def size(self) -> int:
        """Bytes of content that the save loses."""
        return sum(action.size for action in self.actions)
