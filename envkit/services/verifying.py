"""Owns the use case `verify`: is everything there that the versions of a store need, and is it what it should be?

Everything is read from the store itself, past this node's caches. Deleted versions are not looked at.
"""

import hashlib
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from envkit.content import treefile
from envkit.content.errors import DamagedChunk
from envkit.content.reader import unpack_chunk
from envkit.errors import Damaged, EnvkitError, InvalidInput
from envkit.model.history import History
from envkit.model.ids import EnvName, EnvRef
from envkit.model.progress import Step
from envkit.model.tree import Chunk, Tree
from envkit.model.version import MAX_VERSION_BYTES, Version, version_from_json
from envkit.services.context import Context
from envkit.services.damage import LOST, NOTE, PACK, TREE, VERSION, Damage, Needs, damage_json, with_files
from envkit.services.startpacks import check_starts
from envkit.store import epochs, layout, roots, versions
from envkit.store.base import Status, Store
from envkit.store.errors import ObjectNotFound, ObjectTooLarge, ObjectTruncated, StoreUnreadable
from envkit.store.objects import get_tree
from envkit.store.parallel import each

_WHOLE = 64 << 20
"""A pack of more bytes than this, which envkit does not write, is read chunk by chunk."""


@dataclass(kw_only=True)
class Verified:
    """What was looked at, and what is wrong. `read` is the bytes of packs that were read, `chunks` those named."""

    versions: int = 0
    trees: int = 0
    packs: int = 0
    chunks: int = 0
    start_packs: int = 0
    checked_chunks: int = 0
    read: int = 0
    damages: list[Damage] = field(default_factory=list)


@dataclass(frozen=True)
class _Checked:
    """What reading a pack showed: chunks and bytes that were read, chunks that are bad, what is wrong in a sentence."""

    pack: str
    chunks: int
    read: int
    bad: frozenset[bytes]
    problem: str = ""


def verify(context: Context, text: str | None = None, *, data: bool = False, sample: float | None = None) -> Verified:
    """Check the store, or what one environment or version needs of it.

    :param data: read and check every chunk, and the packs as a whole.
    :param sample: read and check this share of the chunks, 0 to 1, chosen at random.
    :raises NotFound: there is no such environment or version.
    """
    if sample is not None and not 0 < sample <= 1:
        raise InvalidInput(f"a sample of {sample:.0%} is none", resolution="give a share between 0% and 100%")
    return Verification(context, None if text is None else context.ref(text)).run(data=data, sample=sample)


