"""Owns what a session remembers of its last save, so that the next one reads only files that changed since.

It is the tree of that save and, for each of its files, the inode and the time of its last change (ctime, which nobody
in a container can set). A hint: it may be deleted or damaged at any time, and then everything is read.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field

import msgspec

from envkit.content.chunker import DEFAULT_SIZES
from envkit.drivers import libc
from envkit.drivers.files import io_error, read_bounded, write_atomic
from envkit.errors import EnvkitError
from envkit.model.session import Session
from envkit.model.tree import Chunk, Kind, Segment
from envkit.overlay.scan import Scan
from envkit.services.context import Context
from envkit.services.fill import load_tree

logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 28
# The kernel's clock for ctime ticks every 10 ms at worst: a file that was written to shortly before the scan may have
# been written to again shortly after it without another ctime.
_TICK_NS = 20_000_000

Stamp = tuple[int, int]
"""Inode number and ctime in nanoseconds of a file; (0, 0) for one that has to be read again."""

_AGAIN: Stamp = (0, 0)


class _Notes(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The stored form: how contents were cut, the digest of the tree, and the stamp of each of its files, in order."""

    sizes: tuple[int, ...]
    tree: str
    stamps: list[Stamp]


@dataclass(frozen=True)
class Unchanged:
    """Files that are what they were at the last save, by path: their segments, in the chunk table of then."""

    chunks: Sequence[Chunk] = ()
    files: Mapping[bytes, tuple[Segment, ...]] = field(default_factory=dict)


NOTHING = Unchanged()


def recall(context: Context, session: Session, scan: Scan, *, replaced: Collection[bytes]) -> Unchanged:
    """Return which scanned files need not be read; `replaced` are the paths of those that are stored otherwise."""
    try:
        data = read_bounded(_path(context, session), _MAX_BYTES)
        if data is None:
            return NOTHING
        notes = msgspec.msgpack.decode(data, type=_Notes)
        if notes.sizes != astuple(DEFAULT_SIZES):
            return NOTHING
        tree = load_tree(context, notes.tree, known=True)
        before = [entry for entry in tree.entries if entry.kind is Kind.FILE]
        files = {
            entry.path: entry.segments
            for entry, stamp in zip(before, notes.stamps, strict=True)
            if stamp == scan.stamp(entry.path, entry.size) and stamp != _AGAIN and entry.path not in replaced
        }
    except (EnvkitError, msgspec.DecodeError, ValueError) as error:
        logger.info("reading all files of %s: %s", session.env, error)
        return NOTHING
    return Unchanged(tree.chunks, files)


def remember(
    context: Context, session: Session, scan: Scan, digest: str, paths: Sequence[bytes], *, replaced: Collection[bytes]
) -> None:
    """Note which files a save has stored as the tree `digest`; `paths` are the files of that, in order."""
    path = _path(context, session)
    if _is_memory(os.path.dirname(path)):
        return
    settled = scan.began_ns - _TICK_NS
    stamps = []
    for name in paths:
        stamp = None if name in replaced else scan.stamp(name)
        stamps.append(stamp if stamp is not None and stamp[1] < settled else _AGAIN)
    write_atomic(path, msgspec.msgpack.encode(_Notes(astuple(DEFAULT_SIZES), digest, stamps)))


def _is_memory(directory: str) -> bool:
    """Tell whether a directory is on tmpfs, where writing through a mapping changes no time."""
    try:
        return libc.filesystem_type(directory) == libc.TMPFS_MAGIC
    except OSError as error:
        raise io_error(f"look at the file system of {directory}", error) from error


def _path(context: Context, session: Session) -> str:
    return f"{context.paths.session(session.env)}/memory"
