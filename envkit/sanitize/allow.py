"""Owns the waiver: what a user lets pass on purpose, as `--allow RULE:PATH`."""

import os
from dataclasses import dataclass

from envkit.errors import InvalidInput
from envkit.model.tree import display_path
from envkit.sanitize.match import parse_glob
from envkit.sanitize.rules import RULE_IDS


@dataclass(frozen=True, slots=True)
class Allow:
    """One rule does not apply to the paths of one glob (see `match`).

    There is no waiver of all rules: the next rule set would add some that its author has never seen.
    """

    rule: str
    glob: bytes

    @classmethod
    def parse(cls, text: str) -> "Allow":
        """Read `RULE:PATH`, as in `R103:/root/.bash_history` or `R202:~/.cache/uv`.

        :raises InvalidInput: it has another form, there is no such rule, or the path breaks the syntax of globs.
        """
        rule, colon, path = text.partition(":")
        if rule not in RULE_IDS:
            raise InvalidInput(f"--allow {text!r} names no rule", resolution=f"the rules are {', '.join(RULE_IDS)}")
        if not colon or not path:
            raise InvalidInput(f"--allow {text!r} names no path", resolution=f"write {rule}:/path/of/the/file")
        glob = os.fsencode(path)
        parse_glob(glob)
        return cls(rule=rule, glob=glob)

    def __str__(self) -> str:
        return self.rule + ":" + display_path(self.glob)[1:]
