"""Owns what of a session's scanned upper a save stores: sanitized, and without what says nothing."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from envkit import __version__
from envkit.model.merge import merge
from envkit.model.session import Session
from envkit.model.tree import Entry, Kind, Tree, path_key
from envkit.model.version import Report
from envkit.overlay.scan import Scan
from envkit.sanitize import RULESET, Allow, apply_plan, make_plan, report
from envkit.services.contents import read_file
from envkit.services.context import Context
from envkit.services.layers import layer_tree

# `Kind.DIRECTORY` is a slow look-up in Python 3.11.
_DIRECTORY, _FILE, _WHITEOUT = Kind.DIRECTORY, Kind.FILE, Kind.WHITEOUT
_PASSWD = b"etc/passwd"
_MAX_PASSWD = 4 << 20


@dataclass(frozen=True)
class Cleaned:
    """A scanned upper after sanitizing; `contents` replaces what is on disk, `lower` is what it lies on, merged."""

    entries: list[Entry]
    contents: dict[bytes, bytes]
    report: Report
    notes: tuple[str, ...]
    lower: dict[bytes, Entry]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries if entry.kind is Kind.FILE)

    @property
    def files(self) -> list[bytes]:
        """The paths of all files, in order."""
        return [entry.path for entry in self.entries if entry.kind is Kind.FILE]

    @property
    def is_new(self) -> bool:
        """Whether anything but what sanitizing writes differs from what lies below."""
        own = [entry for entry in self.entries if entry.path not in self.contents]
        return len(_without_untouched(own, self.lower)) > 1

    def open(self, scan: Scan, entry: Entry, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (start, bytes) of the data that is stored for a file, from a byte on."""
        replaced = self.contents.get(entry.path)
        return iter([(start, replaced[start:])]) if replaced is not None else scan.open(entry, start)


def clean(context: Context, session: Session, scan: Scan, waivers: Sequence[Allow]) -> Cleaned:
    """Return what a save of a scanned session stores."""
    trees = [layer_tree(context, layer.tree) for layer in session.layers]
    lower = merge(tree.entries for tree in trees)
    plan = make_plan(
        scan.entries,
        lower=lower.get,
        passwd=_passwd(context, scan, trees),
        read=lambda entry: _whole(scan, entry),
        allow=waivers,
    )
    cleaned = apply_plan(scan.entries, plan)
    made = report(plan)
    entries = _without_untouched(cleaned.entries, lower)
    return Cleaned(
        entries=entries,
        contents=cleaned.contents,
        report=Report(ruleset=made.ruleset, findings=(*made.findings, *scan.findings)),
        notes=tuple(f"--allow {allow} matched nothing" for allow in plan.unused_allows),
        lower=lower,
    )


def fingerprint(scan: Scan, cleaned: Cleaned) -> str:
    """Return a digest of what a save would store, without reading contents: what a file was stands for all of it.

    Times of directories are left out: every start of the container moves that of /etc.
    """
    encode = msgspec.msgpack.Encoder().encode
    files = list(map(scan.files.get, [entry.path for entry in cleaned.entries]))
    rows = [
        _timeless(entry) if file is None else entry.path for entry, file in zip(cleaned.entries, files, strict=True)
    ]
    digest = hashlib.sha256(encode((rows, files)))
    for path in sorted(cleaned.contents):
        digest.update(cleaned.contents[path])
    return digest.hexdigest()


def scanned_as(session: Session, scan: Scan, waivers: Sequence[Allow]) -> str:
    """Return a digest of all that the result of `clean` and its `fingerprint` depend on.

    As in `fingerprint`, what a file was stands for it, and times of directories are left out: they decide nothing.
    """
    encode = msgspec.msgpack.Encoder().encode
    layers = [layer.tree for layer in session.layers]
    digest = hashlib.sha256(encode((__version__, RULESET, layers, [(w.rule, w.glob) for w in waivers])))
    digest.update(encode([_timeless(entry) for entry in scan.entries if entry.kind is not _FILE]))
    digest.update(encode(list(scan.files.items())))
    return digest.hexdigest()


def _timeless(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, mtime_ns=0) if entry.kind is _DIRECTORY else entry


def _without_untouched(entries: Sequence[Entry], lower: dict[bytes, Entry]) -> list[Entry]:
    """Drop what says nothing: directories that are in the upper only because something below them was, and whiteouts
    of what no lower layer has.

    A directory's time does not count: writing and then leaving out a file has moved it.
    """
    needed: set[bytes] = set()
    kept: list[Entry] = []
    for entry in reversed(entries):
        path, kind = entry.path, entry.kind
        if kind is _DIRECTORY:
            before = lower.get(path)
            if (
                path not in needed
                and path
                and before is not None
                and msgspec.structs.replace(entry, mtime_ns=before.mtime_ns) == before
            ):
                continue
        elif kind is _WHITEOUT and path not in lower:
            # It would hide nothing, and overlayfs shows a whiteout in a directory that only one layer has.
            continue
        kept.append(entry)
        if path:
            needed.add(path.rpartition(b"/")[0])
    return kept[::-1]


def _passwd(context: Context, scan: Scan, trees: Sequence[Tree]) -> bytes:
    """Return the environment's passwd file: the upper's, or that of the topmost layer that has one."""
    place = bisect_left(scan.entries, path_key(_PASSWD), key=lambda entry: path_key(entry.path))
    entry = scan.entries[place] if place < len(scan.entries) else None
    if entry is not None and entry.path == _PASSWD:
        return _whole(scan, entry) if entry.kind is Kind.FILE and entry.size <= _MAX_PASSWD else b""
    for tree in reversed(trees):
        for entry in tree.entries:
            if entry.path == _PASSWD:
                return read_file(context, tree, entry) if entry.size <= _MAX_PASSWD else b""
    return b""


def _whole(scan: Scan, entry: Entry) -> bytes:
    data = bytearray(entry.size)
    for start, piece in scan.open(entry):
        data[start : start + len(piece)] = piece
    return bytes(data)
