"""Owns what commands say and do about start packs in a store: what a first run costs, which are damaged, which go.

Finding one for a run and keeping those that are made is `ondemand/startplaces.py`'s.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from envkit.content.startpack import StartPack, read_head, unpack
from envkit.errors import Damaged
from envkit.model.ids import EnvName
from envkit.model.startpack import stack_digest
from envkit.model.version import Version
from envkit.services.context import Context
from envkit.services.damage import Damage
from envkit.store import layout, starts
from envkit.store.base import Store
from envkit.store.errors import ObjectNotFound, StoreError
from envkit.store.parallel import each
from envkit.store.starts import Start

START = "start pack"
"""The kind of a damaged start pack."""

Stacks = Mapping[EnvName, frozenset[str]]
"""The stacks of environments, as they are named in keys of start packs."""


@dataclass(frozen=True)
class EntryCost:
    """What a node fetches for an entry point before anything of it is missing: bytes of its newest start pack."""

    entry_point: str
    number: int
    bytes: int


@dataclass(frozen=True)
class ColdStart:
    """What the first run of a version costs a node that has nothing of it.

    :ivar metadata: bytes of the trees of all layers, from which the node makes the metadata of their images.
    :ivar entries: the start packs, the one that was written last first.
    """

    metadata: int
    entries: tuple[EntryCost, ...]


def cold_start(context: Context, version: Version) -> ColdStart:
    """Return what the first run of a version costs; start packs that cannot be read are left out.

    :raises StoreError: the store cannot be read.
    """
    store = context.store
    trees = dict.fromkeys(layout.tree_key(layer.tree) for layer in version.layers)
    sizes = each(store.size, trees)
    stack = starts.stack_name(_stack(version))
    found = [start for start in starts.newest(starts.list_of(store, version.env)) if start.stack == stack]
    found.sort(key=lambda start: (start.modified, start.rank), reverse=True)
    costs = each(lambda start: _cost(store, start), found)
    return ColdStart(sum(size or 0 for size in sizes), tuple(cost for cost in costs if cost is not None))


def _cost(store: Store, start: Start) -> EntryCost | None:
    try:
        return EntryCost(_checked_head(store, start).entry_point, start.number, start.size)
    except (Damaged, StoreError):
        return None


def _stack(version: Version) -> str:
    return stack_digest(layer.tree for layer in version.layers)


def cold_start_json(found: ColdStart) -> dict[str, object]:
    """Return what a first run costs for `--json`."""
    rows = [{"entry_point": row.entry_point, "number": row.number, "bytes": row.bytes} for row in found.entries]
    return {"metadata": found.metadata, "start_packs": rows}


def stacks_of(versions: Iterable[Version]) -> Stacks:
    """Return the stacks of some versions, by environment."""
    found: dict[EnvName, set[str]] = {}
    for version in versions:
        found.setdefault(version.env, set()).add(starts.stack_name(_stack(version)))
    return {env: frozenset(stacks) for env, stacks in found.items()}


def unneeded(store: Store, needed: Stacks, *, before: float) -> list[Start]:
    """Return the start packs whose environment has no such stack any more, and those that newer ones supersede.

    :param before: those of unknown stacks that were written later are left out: they may be of a version that is newer
        than `needed`.
    """
    listed = starts.list_all(store)
    gone = [
        start for start in listed if start.stack not in needed.get(start.env, frozenset()) and start.modified < before
    ]
    return list(dict.fromkeys([*gone, *starts.superseded(listed)]))


def check_starts(store: Store, versions: Iterable[Version], *, whole: bool, data: bool) -> Iterator[Damage | None]:
    """Check the newest start packs of some versions; yield for each what is wrong with it, or None.

    :param whole: these are versions of the whole store, so that one listing finds everything.
    :param data: unpack all of them, too.
    """
    needed = stacks_of(versions)
    listed = starts.list_all(store) if whole else [start for env in needed for start in starts.list_of(store, env)]
    chosen = [start for start in starts.newest(listed) if start.stack in needed.get(start.env, frozenset())]
    return each(lambda start: _damage(store, start, data=data), chosen)


def _damage(store: Store, start: Start, *, data: bool) -> Damage | None:
    try:
        pack = _checked_head(store, start)
        if data:
            content = memoryview(store.get_range(start.key, 0, start.size))
            for number, frame in enumerate(pack.frames):
                unpack(pack, number, content[frame.offset : frame.offset + frame.stored])
    except ObjectNotFound:
        return None  # a newer one has just taken its place
    except Damaged as error:
        return Damage(start.key, START, f"{error.brief}; no version needs it, `envkit repair` removes it")
    return None


def _checked_head(store: Store, start: Start) -> StartPack:
    """Return the header of a start pack.

    :raises Damaged: it is not what its key says.
    """
    pack, _ = read_head(lambda at, length: store.get_range(start.key, at, length), start.size, start.digest)
    if starts.stack_name(pack.stack) != start.stack or starts.entry_name(pack.entry_point) != start.entry:
        raise Damaged(f"{start.key} in the store {store.url} is a start pack of something else")
    return pack
