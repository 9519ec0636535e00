"""Owns how versions come into the store: everything that writes one does it through a `Writer`.

The order is packs, tree, version; between the first and the last a collection may run on another machine. So a writer
holds a lease, and only then asks what is condemned: either a collection waits for the lease, or the writer knows what
the collection may delete. What it relies on without having written it is looked for before the version is published.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from envkit.content import treefile
from envkit.drivers.crash import crash_point
from envkit.errors import Conflict, Damaged, EnvkitError, NotFound
from envkit.model.interruption import achieved, remains
from envkit.model.tree import Chunk
from envkit.model.version import LayerRef, Version
from envkit.services.context import Context
from envkit.store import epochs, layout, versions
from envkit.store.base import Store
from envkit.store.epochs import Epoch, Objects
from envkit.store.errors import ObjectNotFound, PacksMissing
from envkit.store.leases import Lease, LeaseLost
from envkit.store.objects import get_tree, verify_packs
from envkit.store.parallel import each

logger = logging.getLogger(__name__)

_RENEWAL_SECONDS = 240.0


class DataCollected(Conflict):
    """What a version needs was deleted or is about to be; `problem` says what."""

    def __init__(self, what: object, problem: str, *, resolution: str) -> None:
        super().__init__(f"{what} cannot be used: {problem}", resolution=resolution)


class Writer:
    """One write to a store, from the first object to the version.

    :ivar epoch: what packs and trees of this writer carry, see `model.tree.Tree`.
    """

    def __init__(self, store: Store, lease: Lease, epoch: Epoch, condemned: Objects) -> None:
        self.store = store
        self.epoch = epoch.number
        self._opened = epoch
        self._lease = lease
        self._condemned = condemned
        self._taboo: Objects | None = None
        self._relied_on: list[Version] = []
        self._publishing: Version | None = None
        self._published = False

    def may_reuse(self, chunk: Chunk) -> bool:
        """Tell whether a chunk that the store has may be referred to: its pack is not about to be collected."""
        return chunk.pack.hex() not in self._condemned.packs

    def may_store(self, digest: str) -> bool:
        """Tell whether a pack or tree that was not made for this epoch may be stored under its digest.

        One that is being collected, or was until a moment ago, may not: somebody may be about to delete it.
        """
        if self._taboo is None:
            self._taboo = epochs.taboo(self.store, self._opened)
        return digest not in self._taboo.packs and digest not in self._taboo.trees

    def verify(self, packs: Mapping[str, int]) -> None:
        """Check that packs, by digest, that this writer relies on are there with at least so many bytes.

        :raises PacksMissing: naming those that are not, or may be deleted.
        """
        condemned = sorted(self._condemned.packs & packs.keys())
        if condemned:
            raise PacksMissing(self.store.url, condemned)
        verify_packs(self.store, packs)

    def check_alive(self, version: Version) -> None:
        """Check that a version, deleted or not, is there with all its data, and none of it about to be deleted.

        Also when what this writer publishes is out, if it then cannot be sure of that any more.

        :raises DataCollected: it is not.
        """
        self._check_whole(version, self._condemned)
        self._relied_on.append(version)

    def confirm(self, version: Version) -> bool:
        """Make sure of a version whose writer was killed before it could; delete it if its data is not there."""
        try:
            self.check_alive(version)
        except DataCollected:
            self._bury(version)
            return False
        return True

    def publish(self, draft: Version, *, expected: int | None) -> Version:
        """Store a version, as `versions.publish`, after checking that the trees of all its layers are there.

        :raises LeaseLost: this writer took so long that its data may have been deleted.
        :raises DataCollected: a layer was deleted together with the version that it came from.
        """
        self._lease.check()
        self._check_layers(draft)
        crash_point("lease:checked")
        self._publishing = draft
        version = versions.publish(self.store, draft, expected=expected)
        crash_point("lease:published")
        if not self._is_safe():
            self._check_again(version)
        achieved(f"{version} is stored")
        self._published = True
        self._publishing = None
        return version

    def told(self) -> str:
        """Return what may have become of the version to be written, for whoever interrupts the work."""
        if self._publishing is not None:
            return f"{self._publishing.env} may have got its version: see `envkit log {self._publishing.env.name}`"
        return "" if self._published else "no version was made"

    def place(self, version: Version) -> bool:
        """Store a version under its own number, unless that is taken; return whether this did it. As `publish`."""
        self._lease.check()
        self._check_layers(version)
        placed = versions.place(self.store, version)
        if placed and not self._is_safe():
            self._check_again(version)
        return placed

    def _check_layers(self, draft: Version) -> None:
        """A tree that is there and not condemned has all its packs, and they are not condemned either."""
        trees = [layer.tree for layer in draft.layers]
        for tree, there in zip(trees, each(self._has_tree, trees), strict=True):
            if tree in self._condemned.trees or not there:
                raise DataCollected(
                    draft.env,
                    f"its layer {tree[:12]} was deleted with the version that it came from",
                    resolution="create a session from a version that is there, and copy your changes with `envkit cp`",
                )

    def _has_tree(self, digest: str) -> bool:
        return self.store.status(layout.tree_key(digest)) is not None

    def _is_safe(self) -> bool:
        """Tell whether every collection waits for this writer, or will see what it has published."""
        try:
            self._lease.check()
        except LeaseLost:
            return False
        epoch = epochs.current(self.store)
        overtaken = epoch.number > self.epoch + 1 or (epoch.number > self.epoch and epochs.DOOMED in epoch.parts)
        return not overtaken

    def _check_again(self, version: Version) -> None:
        """Look once more for everything, now that collections see the version; bury it if something is gone.

        What is condemned is read first: what is not in that list when the version is out is never deleted, and what
        was deleted before is found missing.
        """
        _, condemned = epochs.read(self.store)
        try:
            for relied in (version, *self._relied_on):
                self._check_whole(relied, condemned)
        except (DataCollected, PacksMissing) as error:
            self._bury(version)
            raise LeaseLost(self.store.url) from error

    def _bury(self, version: Version) -> None:
        """Delete what was just published, or restored, so that nobody runs it."""
        live = versions.read_history(self.store, version.env).live
        dead = [number for number in version.restores or (version.number,) if number in live]
        if not dead:  # not even records are left
            return
        with suppress(NotFound):  # somebody else has deleted it
            versions.delete(
                self.store,
                version.env,
                dead,
                author=version.author,
                created=version.created,
                message="its data was collected while it was saved",
            )

    def _check_whole(self, version: Version, condemned: Objects) -> None:
        key = layout.version_key(version.env, version.number)
        if version.is_version and (key in condemned.versions or self.store.status(key) is None):
            raise _collected(version, "its record was deleted")
        for layer in version.layers:
            self._check_tree(version, layer, condemned)

    def _check_tree(self, version: Version, layer: LayerRef, condemned: Objects) -> None:
        if layer.tree in condemned.trees:
            raise _collected(version, f"its layer {layer.tree[:12]} is being deleted")
        try:
            chunks = treefile.decode_chunks(get_tree(self.store, layer.tree), layer.tree)
        except (ObjectNotFound, Damaged) as error:
            raise _collected(version, error.brief) from error
        packs: dict[str, int] = {}
        for chunk in chunks:
            pack = chunk.pack.hex()
            packs[pack] = max(packs.get(pack, 0), chunk.offset + chunk.stored)
        if not condemned.packs.isdisjoint(packs):
            raise _collected(version, f"files of its layer {layer.tree[:12]} are being deleted")
        try:
            verify_packs(self.store, packs)
        except PacksMissing as error:
            raise _collected(version, error.brief) from error


def _collected(version: Version, problem: str) -> DataCollected:
    return DataCollected(version, problem, resolution="`envkit log` shows the versions that are there")


@contextmanager
def writing(context: Context, store: Store | None = None) -> Iterator[Writer]:
    """Write to the configured store, or to another one, so that no collection deletes what is written or relied on."""
    store = store or context.store
    lease = Lease(store)
    try:
        with _renewing(lease.renew):
            epoch, condemned = epochs.read(store)
            crash_point("lease:read")
            writer = Writer(store, lease, epoch, condemned)
            with remains(writer.told):
                yield writer
    finally:
        _release(lease)


def _release(lease: Lease) -> None:
    """Remove a lease; one that stays expires by itself, so this is no failure of what was written."""
    try:
        lease.release()
    except EnvkitError as error:
        logger.warning("a lease stays in the store until it expires: %s", error.brief)


@contextmanager
def _renewing(renew: Callable[[], None]) -> Iterator[None]:
    """Call a function every few minutes, from another thread."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(_RENEWAL_SECONDS):
            try:
                renew()
            except LeaseLost:
                return  # `publish` says so
            except EnvkitError as error:
                logger.warning("could not renew a lease: %s", error.brief)

    thread = threading.Thread(target=work, name="envkit-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
