"""Owns what a store still needs: the mark of a collection, taken anew each time and from the store alone.

Needed are the trees of all versions that can still be run or brought back, and of submitted jobs that are not over, all
trees that are young, every pack that one of these trees names, and all packs that are young. Whatever cannot be read
or understood on the way ends the mark: a guess would delete data.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from envkit.content import treefile
from envkit.drivers.errors import KernelRefused
from envkit.drivers.files import read_bounded
from envkit.errors import Damaged, NotFound
from envkit.model.history import History
from envkit.model.ids import MAX_VERSION, EnvName
from envkit.model.tree import Chunk
from envkit.model.version import Version
from envkit.services.context import Context
from envkit.services.jobs.forgetting import needed_layers
from envkit.services.startpacks import Stacks, stacks_of
from envkit.store import layout, roots, versions
from envkit.store.base import Status, Store
from envkit.store.epochs import Objects
from envkit.store.errors import ObjectNotFound
from envkit.store.objects import MAX_STORED_TREE, get_tree
from envkit.store.parallel import each

YOUNG = 24 * 3600.0
"""Seconds for which nothing is condemned that was just written: a save under way should not have to begin again."""

_WIDE = 1000
_NAMED = 10


class CollectionStopped(Damaged):
    """Something that has to be known before anything may be deleted cannot be read."""

    def __init__(self, cause: Damaged) -> None:
        super().__init__(
            f"nothing was collected: {cause.brief}",
            details=cause.details,
            resolution=cause.resolution
            or "`envkit verify` shows what is damaged, `envkit repair` mends what can be mended",
        )


@dataclass(frozen=True)
class Marked:
    """What a store has and does not need, and how it looked.

    :ivar expendable: old, and nothing needs it.
    :ivar records: keys of all version records.
    :ivar newest: the highest number that each environment's records have taken.
    :ivar sizes: bytes of each object, by key.
    :ivar stacks: those of all versions that can still be run or brought back.
    """

    expendable: Objects
    records: frozenset[str]
    newest: dict[EnvName, int]
    sizes: dict[str, int]
    stacks: Stacks

    def bytes(self, objects: Objects) -> int:
        """Return how many bytes some objects take."""
        return sum(self.sizes.get(key, 0) for keys in objects.in_order() for key in keys)


class Marker:
    """Marks a store; remembers which packs a tree names, as a tree never changes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store: Store = context.store
        self._packs: dict[str, frozenset[str]] = {}
        self._listed: frozenset[str] = frozenset()

    def mark(self, *, now: float, grace: float) -> Marked:
        """Return what is not needed at a time by the store's clock; deleted versions are for another `grace` seconds.

        :raises CollectionStopped: a record, or a tree that is needed, is missing or damaged.
        :raises StoreError: the store cannot be read.
        """
        listed = self._records()
        histories = self._histories(listed)
        trees = self._addressed(layout.TREES, layout.tree_of)
        packs = self._addressed(layout.PACKS, layout.pack_of)
        if trees and not histories:
            raise CollectionStopped(Damaged(f"the store {self._store.url} lists trees, but no version of anything"))
        self._listed = frozenset(trees)
        live, kept, dead = _sorted_versions(histories, listed, now - grace)
        young = {digest for digest, status in trees.items() if now - status.modified < YOUNG}
        living = {layer.tree for version in live for layer in version.layers} | young
        kept_trees = {layer.tree for version in kept for layer in version.layers} | needed_layers(self._store)
        kept_trees -= living
        needed = self._named(living) | self._named(kept_trees, absent=kept_trees - set(trees))
        needed |= {digest for digest, status in packs.items() if now - status.modified < YOUNG}
        expendable = Objects(
            packs=frozenset(packs) - needed, trees=frozenset(trees) - living - kept_trees, versions=frozenset(dead)
        )
        sizes = {key: status.size for key, status in listed.items()}
        sizes |= {layout.tree_key(digest): status.size for digest, status in trees.items()}
        sizes |= {layout.pack_key(digest): status.size for digest, status in packs.items()}
        return Marked(
            expendable=expendable,
            records=frozenset(filter(layout.version_of, listed)),
            newest={env: numbers[-1] for env, numbers in _numbers(listed).items()},
            sizes=sizes,
            stacks=stacks_of([*live, *kept]),
        )

    def _records(self) -> dict[str, Status]:
        """List the version records until there is none that was not seen before.

        A rename writes the new name's records before it deletes the old name's, so who sees the deletion sees
        those in the next listing at the latest.
        """
        seen: dict[str, Status] = {}
        while True:
            listed = dict(self._store.list_status(layout.ENVIRONMENTS))
            if listed.keys() <= seen.keys():
                return self._with_unlisted(self._with_known(seen))
            seen |= listed

    def _with_known(self, listed: dict[str, Status]) -> dict[str, Status]:
        """Add the newest record that a collection has seen of each environment, where the listings left it out.

        :raises CollectionStopped: some are lost.
        """
        # After the listings: what another collection saw meanwhile counts, too.
        try:
            known = roots.read(self._store).newest
        except Damaged as error:
            raise CollectionStopped(error) from error
        shown = _numbers(listed)
        hidden = [env for env, number in known.items() if number > max(shown.get(env, ()), default=0)]
        keys = [layout.version_key(env, known[env]) for env in hidden]
        found = dict(zip(keys, each(self._store.status, keys), strict=True))
        lost = [env for env, key in zip(hidden, keys, strict=True) if found[key] is None]
        if lost:
            raise CollectionStopped(_lost(self._store, lost, known))
        for env in hidden:
            if known[env] - max(shown.get(env, ()), default=0) > _WIDE:  # more than can be looked for one by one
                brief = f"the store {self._store.url} no longer lists records of {env}, which go up to {known[env]}"
                raise CollectionStopped(Damaged(brief, resolution="check the store's health"))
        return listed | {key: status for key, status in found.items() if status is not None}

    def _with_unlisted(self, listed: dict[str, Status]) -> dict[str, Status]:
        """Add the records that a listing left out: in the gaps of an environment's numbers, and behind the last one."""
        while True:
            asked = [
                layout.version_key(env, number) for env, taken in _numbers(listed).items() for number in _untaken(taken)
            ]
            there = zip(asked, each(self._store.status, asked), strict=True)
            found = {key: status for key, status in there if status is not None}
            if not found:
                return listed
            listed = listed | found

    def _addressed(self, prefix: str, digest_of: Callable[[str], str | None]) -> dict[str, Status]:
        found = ((digest_of(key), status) for key, status in self._store.list_status(prefix))
        return {digest: status for digest, status in found if digest is not None}

    def _histories(self, keys: Iterable[str]) -> dict[EnvName, History]:
        places = [place for key in keys if (place := layout.version_of(key)) is not None]
        found: dict[EnvName, list[Version]] = {}
        gone: list[tuple[EnvName, int, NotFound]] = []
        for (env, number), record in zip(places, each(self._record, places), strict=True):
            if isinstance(record, NotFound):
                gone.append((env, number, record))
            else:
                found.setdefault(env, []).append(record)
        histories = {env: History(records) for env, records in found.items()}
        for env, number, missing in gone:
            if env not in histories or histories[env].tombstone_of(number) is None:
                raise CollectionStopped(Damaged(f"{missing.brief}, though the store {self._store.url} lists it"))
        return histories

    def _record(self, place: tuple[EnvName, int]) -> Version | NotFound:
        try:
            return versions.load(self._store, *place)
        except NotFound as missing:
            return missing  # another collection may be deleting it right now
        except Damaged as error:
            raise CollectionStopped(error) from error

    def _named(self, trees: Iterable[str], *, absent: Iterable[str] = ()) -> set[str]:
        """Return the packs that some trees name; trees in `absent` may be missing."""
        may_miss = set(absent)
        unknown = [digest for digest in trees if digest not in self._packs]
        for digest, packs in zip(unknown, each(self._read, unknown), strict=True):
            if isinstance(packs, ObjectNotFound):
                if digest not in may_miss:
                    raise CollectionStopped(Damaged(packs.brief)) from packs
            else:
                self._packs[digest] = packs
        return set().union(*(self._packs.get(digest, frozenset()) for digest in trees))

    def _read(self, digest: str) -> frozenset[str] | ObjectNotFound:
        try:
            chunks = self._cached(digest)
            if chunks is None:
                chunks = treefile.decode_chunks(get_tree(self._store, digest), digest)
        except ObjectNotFound as missing:
            return missing
        except Damaged as error:
            raise CollectionStopped(error) from error
        return frozenset(chunk.pack.hex() for chunk in chunks)

    def _cached(self, digest: str) -> list[Chunk] | None:
        """Read this node's copy of a tree that the store lists, if it is the right one."""
        if os.geteuid() != 0 or digest not in self._listed:
            return None
        try:
            data = read_bounded(f"{self._context.paths.trees}/{digest}", MAX_STORED_TREE)
            return None if data is None else treefile.decode_chunks(data, digest)
        except (Damaged, KernelRefused):
            return None


