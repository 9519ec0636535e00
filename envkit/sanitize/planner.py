"""Owns the planner: how rules, waivers, hard links and the layers below come to a plan.

A pure function of the layer's entries, of what lies below it, and of the rules; it reads content only where a rule
edits. Which row concerns a path is decided in `verdict`, what a directory or a hard link adds to that here.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from envkit.model.tree import Entry, Kind, path_key
from envkit.sanitize.allow import Allow
from envkit.sanitize.homes import find_homes
from envkit.sanitize.match import State
from envkit.sanitize.plan import Action, Outcome, Plan, Waived
from envkit.sanitize.rule import Rule, Verb
from envkit.sanitize.rules import RULES
from envkit.sanitize.verdict import Judge, Verdict

# `Kind.DIRECTORY` is a slow look-up in Python 3.11.
_DIRECTORY, _HARDLINK, _WHITEOUT = Kind.DIRECTORY, Kind.HARDLINK, Kind.WHITEOUT

MAX_EDIT = 1 << 20
"""Larger files are not edited but removed: no real configuration has that size, and an edit holds it in memory."""


def make_plan(
    entries: Sequence[Entry],
    *,
    lower: Callable[[bytes], Entry | None],
    passwd: bytes,
    read: Callable[[Entry], bytes],
    allow: Sequence[Allow] = (),
    rules: Sequence[Rule] = RULES,
) -> Plan:
    """Decide what happens to each entry of an upper directory.

    :param entries: all of them, in canonical order, every parent included.
    :param lower: the entry that the layers below show at a path, or None.
    :param passwd: content of `/etc/passwd` as the environment sees it, empty if it has none.
    :param read: content of a file of the upper directory; asked for files of up to 1 MiB that may need an edit.
    :raises InvalidInput: a waiver's path breaks the syntax of globs.
    """
    return _Planner(entries, lower=lower, read=read, judge=Judge(rules, allow)).plan(passwd)


class _Directory(msgspec.Struct, frozen=True):
    """What entries need to know about their directory. `hides`: no lower layer shows through in it."""

    state: State
    verdict: Verdict
    hides: bool
    scope: bytes


class _Hit(msgspec.Struct, frozen=True):
    """A path that a row concerns; the waivers that keep it, if any."""

    row: int
    scope: bytes
    link: bytes = b""
    allows: tuple[int, ...] = ()


class _Planner:
    """The walk over the entries, and what it has found so far."""

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        lower: Callable[[bytes], Entry | None],
        read: Callable[[Entry], bytes],
        judge: Judge,
    ) -> None:
        self.entries, self.lower, self.read, self.judge, self.rules = entries, lower, read, judge, judge.rules
        self.by_path = {entry.path: entry for entry in entries}
        self.directories: dict[bytes, _Directory] = {}
        self.perhaps_empty: list[bytes] = []
        self.links: dict[bytes, list[bytes]] = {}
        self.hits: dict[bytes, _Hit] = {}
        self.waived: dict[bytes, _Hit] = {}
        self.used_allows: set[int] = set()

    def plan(self, passwd: bytes) -> Plan:
        self._walk(find_homes(self.entries, passwd=passwd, link=self._link))
        self._follow_hard_links()
        outcomes: dict[bytes, Outcome] = {}
        edits: dict[bytes, bytes] = {}
        for path, hit in self.hits.items():
            outcome, content = self._outcome(path, self.rules[hit.row])
            if outcome is not None:
                outcomes[path] = outcome
            if content is not None:
                edits[path] = content
        outcomes |= self._empty_directories(outcomes)
        waived = self._waived(outcomes)
        unused = tuple(waiver for number, waiver in enumerate(self.judge.allow) if number not in self.used_allows)
        actions = tuple(self._action(entry, outcomes, edits) for entry in self.entries if entry.path in outcomes)
        return Plan(actions=actions, waived=waived, unused_allows=unused, edits=edits)

    def _link(self, path: bytes) -> bytes | None:
        entry = self.by_path.get(path) or self.lower(path)
        return entry.target if entry is not None and entry.kind is Kind.SYMLINK else None

    def _walk(self, homes: frozenset[bytes]) -> None:
        """Find what the rules hit by its own path."""
        judge, matcher = self.judge, self.judge.matcher
        top = _Directory(state=matcher.start, verdict=judge.verdict(matcher.start), hides=False, scope=b"")
        parent, parent_path = top, b""
        for entry in self.entries:
            path, kind = entry.path, entry.kind
            place, _, name = path.rpartition(b"/")
            if place != parent_path:
                parent, parent_path = self.directories[place], place
            if kind is _DIRECTORY:
                state = matcher.step(parent.state, name) if path else parent.state
                state = matcher.at_home(state) if path in homes else state
                verdict = judge.verdict(state)
                scope = _scope(path, verdict.reason, parent_path, parent)
                hides = parent.hides or entry.opaque
                found = self.directories[path] = _Directory(state=state, verdict=verdict, hides=hides, scope=scope)
                parent = parent if path else found
                if self._drops(verdict.row) or self._drops(parent.verdict.row):
                    self.perhaps_empty.append(path)
                if verdict.row is None and self._drops(verdict.waived):
                    self.used_allows.update(verdict.allows)
                continue
            if self._drops(parent.verdict.row):
                self.perhaps_empty.append(path)
            if kind is _HARDLINK:
                self.links.setdefault(entry.target, []).append(path)
            state = matcher.leaf(parent.state, name)
            # What the user deleted stays deleted: a whiteout is never touched.
            if not state.tags or kind is _WHITEOUT:
                continue
            verdict = judge.verdict(state)
            if verdict.reason is not None:
                scope = _scope(path, verdict.reason, parent_path, parent)
                hit = _Hit(verdict.reason, scope, allows=verdict.allows)
                if verdict.row is None:
                    self.waived[path] = hit
                else:
                    self.hits[path] = hit
                    self.used_allows.update(verdict.allows)

    def _follow_hard_links(self) -> None:
        """Let what happens to a secret happen to all its names, save those that are waived."""
        for first, others in self.links.items():
            names = (first, *others)
            secret = [name for name in names if name in self.hits and self.rules[self.hits[name].row].secret]
            if not secret:
                continue
            origin = min(secret, key=lambda name: self.hits[name].row)
            row = self.hits[origin].row
            for name in names:
                if name in self.hits and self.hits[name].row <= row:
                    continue
                parent, _, last = name.rpartition(b"/")
                allows = self.judge.allows(row, self.judge.matcher.step(self.directories[parent].state, last))
                if not allows:
                    self.hits[name] = _Hit(row, name, link=origin)
                elif name not in self.hits:
                    self.waived[name] = _Hit(row, name, allows=allows)

    def _below(self, path: bytes) -> Entry | None:
        """Return what a lower layer would show if the entry were not there, or None."""
        if self.directories[path.rpartition(b"/")[0]].hides:
            return None
        below = self.lower(path)
        return None if below is None or below.kind is Kind.WHITEOUT else below

    def _outcome(self, path: bytes, rule: Rule) -> tuple[Outcome | None, bytes | None]:
        """Return what a rule comes to at a path that is no directory, if anything, and the edited content."""
        entry = self.by_path[path]
        file = self.by_path[entry.target] if entry.kind is Kind.HARDLINK else entry
        verb = rule.verb
        if verb in (Verb.EMPTY, Verb.EMPTY_OR_REMOVE, Verb.EDIT) and file.kind is not Kind.FILE:
            return None, None
        if verb is Verb.EDIT and rule.edit is not None and file.size <= MAX_EDIT:
            content = self.read(entry)
            edited = rule.edit(content)
            return (Outcome.EDIT, edited) if edited != content else (None, None)
        below = self._below(path)
        if verb is Verb.EMPTY or (verb is Verb.EMPTY_OR_REMOVE and below is not None):
            return (Outcome.EMPTY if file.size else None), None
        if below is None:
            return Outcome.DROP, None
        # A directory below was deleted by the user before this path could be made: it must not come back.
        restore = verb is Verb.RESTORE and below.kind is not Kind.DIRECTORY
        return (Outcome.RESTORE if restore else Outcome.WHITEOUT), None

    def _empty_directories(self, outcomes: Mapping[bytes, Outcome]) -> dict[bytes, Outcome]:
        """Return the directories that rules drop: nothing is left in them and no lower layer has them."""
        dropped: dict[bytes, Outcome] = {}
        occupied: set[bytes] = set()
        # Backwards, what a directory holds comes before the directory itself.
        for path in reversed(self.perhaps_empty):
            directory = self.directories.get(path)
            goes = directory is not None and self._drops(directory.verdict.row) and path not in occupied
            if goes and self._below(path) is None:
                dropped[path] = Outcome.DROP
            elif outcomes.get(path) not in (Outcome.DROP, Outcome.RESTORE):
                occupied.add(path.rpartition(b"/")[0])
        return dropped

    def _drops(self, row: int | None) -> bool:
        return row is not None and self.rules[row].drop_directories

    def _waived(self, outcomes: Mapping[bytes, Outcome]) -> tuple[Waived, ...]:
        """Return what stays although a rule would do something, and note the waivers that made it so."""
        waived = []
        for path, hit in sorted(self.waived.items(), key=lambda item: path_key(item[0])):
            rule = self.rules[hit.row]
            if self._outcome(path, rule)[0] is not None:
                self.used_allows.update(hit.allows)
                if path not in outcomes:
                    waived.append(Waived(rule=rule.id, path=path, scope=hit.scope))
        return tuple(waived)

    def _action(self, entry: Entry, outcomes: Mapping[bytes, Outcome], edits: Mapping[bytes, bytes]) -> Action:
        path = entry.path
        if entry.kind is Kind.DIRECTORY:
            directory = self.directories[path]
            rule = self.rules[directory.verdict.row or 0]
            return Action(
                rule=rule.id, path=path, outcome=outcomes[path], size=0, scope=directory.scope, directory=True
            )
        hit = self.hits[path]
        # Content with several names is lost with the last of them; it counts once, with the first.
        lost = entry.kind is Kind.FILE and all(name in outcomes for name in self.links.get(path, ()))
        size = max(0, entry.size - len(edits.get(path, b""))) if lost else 0
        rule = self.rules[hit.row]
        return Action(rule=rule.id, path=path, outcome=outcomes[path], size=size, scope=hit.scope, link=hit.link)


def _scope(path: bytes, row: int | None, parent_path: bytes, parent: _Directory) -> bytes:
    """Return the directory all of whose content a row covers, or the path itself where it is hit on its own."""
    if row is None:
        return path
    if row in (parent.verdict.row, parent.verdict.waived):
        return parent.scope
    return parent_path if row in parent.verdict.content else path
