"""Owns the use case `gc`: delete what nothing needs, in two steps hours apart, while others go on saving and running.

The first step condemns what nothing needs and says so in the store. The second, when every writer that may not have
seen that has ended, looks again and deletes what is still not needed. Each call does what is due. A collection that
was killed is finished by the next one, on whatever machine.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from envkit.drivers.crash import crash_point
from envkit.errors import Conflict, Damaged, Unavailable
from envkit.model.progress import Step
from envkit.services.context import Context
from envkit.services.jobs.forgetting import forget_old_or_say
from envkit.services.marking import YOUNG, Marked, Marker
from envkit.services.startpacks import unneeded
from envkit.store import epochs, layout, leases, roots
from envkit.store.base import Store
from envkit.store.epochs import NOTHING, Epoch, Objects
from envkit.store.errors import ObjectNotFound, StoreUnreadable
from envkit.store.parallel import each

DELETED_GRACE = 7 * 86_400.0
"""Seconds for which deleted versions can be brought back, unless the caller says otherwise."""
RIPE = 4 * 3600.0
"""Seconds between the two steps at least: time for people to notice, not what makes it safe."""
MAX_SKEW = 300.0
_STRAY = 86_400.0


@dataclass(frozen=True)
class Totals:
    """How many objects of each kind, and their bytes."""

    versions: int
    trees: int
    packs: int
    bytes: int

    @property
    def objects(self) -> int:
        return self.versions + self.trees + self.packs


@dataclass(kw_only=True)
class Collected:
    """What a call of gc did, or would do.

    `ripe_in` is how many seconds have to pass before what is condemned may be deleted, None where nothing is;
    `writers` are those that it waits for besides. `spared` counts objects that were condemned and are needed again.
    `start_packs` counts those of stacks that no version has any more, and those that newer ones supersede; `jobs` those
    that ended long ago and are forgotten.
    """

    dry_run: bool = False
    deleted: Totals | None = None
    spared: int = 0
    condemned: Totals | None = None
    ripe_in: float | None = None
    writers: tuple[str, ...] = ()
    expired_leases: int = 0
    leftovers: int = 0
    start_packs: int = 0
    jobs: int = 0
    notes: list[str] = field(default_factory=list)


class CollectionOvertaken(Conflict):
    """Somebody else began a collection at the same time."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"another collection of the store {url} began at the same time",
            resolution="nothing is lost: `envkit gc` goes on with that one",
        )


class ClockRefused(Unavailable):
    """The store's clock cannot be relied on; `problem` completes the sentence."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(
            f"nothing was collected: the clock of the store {url} {problem}",
            resolution="set the clocks of this machine and of the store's; saving and running are not affected",
        )


class _Clock:
    """The store's time; refuses one that is far from ours or goes backwards."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last = 0.0

    def now(self) -> float:
        now = self._store.now()
        if abs(now - time.time()) > MAX_SKEW:
            raise ClockRefused(self._store.url, f"is {abs(now - time.time()):.0f} s from this machine's")
        if now < self._last:
            raise ClockRefused(self._store.url, f"went back by {self._last - now:.0f} s")
        self._last = now
        return now


def collect(context: Context, *, grace: float = DELETED_GRACE, dry_run: bool = False) -> Collected:
    """Do what is due: delete what was condemned, if its time has come, and condemn what is no longer needed.

    :raises CollectionStopped: something is damaged that has to be known; nothing was deleted.
    :raises ClockRefused: the clocks differ too much.
    :raises CollectionOvertaken: somebody else was faster.
    """
    return _Collection(context, grace, dry_run=dry_run).run()


