"""Owns what a session remembers of its last save, so that the next one does only what a change makes necessary.

It is the tree of that save and what each of its files was, of which the time of its last change (ctime, which nobody
in a container can set) says most: what has not changed is not read. Besides, which inodes had no extended attributes;
and what came of the scan as a whole, so that nothing is decided again where nothing at all has changed. A hint: it may
be deleted or damaged at any time, and then everything is done.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field

import msgspec

from envkit.content.chunker import DEFAULT_SIZES
from envkit.content.former import WORTH
from envkit.drivers import libc
from envkit.drivers.files import io_error, read_bounded, write_atomic
from envkit.errors import EnvkitError
from envkit.model.session import Session
from envkit.model.tree import Chunk, Kind, Segment, Tree
from envkit.overlay.extents import Identity
from envkit.overlay.scan import Scan
from envkit.services.context import Context
from envkit.services.fill import load_tree

logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 28
# The kernel's clock for ctime ticks every 10 ms at worst: a file that was written to shortly before the scan may have
# been written to again shortly after it without another ctime.
_TICK_NS = 20_000_000

_LARGE = WORTH * DEFAULT_SIZES.most

# Stands for a file that has to be read again.
_AGAIN = Identity(0, 0, 0, 0)
# `Kind.FILE` is a slow look-up in Python 3.11.
_FILE = Kind.FILE


class Notes(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The stored form: how contents were cut, the digest of the tree, and what each of its files was, in order.

    `plain` are the inodes without extended attributes, with their ctimes. `scanned` is a digest of the scan and of
    all else that decides what is stored, `stored` the one of what that was; empty where that is not certain. `large`
    are those of `files` that are worth comparing with what they were, by path.
    """

    sizes: tuple[int, ...] = ()
    tree: str = ""
    files: list[Identity] = []
    plain: dict[int, int] = {}
    scanned: str = ""
    stored: str = ""
    large: dict[bytes, Identity] = {}

    def outcome(self, scanned: str) -> str | None:
        """Return the digest of what is stored of a scan, if it was the last save's."""
        return self.stored if scanned == self.scanned and self.stored else None


@dataclass(frozen=True)
class Unchanged:
    """Files that are what they were at the last save, by path: their segments, in the chunk table of then.

    `former` are the segments of large files that may have changed since.
    """

    chunks: Sequence[Chunk] = ()
    files: Mapping[bytes, tuple[Segment, ...]] = field(default_factory=dict)
    former: Mapping[bytes, tuple[Segment, ...]] = field(default_factory=dict)

    def without(self, replaced: Collection[bytes]) -> "Unchanged":
        """Return the same but for files of which something else is stored, by path."""
        if self.files.keys().isdisjoint(replaced) and self.former.keys().isdisjoint(replaced):
            return self
        files = {path: segments for path, segments in self.files.items() if path not in replaced}
        former = {path: segments for path, segments in self.former.items() if path not in replaced}
        return Unchanged(self.chunks, files, former)


NOTHING = Unchanged()


def read_notes(context: Context, session: Session) -> Notes:
    """Return what is remembered; empty notes if there is nothing, or nothing that can be read."""
    try:
        data = read_bounded(_path(context, session), _MAX_BYTES)
        return Notes() if data is None else msgspec.msgpack.decode(data, type=Notes)
    except (EnvkitError, msgspec.DecodeError) as error:
        logger.info("nothing is remembered of %s: %s", session.env, error)
        return Notes()


def load_former(context: Context, session: Session, notes: Notes) -> Tree | None:
    """Return the tree of the last save, if it can be had and its files were cut as files are cut now."""
    if notes.sizes != astuple(DEFAULT_SIZES):
        return None
    try:
        return load_tree(context, notes.tree, known=True)
    except EnvkitError as error:
        logger.info("reading all files of %s: %s", session.env, error)
        return None


def recall(notes: Notes, tree: Tree | None, scan: Scan) -> Unchanged:
    """Return which scanned files need not be read, and what others were; `tree` is that of `load_former`."""
    before = [entry for entry in tree.entries if entry.kind is _FILE] if tree is not None else []
    if tree is None or len(before) != len(notes.files):
        return NOTHING
    found = map(scan.files.get, [entry.path for entry in before])
    both = list(zip(before, notes.files, found, strict=True))
    files = {entry.path: entry.segments for entry, was, now in both if was == now and was.size == entry.size}
    former = {
        entry.path: entry.segments
        for entry, was, now in both
        if was != now and now is not None and entry.size >= DEFAULT_SIZES.small
    }
    return Unchanged(tree.chunks, files, former)


def remember(
    context: Context,
    session: Session,
    scan: Scan,
    digest: str,
    paths: Sequence[bytes],
    *,
    replaced: Collection[bytes],
    scanned: str = "",
    stored: str = "",
) -> None:
    """Note which files a save has stored as the tree `digest`; `paths` are the files of that, in order.

    :param scanned: a digest of all that the save has found, `stored` of what it has stored of that.
    """
    place = _path(context, session)
    if _is_memory(os.path.dirname(place)):
        return
    settled = scan.began_ns - _TICK_NS
    files = [
        found if found is not None and found.ctime_ns < settled and path not in replaced else _AGAIN
        for path, found in zip(paths, map(scan.files.get, paths), strict=True)
    ]
    plain = {inode: ctime for inode, ctime in scan.plain.items() if ctime < settled}
    if any(file.ctime_ns >= settled for file in scan.files.values()):
        scanned = stored = ""
    large = {
        path: file
        for path, file, now in zip(paths, files, map(scan.files.get, paths), strict=True)
        if now is not None and now.size >= _LARGE and path not in replaced
    }
    notes = Notes(astuple(DEFAULT_SIZES), digest, files, plain, scanned, stored, large)
    write_atomic(place, msgspec.msgpack.encode(notes))


def _is_memory(directory: str) -> bool:
    """Tell whether a directory is on tmpfs, where writing through a mapping changes no time."""
    try:
        return libc.filesystem_type(directory) == libc.TMPFS_MAGIC
    except OSError as error:
        raise io_error(f"look at the file system of {directory}", error) from error


def _path(context: Context, session: Session) -> str:
    return f"{context.paths.session(session.env)}/memory"
