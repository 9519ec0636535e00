"""Owns the hint which chunks a store has, so that saving need not ask the store: a sqlite file on this machine.

Never an authority: it may be deleted, damaged or written by another release at any time, and is then started afresh;
a row that does not fit its own checksum is not there; and what a save reuses on its word is looked for in the store
before the save is acknowledged (`objects.verify_packs`). Any number of processes may use it at once.
"""

import fcntl
import hashlib
import logging
import os
import sqlite3
import struct
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Self, TypeVar

from envkit.model.tree import Chunk

logger = logging.getLogger(__name__)

_SCHEMA = 1
_APPLICATION = 0x656E766B  # "envk", what file(1) shows
_WAIT_SECONDS = 30
_AT_ONCE = 500  # older sqlite releases take 999 parameters
# Not the file's fault: waiting or starting afresh would not help, doing without does.
_PASSING = frozenset(
    (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)
)
# What a damaged file makes sqlite raise; the second, where a damaged name stands in the message itself.
_FAILURES = (sqlite3.DatabaseError, UnicodeDecodeError)
_LOCATION = struct.Struct(">32sQII")
_CHECKSUM = 8
_T = TypeVar("_T")


class ChunkIndex:
    """The chunks of the store with the identity `store_id` (`open.read_format`), kept in the file `path`.

    A context manager, for one thread. Where the file cannot be used it knows nothing and learns nothing.
    """

    def __init__(self, path: str, store_id: str) -> None:
        self._path = path
        self._store_id = store_id
        self._store = 0
        self._db: sqlite3.Connection | None = None
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            os.makedirs(os.path.dirname(self._path) or ".", mode=0o700, exist_ok=True)
            self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Held shared as long as the file is open, so that nobody starts it afresh under another process's feet.
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        except OSError as error:
            logger.info("no chunk index at %s: %s", self._path, error)
            return self
        self._connect()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def learn(self, tree: str, chunks: Collection[Chunk]) -> None:
        """Remember the chunks of a tree that is in the store; `tree` is its digest in hexadecimal."""

        def insert(db: sqlite3.Connection) -> None:
            with db:
                db.execute("BEGIN IMMEDIATE")
                rows = ((self._store, chunk.digest, self._row(chunk)) for chunk in chunks)
                db.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", rows)
                db.execute("INSERT OR IGNORE INTO trees VALUES (?, ?)", (self._store, bytes.fromhex(tree)))

        self._attempt(insert, None)

    def unseen(self, trees: Iterable[str]) -> list[str]:
        """Return those of some trees whose chunks were never learned, in the given order."""
        asked = [bytes.fromhex(tree) for tree in trees]
        seen = self._select("SELECT digest, 1 FROM trees WHERE store = ? AND digest IN", asked)
        return [digest.hex() for digest in asked if digest not in seen]

    def find(self, digests: Iterable[bytes]) -> dict[bytes, Chunk]:
        """Return where those of some chunks lie that are known."""
        rows = self._select("SELECT digest, row FROM chunks WHERE store = ? AND digest IN", list(digests))
        chunks = ((digest, self._chunk(digest, row)) for digest, row in rows.items())
        return {digest: chunk for digest, chunk in chunks if chunk is not None}

    def forget(self, packs: Iterable[bytes]) -> None:
        """Drop all chunks of packs that turned out to be gone."""
        gone = list(packs)

        def drop(db: sqlite3.Connection) -> None:
            with db:
                db.execute("BEGIN IMMEDIATE")
                placed = ((self._store, pack) for pack in gone)
                db.executemany("DELETE FROM chunks WHERE store = ? AND substr(row, 1, 32) = ?", placed)

        self._attempt(drop, None)

    def _select(self, query: str, digests: list[bytes]) -> dict[bytes, object]:
        def select(db: sqlite3.Connection) -> dict[bytes, object]:
            found: dict[bytes, object] = {}
            for start in range(0, len(digests), _AT_ONCE):
                some = digests[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                found.update(db.execute(f"{query} ({marks})", (self._store, *some)))
            return found

        return self._attempt(select, {})

    def _attempt(self, action: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        for _ in range(2):
            if self._db is None:
                break
            try:
                return action(self._db)
            except _FAILURES as error:
                if not self._recovered(error):
                    break
        return otherwise

    def _recovered(self, error: Exception) -> bool:
        """Start afresh if the file was at fault; return whether it is worth trying again."""
        logger.info("chunk index %s: %s", self._path, error)
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _PASSING:
            return False
        self._disconnect()
        self._start_afresh()
        return True

    def _connect(self) -> None:
        try:
            self._db = self._opened()
        except _FAILURES as error:
            self._recovered(error)
        else:
            if self._db is None:
                logger.info("chunk index %s is of another kind or release", self._path)
                self._start_afresh()

    def _start_afresh(self) -> None:
        if self._lock is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for suffix in ("", "-journal", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(self._path + suffix)
            self._db = self._opened()
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        except (OSError, *_FAILURES) as error:
            # Somebody else has it open, or the disk is at fault: do without.
            logger.info("no chunk index at %s: %s", self._path, error)

    def _opened(self) -> sqlite3.Connection | None:
        """Open the file, made if it is missing or empty; None if it is not ours."""
        db = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            with db:
                db.execute("BEGIN IMMEDIATE")
                ours = _is_prepared(db)
                if ours:
                    db.execute("INSERT OR IGNORE INTO stores (id) VALUES (?)", (self._store_id,))
                    query = "SELECT number FROM stores WHERE id = ?"
                    (self._store,) = db.execute(query, (self._store_id,)).fetchone()
        except _FAILURES:
            db.close()
            raise
        if not ours:
            db.close()
            return None
        return db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _row(self, chunk: Chunk) -> bytes:
        location = _LOCATION.pack(chunk.pack, chunk.offset, chunk.stored, chunk.size)
        return location + self._checksum(chunk.digest, location)

    def _chunk(self, digest: bytes, row: object) -> Chunk | None:
        """Read a row; None if it is not what was written for this chunk of this store."""
        if not isinstance(row, bytes) or len(row) != _LOCATION.size + _CHECKSUM:
            return None
        location = row[: _LOCATION.size]
        if row[_LOCATION.size :] != self._checksum(digest, location):
            return None
        pack, offset, stored, size = _LOCATION.unpack(location)
        return Chunk(digest=digest, size=size, pack=pack, offset=offset, stored=stored)

    def _checksum(self, digest: bytes, location: bytes) -> bytes:
        return hashlib.blake2b(self._store_id.encode() + digest + location, digest_size=_CHECKSUM).digest()


def _is_prepared(db: sqlite3.Connection) -> bool:
    """Make the tables in an empty file; return whether the file is one of ours, and of this release."""
    kind = tuple(db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if kind != (0, 0) or db.execute("SELECT 1 FROM sqlite_master").fetchone():
        return kind == (_APPLICATION, _SCHEMA)
    db.execute(f"PRAGMA application_id = {_APPLICATION}")
    db.execute(f"PRAGMA user_version = {_SCHEMA}")
    db.execute("CREATE TABLE stores (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)")
    db.execute("CREATE TABLE trees (store, digest, PRIMARY KEY (store, digest)) WITHOUT ROWID")
    db.execute("CREATE TABLE chunks (store, digest, row, PRIMARY KEY (store, digest)) WITHOUT ROWID")
    return True
