"""Layers for the sanitizer's tests: entries from paths, with their parents, and what lies below them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from envkit.model.tree import Entry, Kind, Tree, check_tree, path_key
from envkit.sanitize import RULES, Allow, Cleaned, Plan, Rule, apply_plan, make_plan
from envkit.sanitize.match import expand_braces

GIT_CONFIG = b'[remote "origin"]\n\turl = https://me:hunter2@example.org/a.git\n'
PASSWD = b"root:x:0:0:root:/root:/bin/bash\nsvc:x:900:900::/data/svc:/usr/sbin/nologin\n"


def file(path: str | bytes, size: int = 10) -> Entry:
    return Entry(_bytes(path), Kind.FILE, mode=0o640, uid=7, gid=8, mtime_ns=10**18, size=size)


def directory(path: str | bytes, *, opaque: bool = False) -> Entry:
    return Entry(_bytes(path), Kind.DIRECTORY, mode=0o755, opaque=opaque)


def symlink(path: str | bytes, target: bytes) -> Entry:
    return Entry(_bytes(path), Kind.SYMLINK, mode=0o777, target=target)


def hard_link(path: str | bytes, first: str | bytes) -> Entry:
    return Entry(_bytes(path), Kind.HARDLINK, target=_bytes(first))


def whiteout(path: str | bytes) -> Entry:
    return Entry(_bytes(path), Kind.WHITEOUT)


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries in canonical order, with every directory above them."""
    found = {entry.path: entry for entry in entries}
    for path in list(found):
        while path:
            path = path.rpartition(b"/")[0]
            found.setdefault(path, directory(path))
            assert found[path].kind is Kind.DIRECTORY, f"{path!r} is to be a directory and something else"
    return sorted(found.values(), key=lambda entry: path_key(entry.path))


@dataclass
class Layer:
    """An upper directory over a lower tree; `contents` of files, all others hold zeros."""

    entries: list[Entry]
    below: dict[bytes, Entry] = field(default_factory=dict)
    contents: dict[bytes, bytes] = field(default_factory=dict)
    passwd: bytes = PASSWD

    @classmethod
    def of(cls, *entries: Entry, below: Iterable[Entry] = (), **fields: object) -> "Layer":
        lower = {entry.path: entry for entry in with_parents(below)}
        return cls(with_parents(entries), lower, **fields)  # type: ignore[arg-type]

    def plan(self, *, allow: Iterable[str] = (), rules: Sequence[Rule] = RULES) -> Plan:
        waivers = [Allow.parse(text) for text in allow]
        return make_plan(
            self.entries,
            lower=self.below.get,
            passwd=self.passwd,
            read=lambda entry: self.read(entry.path),
            allow=waivers,
            rules=rules,
        )

    def cleaned(self, **options: object) -> Cleaned:
        """Plan, apply, and check that the result is a valid tree."""
        cleaned = apply_plan(self.entries, self.plan(**options))  # type: ignore[arg-type]
        check_tree(Tree(1, cleaned.entries, []))
        return cleaned

    def after(self, cleaned: Cleaned) -> "Layer":
        """Return the layer that a cleaning leaves."""
        contents = {entry.path: self.read(entry.path) for entry in cleaned.entries if entry.kind is Kind.FILE}
        return Layer(cleaned.entries, self.below, contents | cleaned.contents, self.passwd)

    def read(self, path: bytes) -> bytes:
        entry = next(entry for entry in self.entries if entry.path == path)
        if entry.kind is Kind.HARDLINK:
            return self.read(entry.target)
        assert entry.kind is Kind.FILE
        return self.contents.get(path, bytes(entry.size))


def outcomes(plan: Plan) -> dict[str, tuple[str, str]]:
    """Return path -> (rule, outcome) of a plan's actions."""
    return {_text(action.path): (action.rule, action.outcome.value) for action in plan.actions}


def paths(cleaned: Cleaned) -> list[str]:
    """Return the paths of what is there after cleaning, without whiteouts."""
    return [_text(entry.path) for entry in cleaned.entries if entry.kind is not Kind.WHITEOUT]


def entry_at(cleaned: Cleaned, path: str) -> Entry:
    return next(entry for entry in cleaned.entries if entry.path == _bytes(path))


def _bytes(path: str | bytes) -> bytes:
    return path.encode() if isinstance(path, str) else path


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def samples_of(patterns: Iterable[str]) -> list[str]:
    """Return a path below a home for each alternative of patterns without `~/`."""
    globs = [glob.decode() for pattern in patterns for glob in expand_braces(pattern.encode())]
    return [glob.replace("*", "x1") for glob in globs]
