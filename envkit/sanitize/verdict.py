"""Owns what the rules and the waivers together say about a path, before anyone asks what lies below it.

Rows, exceptions and waivers are one automaton (see `match`), so each state of it has one verdict, worked out once.
"""

import enum
from collections.abc import Sequence

import msgspec

from envkit.sanitize.allow import Allow
from envkit.sanitize.match import Matcher, State
from envkit.sanitize.rule import Rule


class Verdict(msgspec.Struct, frozen=True):
    """The row (its number) that acts on a path, and what else concerns it.

    `waived` is the row that would act without a waiver, `allows` the waivers in question, `content` the rows that
    cover all that is in this directory.
    """

    row: int | None
    waived: int | None
    allows: tuple[int, ...]
    content: frozenset[int]

    @property
    def reason(self) -> int | None:
        """The row that explains what happens to the path, be it that the row is waived."""
        return self.waived if self.row is None else self.row


class _Mark(enum.Enum):
    MATCH = enum.auto()
    KEEP = enum.auto()
    ALLOW = enum.auto()


class Judge:
    """A rule table with the waivers of one save. `matcher` walks the paths, `verdict` tells what a state means.

    :raises InvalidInput: a waiver's path breaks the syntax of globs.
    """

    def __init__(self, rules: Sequence[Rule], allow: Sequence[Allow]) -> None:
        self.rules, self.allow = rules, allow
        marks = [(_Mark.MATCH, row, text.encode()) for row, rule in enumerate(rules) for text in rule.patterns]
        marks += [(_Mark.KEEP, row, text.encode()) for row, rule in enumerate(rules) for text in rule.keep]
        marks += [(_Mark.ALLOW, number, waiver.glob) for number, waiver in enumerate(allow)]
        self.matcher = Matcher(glob for _, _, glob in marks)
        self._marks = [(mark, number) for mark, number, _ in marks]
        self._verdicts: dict[State, Verdict] = {}

    def verdict(self, state: State) -> Verdict:
        """Return what the rows say about a path of this state."""
        known = self._verdicts.get(state)
        if known is None:
            known = self._verdicts[state] = self._judge(state)
        return known

    def allows(self, row: int, state: State) -> tuple[int, ...]:
        """Return the waivers that keep a row's rule from a path of this state, whether or not the row matches it."""
        numbers = self._numbers(_Mark.ALLOW, state.tags)
        return tuple(number for number in sorted(numbers) if self.allow[number].rule == self.rules[row].id)

    def _numbers(self, wanted: _Mark, tags: frozenset[int]) -> set[int]:
        return {number for mark, number in map(self._marks.__getitem__, tags) if mark is wanted}

    def _judge(self, state: State) -> Verdict:
        matched = self._numbers(_Mark.MATCH, state.tags) - self._numbers(_Mark.KEEP, state.tags)
        allows = {row: self.allows(row, state) for row in sorted(matched)}
        return Verdict(
            row=next((row for row in allows if not allows[row]), None),
            waived=next((row for row in allows if allows[row]), None),
            allows=tuple(sorted({number for numbers in allows.values() for number in numbers})),
            content=frozenset(self._numbers(_Mark.MATCH, state.content)),
        )