def _lost(store: Store, lost: list[EnvName], known: Mapping[EnvName, int]) -> Damaged:
    """Return what is said of environments whose newest records are gone, though nothing ever deletes these."""
    shown = [f"{env}@{known[env]}" for env in lost[:_NAMED]]
    if len(lost) > _NAMED:
        shown.append(f"{len(lost) - _NAMED} more")
    names = " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
    return Damaged(
        f"the store {store.url} no longer has {names}, the newest of what an earlier collection saw of"
        f" {'this environment' if len(lost) == 1 else 'these environments'}",
        resolution=f"restore {layout.version_key(lost[0], known[lost[0]])}{' and the others' * (len(lost) > 1)} from a"
        f" copy of the store; to give up what is lost, remove all objects below {layout.ROOTS}",
    )


def _numbers(keys: Iterable[str]) -> dict[EnvName, list[int]]:
    """Return the numbers that the records of each environment have taken, in order."""
    numbers: dict[EnvName, list[int]] = {}
    for env, number in filter(None, map(layout.version_of, keys)):
        numbers.setdefault(env, []).append(number)
    return {env: sorted(taken) for env, taken in numbers.items()}


def _untaken(numbers: Iterable[int]) -> Iterator[int]:
    """Yield the numbers in the gaps of some, of a wide gap only the ends, and the one behind the last."""
    before = 0
    for number in numbers:
        gap = range(before + 1, number)
        yield from gap if len(gap) <= _WIDE else (gap[0], gap[-1])
        before = number
    if before < MAX_VERSION:
        yield before + 1


def _sorted_versions(
    histories: dict[EnvName, History], listed: dict[str, Status], since: float
) -> tuple[list[Version], list[Version], list[str]]:
    """Return the versions that live, those that were deleted after `since`, and the keys of the others."""
    live: list[Version] = []
    kept: list[Version] = []
    dead: list[str] = []
    for env, history in histories.items():
        for number, version in history.versions.items():
            tombstone = history.tombstone_of(number)
            if tombstone is None:
                live.append(version)
            elif listed[layout.version_key(env, tombstone.number)].modified > since:
                kept.append(version)
            else:
                dead.append(layout.version_key(env, number))
    return live, kept, dead