class _Collection:
    def __init__(self, context: Context, grace: float, *, dry_run: bool) -> None:
        self._context = context
        self._store = context.store
        self._grace = grace
        self._clock = _Clock(self._store)
        self._marker = Marker(context)
        self._marked: Marked | None = None
        self._result = Collected(dry_run=dry_run)

    def run(self) -> Collected:
        now = self._clock.now()
        self._refuse_the_future(now)
        self._remove_expired(now)
        self._forget_jobs(now)
        epoch = epochs.current(self._store)
        if epoch.is_open:
            epoch = self._go_on(epoch)
        if not epoch.is_open:
            self._begin(epoch.number + 1)
        self._delete_starts(now)
        if not self._result.dry_run:
            self._tidy(now)
        return self._result

    def _refuse_the_future(self, now: float) -> None:
        for key, status in self._store.list_status(layout.COLLECTIONS):
            if status.modified > now + MAX_SKEW:
                raise ClockRefused(self._store.url, f"is behind the time at which it wrote {key}")

    def _remove_expired(self, now: float) -> None:
        for lease in leases.held(self._store):
            if lease.is_expired(now):
                self._result.expired_leases += 1
                if not self._result.dry_run:
                    leases.remove(self._store, lease)

    def _forget_jobs(self, now: float) -> None:
        self._result.jobs, note = forget_old_or_say(self._context, now=now, dry_run=self._result.dry_run)
        if note:
            self._result.notes.append(note)

    def _mark(self) -> Marked:
        with self._context.progress.step("looking what is needed", unit="steps"):
            self._marked = self._marker.mark(now=self._clock.now(), grace=self._grace)
        if not self._result.dry_run:  # before anything is condemned
            roots.note(self._store, self._marked.newest)
            crash_point("gc:roots")
        return self._marked

    # The first step

    def _begin(self, number: int) -> None:
        """Condemn what is not needed; without anything to condemn there is no collection."""
        marked = self._mark()
        condemned = _limited(marked.expendable)
        self._result.condemned = _totals(marked, condemned)
        if not condemned:
            return
        if len(condemned) < len(marked.expendable):
            self._result.notes.append(f"{len(marked.expendable) - len(condemned)} more objects are left for the next")
        if self._result.dry_run:
            return
        self._clock.now()
        if not epochs.condemn(self._store, number, condemned, marked.records):
            raise CollectionOvertaken(self._store.url)
        crash_point("gc:condemned")
        self._list_writers(number)
        self._due(Epoch(number=number, parts=frozenset((epochs.CONDEMNED, epochs.WRITERS))))

    def _list_writers(self, number: int) -> None:
        """Write down who holds a lease, now that everybody who takes one sees the condemned list."""
        epochs.wait_for(self._store, number, [lease.identity for lease in leases.held(self._store)])
        crash_point("gc:writers")

    # The second step

    def _go_on(self, epoch: Epoch) -> Epoch:
        """Go on with an open collection as far as it goes; return it as it is then."""
        try:
            return self._advance(epoch)
        except Damaged as error:
            if not self._is_record_damaged(epoch):
                raise
            self._result.notes.append(f"gave up the collection {epoch.number}: {error.brief}")
            if not self._result.dry_run:
                self._give_up(epoch)
            return epoch.replace(parts=epoch.parts | {epochs.DONE})

    def _advance(self, epoch: Epoch) -> Epoch:
        if epochs.DOOMED not in epoch.parts:
            condemned = epochs.load(self._store, epoch.number, epochs.CONDEMNED)
            if epochs.WRITERS not in epoch.parts:
                if self._result.dry_run:
                    return epoch
                self._list_writers(epoch.number)
            if not self._due(epoch):
                return epoch
            doomed, marked = self._still_doomed(epoch, condemned)
            if self._result.dry_run:
                self._result.deleted = _totals(marked, doomed)
                self._result.ripe_in = None
                return epoch
            self._clock.now()
            epochs.doom(self._store, epoch.number, doomed)
            crash_point("gc:doomed")
        if not self._result.dry_run:
            self._delete(epoch, epochs.load(self._store, epoch.number, epochs.DOOMED))
            return epoch.replace(parts=epoch.parts | {epochs.DONE})
        return epoch

    def _due(self, epoch: Epoch) -> bool:
        """Tell whether nobody is at work who may rely on what is condemned, and enough time has passed."""
        status = self._store.status(layout.collection_key(epoch.number, epochs.WRITERS))
        if status is None:
            raise StoreUnreadable(self._store.url, "the record of a collection disappeared while it was read")
        awaited = epochs.awaited(self._store, epoch.number)
        busy = self._busy(awaited)
        self._result.writers = tuple(leases.owner(self._store, lease) for lease in busy)
        self._result.ripe_in = max(0.0, status.modified + RIPE - self._clock.now())
        return not busy and not self._result.ripe_in

    def _busy(self, awaited: frozenset[str]) -> list[leases.Held]:
        return [lease for lease in leases.held(self._store) if lease.identity in awaited]

    def _still_doomed(self, epoch: Epoch, condemned: Objects) -> tuple[Objects, Marked]:
        """Look again at what is condemned; return what is still not needed."""
        marked = self._mark()
        lost = epochs.records_seen(self._store, epoch.number) - marked.records
        if lost:  # by another collection that goes on with this one, maybe; it says first what it deletes
            lost -= self._doomed_by_others(epoch).versions
        if lost:
            raise StoreUnreadable(
                self._store.url,
                f"it no longer lists {min(lost)} and {len(lost) - 1} more version records that it had",
                resolution="nothing was collected: check the store's health, or restore these objects from a copy",
            )
        doomed = condemned & marked.expendable
        self._result.spared = len(condemned) - len(doomed)
        return doomed, marked

    def _doomed_by_others(self, epoch: Epoch) -> Objects:
        try:
            return epochs.load(self._store, epoch.number, epochs.DOOMED)
        except ObjectNotFound:
            return NOTHING

    def _delete(self, epoch: Epoch, doomed: Objects) -> None:
        """Delete versions, then trees, then packs, so that nothing names what is gone; then close the collection."""
        versions, trees, packs = doomed.in_order()
        freed = 0
        with self._context.progress.step("deleting", total=len(doomed), unit="objects") as step:
            for name, keys in (("versions", versions), ("trees", trees), ("packs", packs)):
                if not self._is_current(epoch):
                    break
                freed += sum(self._delete_all(keys, step))
                crash_point(f"gc:{name}")
        epochs.finish(self._store, epoch.number)
        crash_point("gc:done")
        epochs.forget_before(self._store, epoch.number)
        self._result.deleted = Totals(len(versions), len(trees), len(packs), freed)
        self._result.ripe_in = None

    def _is_current(self, epoch: Epoch) -> bool:
        """Tell whether nobody has finished this collection while we were away, asleep maybe."""
        newest = epochs.current(self._store)
        return newest.number == epoch.number and newest.is_open

    def _delete_all(self, keys: list[str], step: Step) -> Iterator[int]:
        for size in each(self._delete_one, keys):
            step.advance(1)
            yield size

    def _delete_one(self, key: str) -> int:
        size = self._store.size(key)
        if size is not None:
            self._store.delete(key)
            crash_point("gc:deleted")
        return size or 0

    def _delete_starts(self, now: float) -> None:
        """Delete start packs that are of no use any more: hints, that no record has to tell others of."""
        if self._marked is None:
            return
        for start in unneeded(self._store, self._marked.stacks, before=now - YOUNG):
            self._result.start_packs += 1
            if not self._result.dry_run:
                self._store.delete(start.key)
        if self._result.start_packs:
            done = "would delete" if self._result.dry_run else "deleted"
            self._result.notes.append(f"{done} {self._result.start_packs} start packs that are of no use any more")

    def _is_record_damaged(self, epoch: Epoch) -> bool:
        """Tell whether it is the collection's own record that cannot be understood."""
        try:
            for part, read in (
                (epochs.CONDEMNED, epochs.records_seen),
                (epochs.WRITERS, epochs.awaited),
            ):
                if part in epoch.parts:
                    read(self._store, epoch.number)
            epochs.taboo(self._store, epoch)
        except Damaged:
            return True
        return False

    def _give_up(self, epoch: Epoch) -> None:
        """Close a collection without deleting anything more: what it condemned is condemned again, or needed."""
        epochs.doom(self._store, epoch.number, NOTHING)
        epochs.finish(self._store, epoch.number)

    def _tidy(self, now: float) -> None:
        """Remove what dead processes left: probes, and files that never became objects."""
        for prefix in layout.PASSING:
            for key, status in list(self._store.list_status(prefix)):
                if now - status.modified > _STRAY:
                    self._store.delete(key)
                    self._result.leftovers += 1
        self._result.leftovers += self._store.remove_leftovers(older_than=_STRAY)


def _limited(objects: Objects) -> Objects:
    """Return as much as one collection takes; no pack without every tree that may name it."""
    if len(objects) <= epochs.MAX_OBJECTS:
        return objects
    versions = frozenset(sorted(objects.versions)[: epochs.MAX_OBJECTS])
    trees = frozenset(sorted(objects.trees)[: epochs.MAX_OBJECTS - len(versions)])
    whole = len(versions) == len(objects.versions) and len(trees) == len(objects.trees)
    left = epochs.MAX_OBJECTS - len(versions) - len(trees)
    packs = frozenset(sorted(objects.packs)[:left]) if whole else frozenset()
    if len(versions) < len(objects.versions):
        trees = frozenset()
    return Objects(packs=packs, trees=trees, versions=versions)


def _totals(marked: Marked, objects: Objects) -> Totals:
    return Totals(len(objects.versions), len(objects.trees), len(objects.packs), marked.bytes(objects))


def collected_json(done: Collected) -> dict[str, object]:
    """Return what a call of gc did for `--json`."""
    return asdict(done)
