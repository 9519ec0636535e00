"""Owns start packs as objects of a store: under whose name they lie, which one is the best, and how few are kept.

A start pack is a hint: it may be lost, deleted or superseded at any time, and nothing depends on it. They lie under
the owner and name of their environment, so that who may write its versions may write these.
"""

import hashlib
from collections.abc import Iterable, Sequence

from envkit.model.ids import EnvName
from envkit.model.record import Record
from envkit.store import layout
from envkit.store.base import Status, Store

MAX_NUMBER = 99_999_999
KEPT = 2
"""How many numbers a start pack may be behind the newest: a node may be reading it."""
ENTRIES = 32
"""How many entry points of one stack have start packs: those that were written last."""
_PREFIX = 16


class Start(Record):
    """A start pack in a store: whose, for which stack and entry point (beginnings of digests), number, header's digest.

    `size` and `modified` are the object's.
    """

    env: EnvName
    stack: str
    entry: str
    number: int
    digest: str
    size: int = 0
    modified: float = 0.0

    @property
    def key(self) -> str:
        return layout.start_key(self.env, self.stack, self.entry, self.number, self.digest)

    @property
    def rank(self) -> tuple[int, str]:
        """Sorts those of one stack and entry point; two writers may have taken the same number."""
        return self.number, self.digest


def stack_name(stack: str) -> str:
    """Return the part of a key that stands for a stack, from its digest."""
    return stack[:_PREFIX]


def entry_name(entry_point: str) -> str:
    """Return the part of a key that stands for an entry point."""
    return hashlib.sha256(entry_point.encode()).hexdigest()[:_PREFIX]


def list_all(store: Store) -> list[Start]:
    """Return all start packs of a store."""
    return _parsed(store.list_status(layout.STARTS))


def list_of(store: Store, env: EnvName) -> list[Start]:
    """Return all start packs of an environment."""
    return _parsed(store.list_status(layout.starts_prefix(env)))


def _parsed(listed: Iterable[tuple[str, Status]]) -> list[Start]:
    found = []
    for key, status in listed:
        place = layout.start_of(key)
        if place is not None:
            env, stack, entry, number, digest = place
            start = Start(env=env, stack=stack, entry=entry, number=number, digest=digest)
            found.append(start.replace(size=status.size, modified=status.modified))
    return found


def newest(starts: Iterable[Start]) -> list[Start]:
    """Return the newest start pack of each environment, stack and entry point."""
    best: dict[tuple[EnvName, str, str], Start] = {}
    for start in sorted(starts, key=lambda start: start.rank):
        best[start.env, start.stack, start.entry] = start
    return list(best.values())


def superseded(starts: Iterable[Start]) -> list[Start]:
    """Return those that are too far behind the newest one of their stack and entry point, or are of too many."""
    listed = list(starts)
    stacks: dict[tuple[EnvName, str], list[Start]] = {}
    for start in newest(listed):
        stacks.setdefault((start.env, start.stack), []).append(start)
    kept: dict[tuple[EnvName, str, str], int] = {}
    for best in stacks.values():
        for start in sorted(best, key=lambda start: (start.modified, start.rank), reverse=True)[:ENTRIES]:
            kept[start.env, start.stack, start.entry] = start.number - KEPT
    return [s for s in listed if s.number < kept.get((s.env, s.stack, s.entry), MAX_NUMBER + 1)]


def candidates(starts: Iterable[Start], stack: str, entry_point: str) -> list[Start]:
    """Return what can be used for a stack, by its digest, the best first.

    Those of the same entry point come first, the highest number before the others; then those of other entry points,
    the one that was written last before the others, since programs of one environment begin alike.
    """
    entry = entry_name(entry_point)
    own = [start for start in starts if start.stack == stack_name(stack)]
    exact = sorted((start for start in own if start.entry == entry), key=lambda start: start.rank, reverse=True)
    others = [start for start in newest(own) if start.entry != entry]
    return [*exact, *sorted(others, key=lambda start: (start.modified, start.rank), reverse=True)]


def put(
    store: Store,
    env: EnvName,
    *,
    stack: str,
    entry_point: str,
    digest: str,
    pieces: Sequence[bytes],
    above: int = 0,
) -> Start | None:
    """Store a start pack under the next number, and delete those that it leaves too far behind.

    :param stack: digest of the stack.
    :param digest: of the header, which is the first of `pieces`.
    :param above: the number is higher than this one, too.
    :returns: None if there is no number left.
    :raises StoreError: it cannot be written.
    """
    entry = entry_name(entry_point)
    listed = [start for start in list_of(store, env) if start.stack == stack_name(stack)]
    number = max(above, *(start.number for start in listed if start.entry == entry), 0) + 1
    if number > MAX_NUMBER:
        return None
    start = Start(env=env, stack=stack_name(stack), entry=entry, number=number, digest=digest)
    store.put_if_absent(start.key, pieces)
    # What it will be called by the store's clock is not known, only that nothing is newer.
    start = start.replace(size=sum(map(len, pieces)), modified=max((old.modified for old in listed), default=0.0) + 1)
    for old in superseded([*listed, start]):
        store.delete(old.key)
    return start
