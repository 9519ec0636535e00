"""Owns finding out what large files still have in common with what they were at the last save, beside the save's work.

It begins before the scan, which tells the same later and takes as long as hashing half a gigabyte. Nothing that was
found out counts unless the scan has seen the file as it was then.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

import msgspec

from envkit.content.chunker import DEFAULT_SIZES
from envkit.content.former import Comparison
from envkit.content.heads import Heads
from envkit.model.tree import Entry, Kind, Segment, Tree
from envkit.overlay.extents import Identity, find_identity, open_extents
from envkit.overlay.scan import Scan
from envkit.overlay.walk import open_root
from envkit.services.memory import Notes


class LargeFiles:
    """A context manager, whose comparisons end with it.

    :ivar tree: that of the last save, if it was needed.
    """

    def __init__(self, directory: str, notes: Notes, load: Callable[[], Tree | None]) -> None:
        """Prepare it.

        :param directory: what will be scanned; nothing writes to it.
        :param load: gives the tree of the last save; None if it cannot be had.
        """
        self.tree: Tree | None = None
        self._root = open_root(directory)
        self._comparison: Comparison | None = None
        self._begun: dict[bytes, Identity] = {}
        try:
            changed = _changed(self._root, notes.large)
            self.tree = load() if changed else None
            if self.tree is not None:
                self._begin(self.tree, changed)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def kept(self, scan: Scan, entry: Entry) -> Mapping[int, Segment]:
        """Return what a scanned file has in common with what it was, by place; waits for it.

        :raises ChangedMeanwhile: somebody wrote to it.
        """
        begun = self._begun.get(entry.path)
        if self._comparison is None or begun is None or scan.files.get(entry.path) != begun:
            return {}
        return self._comparison.kept(entry)

    def _begin(self, tree: Tree, changed: Mapping[bytes, Identity]) -> None:
        self._comparison = Comparison(tree.chunks, self._opened, most=DEFAULT_SIZES.most)
        for entry in tree.entries:
            now = changed.get(entry.path)
            if now is not None and entry.kind is Kind.FILE and not Heads.has_one(entry):
                self._begun[entry.path] = now
                self._comparison.begin(msgspec.structs.replace(entry, size=now.size), entry.segments)

    def _opened(self, entry: Entry) -> AbstractContextManager[tuple[int, Iterable[tuple[int, int]]]]:
        return open_extents(self._root, entry.path, self._begun[entry.path])

    def _close(self) -> None:
        try:
            if self._comparison is not None:
                self._comparison.close()
        finally:
            os.close(self._root)


def _changed(root: int, large: Mapping[bytes, Identity]) -> dict[bytes, Identity]:
    """Return what those files are now that are not what they were."""
    found = ((path, was, find_identity(root, path)) for path, was in large.items())
    return {path: now for path, was, now in found if now is not None and now != was}