class Verification:
    """One verification; `needs` and `sizes` say afterwards what was found."""

    def __init__(self, context: Context, ref: EnvRef | None = None) -> None:
        self._context = context
        self._store: Store = context.store
        self._ref = ref
        self._rows: dict[str, set[Chunk]] = {}
        self.needs = Needs()
        self.sizes: dict[str, int] = {}
        self.result = Verified()

    def run(self, *, data: bool = False, sample: float | None = None) -> Verified:
        """Check it."""
        chosen = self._versions()
        self._notes()
        self.result.versions = len(chosen)
        self.needs = Needs.of(chosen)
        self._trees(keep=data or sample is not None)
        damages = self._lengths()
        if data or sample is not None:
            damages += self._contents({damage.digest for damage in damages}, sample)
        self.result.damages += with_files(damages, self.needs, self._tree, self.sizes)
        self._starts(chosen, data=data)
        return self.result

    # Versions

    def _versions(self) -> list[Version]:
        prefix = layout.ENVIRONMENTS if self._ref is None else layout.versions_prefix(self._ref.env)
        listed = [item for item in self._store.list_status(prefix) if layout.version_of(item[0])]
        found: dict[EnvName, list[Version]] = {}
        with self._context.progress.step("versions", total=len(listed), unit="records") as step:
            for version in each(self._record, listed):
                step.advance(1)
                if isinstance(version, Damage):
                    self.result.damages.append(version)
                elif version is not None:
                    found.setdefault(version.env, []).append(version)
        live = [history.versions[n] for history in map(History, found.values()) for n in history.live]
        if self._ref is None:
            return live
        if not self._ref.is_whole or not (live or self.result.damages):
            return [versions.resolve(self._store, self._ref)]
        return live

    def _record(self, item: tuple[str, Status]) -> Version | Damage | None:
        """Read a record past the copies that this node may have; None if it was collected meanwhile."""
        key, status = item
        env, number = layout.version_of(key) or (None, 0)
        try:
            if status.size > MAX_VERSION_BYTES:
                raise ObjectTooLarge(self._store.url, key, status.size, MAX_VERSION_BYTES)
            version = version_from_json(self._store.get_range(key, 0, status.size), where=key)
            if version.env != env or version.number != number:
                raise Damaged(f"it is the record of {version}")
        except ObjectNotFound:
            return None
        except Damaged as error:
            return Damage(key, VERSION, _told(error), versions=(f"{env}@{number}",))
        return version

    def _notes(self) -> None:
        try:
            epoch, _ = epochs.read(self._store)
            for part, read in ((epochs.CONDEMNED, epochs.records_seen), (epochs.WRITERS, epochs.awaited)):
                if epoch.is_open and part in epoch.parts:
                    read(self._store, epoch.number)
        except ObjectNotFound:
            pass  # a collection has just ended
        except Damaged as error:
            self.result.damages.append(Damage(layout.COLLECTIONS, NOTE, error.brief))
        if self._ref is None:
            self.result.damages += self._lost()

    def _lost(self) -> list[Damage]:
        """Return what collections, which stop at it, have seen and the store does not have any more."""
        try:
            newest = list(roots.read(self._store).newest.items())
        except (Damaged, StoreUnreadable) as error:
            return [Damage(layout.ROOTS, NOTE, error.brief)]
        keys = [layout.version_key(env, number) for env, number in newest]
        sizes = zip(newest, keys, each(self._store.size, keys), strict=True)
        problem = "is gone, the newest record that a collection saw of its environment"
        return [Damage(key, LOST, problem, versions=(f"{e}@{n}",)) for (e, n), key, size in sizes if size is None]

    def _starts(self, chosen: list[Version], *, data: bool) -> None:
        with self._context.progress.step("start packs", unit="start packs") as step:
            for damage in check_starts(self._store, chosen, whole=self._ref is None, data=data):
                step.advance(1)
                self.result.start_packs += 1
                if damage is not None:
                    self.result.damages.append(damage)

    # Structure

    def _trees(self, *, keep: bool) -> None:
        """Decode every tree, and see what its chunks need; keep their places if the data is to be read."""
        digests = list(self.needs.versions)
        with self._context.progress.step("trees", total=len(digests), unit="trees") as step:
            for digest, tree in zip(digests, each(self._readable_tree, digests), strict=True):
                step.advance(1)
                if isinstance(tree, Damage):
                    self.result.damages.append(tree)
                    continue
                self.result.trees += 1
                self.result.chunks += len(tree.chunks)
                self.needs.packs[digest] = self._places(tree, keep=keep)

    def _readable_tree(self, digest: str) -> Tree | Damage:
        try:
            return self._tree(digest)
        except (Damaged, ObjectNotFound) as error:
            key, affected = layout.tree_key(digest), self.needs.versions_of([digest])
            return Damage(key, TREE, _told(error), digest=digest, versions=affected)

    def _tree(self, digest: str) -> Tree:
        return treefile.decode(get_tree(self._store, digest), digest)

    def _places(self, tree: Tree, *, keep: bool) -> dict[str, int]:
        ends: dict[bytes, int] = {}
        for chunk in tree.chunks:
            end = chunk.offset + chunk.stored
            if ends.get(chunk.pack, 0) < end:
                ends[chunk.pack] = end
        if keep:
            for chunk in tree.chunks:
                self._rows.setdefault(chunk.pack.hex(), set()).add(chunk)
        return {pack.hex(): end for pack, end in ends.items()}

    def _lengths(self) -> list[Damage]:
        """Return the packs that are missing or too short."""
        needed = self.needs.bytes_of()
        if self._ref is None:
            listed = ((layout.pack_of(key), status.size) for key, status in self._store.list_status(layout.PACKS))
            self.sizes = {pack: size for pack, size in listed if pack in needed}
        else:
            sizes = zip(needed, each(self._store.size, map(layout.pack_key, needed)), strict=True)
            self.sizes = {pack: size for pack, size in sizes if size is not None}
        self.result.packs = len(needed)
        found = []
        for pack, size in needed.items():
            there = self.sizes.get(pack)
            if there is None:
                found.append(Damage(layout.pack_key(pack), PACK, "is missing", digest=pack))
            elif there < size:
                problem = f"has {there} bytes, and {size} are needed"
                found.append(Damage(layout.pack_key(pack), PACK, problem, digest=pack))
        return found

    # Contents

    def _contents(self, known: set[str], sample: float | None) -> list[Damage]:
        """Read packs and return those with something wrong in them that was not known."""
        if sample is not None:
            chosen = random.Random()  # noqa: S311  # a sample, no secret
            rows = {pack: [row for row in rows if chosen.random() < sample] for pack, rows in self._rows.items()}
            work = partial(self._check_chunks, rows)
            total = sum(row.stored for some in rows.values() for row in some)
        else:
            rows = {pack: list(rows) for pack, rows in self._rows.items()}
            work = partial(self._check_pack, rows)
            total = sum(self.sizes.values())
        packs = [pack for pack, some in rows.items() if some and pack in self.sizes]
        threads = min(4, len(os.sched_getaffinity(0)))
        with self._context.progress.step("reading packs", total=total, unit="bytes") as step:
            return list(self._found(each(work, packs, requests=threads), known, step))

    def _found(self, checked: Iterable[_Checked], known: set[str], step: Step) -> Iterator[Damage]:
        for pack in checked:
            step.advance(pack.read)
            self.result.checked_chunks += pack.chunks
            self.result.read += pack.read
            if pack.problem and pack.pack not in known:
                key = layout.pack_key(pack.pack)
                yield Damage(key, PACK, pack.problem, digest=pack.pack, chunks=pack.bad)

    def _check_pack(self, rows: dict[str, list[Chunk]], pack: str) -> _Checked:
        """Read a pack as a whole: its own digest, then every chunk that somebody needs."""
        size = self.sizes[pack]
        if size > _WHOLE:
            return self._check_chunks(rows, pack)
        try:
            data = memoryview(self._store.get_range(layout.pack_key(pack), 0, size))
        except (ObjectNotFound, ObjectTruncated) as error:
            return _Checked(pack, 0, 0, frozenset(row.digest for row in rows[pack]), _told(error))
        bad = bad_chunks(rows[pack], data)
        whole = hashlib.sha256(data).hexdigest() == pack
        problem = _problem(bad, len(rows[pack]))
        if not whole and not bad:
            problem = "its bytes do not have its digest, though all chunks that are needed are whole"
        return _Checked(pack, len(rows[pack]), size, bad, problem)

    def _check_chunks(self, rows: dict[str, list[Chunk]], pack: str) -> _Checked:
        bad = set()
        for row in rows[pack]:
            try:
                unpack_chunk(row, self._store.get_range(layout.pack_key(pack), row.offset, row.stored))
            except (DamagedChunk, ObjectNotFound, ObjectTruncated):
                bad.add(row.digest)
        stored = sum(row.stored for row in rows[pack])
        return _Checked(pack, len(rows[pack]), stored, frozenset(bad), _problem(bad, len(rows[pack])))


def bad_chunks(rows: Iterable[Chunk], pack: "bytes | memoryview") -> frozenset[bytes]:
    """Return the digests of those chunks that the bytes of a pack do not have in their places."""
    bad = set()
    for row in rows:
        try:
            unpack_chunk(row, pack[row.offset : row.offset + row.stored])
        except DamagedChunk:
            bad.add(row.digest)
    return frozenset(bad)


def _problem(bad: "frozenset[bytes] | set[bytes]", checked: int) -> str:
    return f"{len(bad)} of {checked} chunks are damaged" if bad else ""


def _told(error: EnvkitError) -> str:
    if isinstance(error, ObjectNotFound):
        return "is missing"
    return f"{error.brief}: {error.details}" if error.details else error.brief


def verified_json(found: Verified) -> dict[str, object]:
    """Return the result of a verification for `--json`."""
    counts = {name: value for name, value in vars(found).items() if name != "damages"}
    return {**counts, "damages": [damage_json(damage) for damage in found.damages]}
