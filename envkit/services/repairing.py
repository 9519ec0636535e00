"""Owns the use case `repair`: put damaged and missing objects back, each with the very bytes that its name promises.

Keys are never overwritten: the damaged object is removed and the good one put in its place. Before that the good bytes
are in a file of this node, synced, where the next repair finds them if this one is killed in between.
"""

import os
from dataclasses import dataclass, field

from envkit.drivers.crash import crash_point
from envkit.drivers.files import locked, make_directory, read_bounded, write_atomic
from envkit.errors import InvalidInput
from envkit.services.context import Context, require_root
from envkit.services.damage import LOST, NOTE, PACK, TREE, VERSION, Damage, damage_json
from envkit.services.rebuilding import MAX_OBJECT, Sources, is_object
from envkit.services.startpacks import START
from envkit.services.verifying import Verification
from envkit.store import layout
from envkit.store.errors import StoreUnwritable
from envkit.store.open import open_store, read_format

# Not part of any key.
_SLASH = "~"


@dataclass(frozen=True)
class Unrepaired:
    """What could not be put back, and what a person can do about it."""

    damage: Damage
    resolution: str


@dataclass
class Repaired:
    """What a repair did: damages that are mended, and those that stay."""

    mended: list[Damage] = field(default_factory=list)
    left: list[Unrepaired] = field(default_factory=list)


def repair(context: Context, source: str | None = None) -> Repaired:
    """Verify the store with all its data, and mend what can be mended.

    :param source: another store that may have the objects.
    """
    require_root("repairing a store")
    other = None if source is None else open_store(source, settings=context.store_settings)
    if other is not None and other.url == context.store.url:
        raise InvalidInput(f"{other.url} is the store that is to be repaired", resolution="name another one")
    make_directory(context.paths.repair)
    with locked(f"{context.paths.repair}/lock"), Sources(context, other) as sources:
        return _Repair(context, sources).run()


class _Repair:
    def __init__(self, context: Context, sources: Sources) -> None:
        self._context = context
        self._store = context.store
        self._sources = sources
        self._result = Repaired()
        self._given_up: set[str] = set()
        self._kept = f"{context.paths.repair}/{read_format(self._store).id}"

    def run(self) -> Repaired:
        self._finish()
        # What a version or a tree names can be checked only when that can be read.
        while self._mend_names(Verification(self._context).run().damages):
            pass
        last = Verification(self._context).run(data=True)
        packs = [damage for damage in last.damages if damage.kind == PACK]
        if packs:
            self._sources.look_for(damage.digest for damage in packs)
        for damage in packs:
            self._mend(damage, self._sources.pack(damage.digest))
        self._result.left += [Unrepaired(d, _advice(d)) for d in last.damages if d.kind == NOTE]
        for damage in last.damages:
            if damage.kind == START:  # nothing depends on it, and a node that runs this makes another
                self._store.delete(damage.key)
                self._result.mended.append(damage)
        return self._result

    def _finish(self) -> None:
        """Put back what a repair that was killed had removed."""
        make_directory(self._kept)
        for name in os.listdir(self._kept):
            key = name.replace(_SLASH, "/")
            good = read_bounded(f"{self._kept}/{name}", MAX_OBJECT)
            if good is not None and is_object(key, good):
                self._store.put_if_absent(key, good)
            os.unlink(f"{self._kept}/{name}")

    def _mend_names(self, damages: list[Damage]) -> bool:
        """Mend versions and trees; tell whether there may be more to find behind those that were mended."""
        mended = False
        for damage in damages:
            if damage.key not in self._given_up and damage.kind in (VERSION, TREE, LOST):
                is_tree = damage.kind == TREE
                found = self._sources.tree(damage.digest) if is_tree else self._sources.version(damage.key)
                mended |= self._mend(damage, found)
        return mended

    def _mend(self, damage: Damage, good: bytes | None) -> bool:
        if good is None:
            self._given_up.add(damage.key)
            self._result.left.append(Unrepaired(damage, _advice(damage)))
            return False
        kept = f"{self._kept}/{damage.key.replace('/', _SLASH)}"
        write_atomic(kept, good)
        crash_point("repair:found")
        self._store.delete(damage.key)
        crash_point("repair:removed")
        if not self._store.put_if_absent(damage.key, good):
            raise StoreUnwritable(
                self._store.url,
                f"{damage.key} is still there after it was deleted",
                resolution=f"the good bytes are in {kept}",
            )
        crash_point("repair:restored")
        os.unlink(kept)
        self._result.mended.append(damage)
        return True


def _advice(damage: Damage) -> str:
    if damage.kind == LOST:
        return (
            f"restore {damage.key} from a copy of this store, or with `envkit repair --from STORE`; to give it up,"
            f" remove all objects below {layout.ROOTS}"
        )
    if damage.key == layout.ROOTS:
        return "remove the list that cannot be read: the one that was written before it counts then"
    if damage.kind == NOTE:
        return "`envkit gc` gives this collection up and begins another one"
    if damage.kind == VERSION:
        return f"restore {damage.key} from a copy of this store; to give this version up, remove that object"
    if damage.kind == PACK and not damage.versions:
        return "no version needs the damaged part: nothing has to be done"
    return (
        f"restore {damage.key} from a copy of the store (`envkit repair --from STORE`), or run this on a machine that"
        " has run these versions; `envkit delete` gives them up"
    )


def repaired_json(done: Repaired) -> dict[str, object]:
    """Return the result of a repair for `--json`."""
    return {
        "mended": [damage_json(damage) for damage in done.mended],
        "left": [{**damage_json(left.damage), "resolution": left.resolution} for left in done.left],
    }
