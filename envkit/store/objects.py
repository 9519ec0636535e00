"""Owns packs and trees as objects of a store: written under their digest, looked for before an acknowledgement.

The bytes themselves are `content`'s, which knows no store; services connect the two.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from envkit.store import layout
from envkit.store.base import Store
from envkit.store.errors import ObjectTruncated, PacksMissing

MAX_STORED_TREE = 1 << 29


def put_pack(store: Store, digest: str, frames: Iterable[bytes]) -> bool:
    """Store a pack; return whether it was new.

    :raises ObjectTruncated: the store has it, but not in this length.
    """
    key = layout.pack_key(digest)
    pieces = list(frames)
    if store.put_if_absent(key, pieces):
        return True
    found, expected = store.size(key) or 0, sum(map(len, pieces))
    if found != expected:
        raise ObjectTruncated(store.url, key, found, expected)
    return False


def put_tree(store: Store, digest: str, data: bytes) -> bool:
    """Store an encoded tree; return whether it was new.

    One that was there may be compressed otherwise, so its length says nothing: read it back to be sure of it.
    """
    return store.put_if_absent(layout.tree_key(digest), data)


def get_tree(store: Store, digest: str) -> bytes:
    """Return an encoded tree; its digest is checked where it is decoded.

    :raises ObjectNotFound: the store does not have it.
    """
    return store.get(layout.tree_key(digest), limit=MAX_STORED_TREE)


def tree_digests(store: Store) -> Iterator[str]:
    """Yield the digests of all trees."""
    return (digest for key in store.list(layout.TREES) if (digest := layout.tree_of(key)) is not None)


def pack_ranges(store: Store) -> Callable[[str, int, int], bytes]:
    """Return a function that reads `(pack digest, start, length)` from the store."""
    return lambda digest, start, length: store.get_range(layout.pack_key(digest), start, length)


def verify_packs(store: Store, packs: Mapping[str, int]) -> None:
    """Check that packs, by digest, still exist and have at least the bytes that are relied on.

    :raises PacksMissing: naming those that do not.
    """
    missing = [digest for digest, needed in packs.items() if (store.size(layout.pack_key(digest)) or 0) < needed]
    if missing:
        raise PacksMissing(store.url, missing)
