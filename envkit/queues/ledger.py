"""Owns the memory of this machine's queue: which jobs there are and how their tasks are, in a SQLite database.

It holds what was decided; whether a process still lives is known from its lock (`supervisor.py`). A job has one row,
however many tasks it has: a task gets a row when something happens to it, those without are all as `rest` says. So an
array of 100,000 costs one insert. Numbers are never given twice, and go with `identity`: a new database is another
queue.

Any number of processes may use it at once, each verb in one transaction. The journal is no write-ahead log: that has
to make files before anything can be read, and a queue should answer on a full disk too.
"""

import contextlib
import hashlib
import os
import pwd
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Self

from envkit.drivers.files import read_text
from envkit.model.jobid import TaskId
from envkit.model.task import JobStatus, State, TaskStatus
from envkit.queues import endings
from envkit.queues.queue import JobUnknown, QueueFailed, Submission

_SCHEMA = 1
_APPLICATION = 0x656E766A  # "envj", what file(1) shows
_WAIT_SECONDS = 60
_AT_ONCE = 500  # older sqlite releases take 999 parameters
_KEPT_JOBS = 10_000
_KEPT_SECONDS = 30 * 86400
# What a damaged file makes sqlite raise; the second, where a damaged name stands in the message itself.
_FAILURES = (sqlite3.Error, UnicodeDecodeError)
_TABLES = (
    "CREATE TABLE queue (identity TEXT NOT NULL)",
    """CREATE TABLE jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    name TEXT NOT NULL, comment TEXT NOT NULL, directory TEXT NOT NULL, submitted REAL NOT NULL,
    array INTEGER NOT NULL, count INTEGER NOT NULL, slots INTEGER NOT NULL, memory INTEGER NOT NULL,
    gpus INTEGER NOT NULL, time INTEGER, priority INTEGER NOT NULL, at_once INTEGER, requeue INTEGER NOT NULL,
    rest TEXT NOT NULL, rest_reason TEXT NOT NULL, rest_ended REAL NOT NULL,
    next INTEGER NOT NULL, open INTEGER NOT NULL, ended REAL NOT NULL, tidy INTEGER NOT NULL)""",
    "CREATE INDEX open_jobs ON jobs (priority DESC, number) WHERE open > 0",
    "CREATE INDEX untidy_jobs ON jobs (number) WHERE open = 0 AND tidy = 0",
    """CREATE TABLE tasks (job INTEGER NOT NULL, place INTEGER NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL, began REAL NOT NULL, ended REAL NOT NULL, code INTEGER, killed INTEGER NOT NULL,
    cards TEXT NOT NULL, PRIMARY KEY (job, place)) WITHOUT ROWID""",
    "CREATE INDEX open_tasks ON tasks (state, job, place) WHERE state IN ('running', 'queued')",
    "CREATE TABLE waits (job INTEGER NOT NULL, other INTEGER NOT NULL, PRIMARY KEY (job, other)) WITHOUT ROWID",
    "CREATE INDEX waited ON waits (other)",
)
_OWN = frozenset(_TABLES)
"""How sqlite remembers them: word for word."""
_WAITING, _QUEUED = State.WAITING.value, State.QUEUED.value


class LedgerDamaged(QueueFailed):
    """The ledger's file is not a database any more, or says what it cannot say."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            f"the memory of this machine's queue, {path}, is damaged",
            details=problem,
            resolution=f"move {path} away: a new queue begins, and what ended jobs have left in the store stays",
        )
        self.path = path


class Ledger:
    """The ledger in the file `path`, made if it is missing. A context manager, for one thread.

    Every verb raises QueueFailed where the file cannot be used. Those of `agenda.py` need a `turn` around them.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = 0
        self.db: sqlite3.Connection

    def __enter__(self) -> Self:
        with self._answering():
            self.db = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self.db.close()
                raise
        self._file = os.stat(self._path).st_ino
        return self

    def __exit__(self, *_exception: object) -> None:
        self.db.close()

    @property
    def name(self) -> str:
        """The name of the queue. No other ledger has it, nor a copy of this one on another machine."""
        with self._answering():
            identity = self.db.execute("SELECT identity FROM queue").fetchone()[0]
        known = f"{identity} {read_text('/etc/machine-id', 64).strip()}"
        return f"local-{hashlib.sha256(known.encode()).hexdigest()[:8]}"

    def is_there(self) -> bool:
        """Tell whether the path still leads to this ledger."""
        try:
            return os.stat(self._path).st_ino == self._file
        except OSError:
            return False

    def check(self) -> None:
        """Look through all of it.

        :raises QueueFailed: it is damaged.
        """
        with self._answering():
            found = self.db.execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            raise LedgerDamaged(self._path, str(found[0]) if found else "no answer")

    @contextlib.contextmanager
    def turn(self, *, writing: bool = True) -> Iterator[None]:
        """Do several things as one: all of them happen, durably, or none."""
        with self._answering():
            self.db.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
            try:
                yield
                self.db.execute("COMMIT")
            except (TypeError, ValueError) as error:  # a column has what was never written into it
                raise LedgerDamaged(self._path, str(error)) from error
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")

    def submit(self, submission: Submission, prepare: Callable[[int], None]) -> int:
        """Add a job and return its number; `prepare` is called with it before the job is there for others.

        :raises JobUnknown: it depends on a job that is not there.
        """
        wanted, count = submission.resources, submission.count
        with self.turn():
            others = {number: endings.outcome(self.db, number) for number in submission.depends_on}
            waits = [number for number, state in others.items() if state is None]
            row = {
                "uid": submission.uid,
                "gid": submission.gid,
                "name": submission.name,
                "comment": submission.comment,
                "directory": submission.directory,
                "submitted": time.time(),
                "array": count is not None,
                "count": 1 if count is None else count,
                "slots": (wanted.cpus or 1) * wanted.tasks,
                "memory": wanted.memory or 0,
                "gpus": wanted.gpus,
                "time": wanted.time,
                "priority": wanted.priority or 0,
                "at_once": wanted.at_once,
                "requeue": submission.requeue,
                "rest": _WAITING if waits else _QUEUED,
                "rest_reason": "",
                "rest_ended": 0.0,
                "next": 0,
                "open": 1 if count is None else count,
                "ended": 0.0,
                "tidy": 0,
            }
            marks = ", ".join(f":{name}" for name in row)
            made = self.db.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks})", row)  # noqa: S608
            number = int(made.lastrowid or 0)
            self.db.executemany("INSERT INTO waits VALUES (?, ?)", ((number, other) for other in waits))
            prepare(number)
            for other, state in others.items():
                if state is not None:
                    endings.follow(self.db, number, other, state)
        return number

    def statuses(self, jobs: Iterable[int] | None) -> dict[int, JobStatus]:
        """Return how jobs are, all of them for None; those that are not there are missing."""
        found: dict[int, JobStatus] = {}
        with self.turn(writing=False):
            for where, numbers in _parts(jobs):
                tasks: dict[int, dict[int, tuple[Any, ...]]] = {}
                for job, place, *row in self.db.execute(
                    f"SELECT job, place, state, reason, began, ended, code FROM tasks {where('job')}",  # noqa: S608
                    numbers,
                ):
                    tasks.setdefault(job, {})[place] = tuple(row)
                waits: dict[int, list[int]] = {}
                for job, other in self.db.execute(f"SELECT job, other FROM waits {where('job')}", numbers):  # noqa: S608
                    waits.setdefault(job, []).append(other)
                query = "SELECT number, comment, uid, array, count, rest, rest_reason, rest_ended FROM jobs"
                for row in self.db.execute(f"{query} {where('number')}", numbers):
                    found[row[0]] = _status(row, tasks.get(row[0], {}), waits.get(row[0], ()))
        return found

    def is_idle(self) -> bool:
        """Tell whether every job has ended."""
        with self._answering():
            return self.db.execute("SELECT 1 FROM jobs WHERE open > 0 LIMIT 1").fetchone() is None

    def state(self, task: TaskId) -> State:
        """Return the state of a task.

        :raises JobUnknown: there is no such task.
        """
        status = self.statuses([task.job]).get(task.job)
        index = task.index or 0
        if status is None or index >= len(status.tasks):
            raise JobUnknown(f"there is no job {task}", resolution="see `envkit jobs`")
        return status.tasks[index].state

    def kill(self, tasks: Sequence[TaskId]) -> list[TaskId]:
        """End tasks and whole jobs that wait, and note that those which run have to end; return those that have ended
        before, or are not there.
        """
        with self.turn():
            return [task for task in tasks if not endings.kill(self.db, task)]

    def tidy(self, clear: Callable[[int], None]) -> None:
        """Call `clear` with the number of each job that has ended since the last time."""
        with self._answering():
            rows = self.db.execute("SELECT number FROM jobs WHERE open = 0 AND tidy = 0").fetchall()
        if not rows:
            return
        for (number,) in rows:
            clear(number)
        with self.turn():
            self.db.executemany("UPDATE jobs SET tidy = 1 WHERE number = ?", rows)

    def forget(self, remove: Callable[[int], None]) -> None:
        """Drop jobs that ended long ago, or before many others; `remove` is called before with the number of each."""
        with self.turn():
            rows = self.db.execute(
                "SELECT number FROM jobs WHERE open = 0 AND (ended < ? OR number IN"
                " (SELECT number FROM jobs WHERE open = 0 ORDER BY ended DESC LIMIT -1 OFFSET ?))",
                (time.time() - _KEPT_SECONDS, _KEPT_JOBS),
            ).fetchall()
            for row in rows:
                remove(int(row[0]))
                self.db.execute("DELETE FROM tasks WHERE job = ?", row)
                self.db.execute("DELETE FROM jobs WHERE number = ?", row)

    def _prepare(self) -> None:
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("PRAGMA journal_mode = PERSIST")
        if self._is_ours():
            return
        with self.turn():
            if self._is_ours():
                return
            kind = self._kind()
            if kind != (0, 0) or self.db.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise QueueFailed(
                    f"{self._path} is of another release of envkit (format {kind[1]}, this one reads {_SCHEMA})",
                    resolution="use that release, or update this one",
                )
            for statement in _TABLES:
                self.db.execute(statement)
            self.db.execute("INSERT INTO queue VALUES (?)", (os.urandom(16).hex(),))
            self.db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self.db.execute(f"PRAGMA user_version = {_SCHEMA}")

    def _is_ours(self) -> bool:
        """Tell whether it has this release's format.

        :raises LedgerDamaged: it says so, but has other tables: some verbs would work and others fail, as if a job that
            was accepted were never started.
        """
        if self._kind() != (_APPLICATION, _SCHEMA):
            return False
        found = {sql for (sql,) in self.db.execute("SELECT sql FROM sqlite_master WHERE sql NOTNULL")}
        if not found >= _OWN:
            raise LedgerDamaged(self._path, f"its tables are not those of format {_SCHEMA}")
        return True

    def _kind(self) -> tuple[int, int]:
        found = [self.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        return found[0], found[1]

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell what sqlite complains about in one line."""
        try:
            yield
        except _FAILURES as error:
            raise _failure(self._path, error) from error


def _status(row: Sequence[Any], tasks: dict[int, tuple[Any, ...]], waits: Sequence[int]) -> JobStatus:
    number, comment, uid, array, count, rest, reason, ended = row
    state = State(rest)
    if state is State.WAITING:
        reason = f"waits for {'job' if len(waits) == 1 else 'jobs'} {', '.join(map(str, waits))}"
    node = os.uname().nodename
    found = []
    for index in range(count):
        task = TaskId(job=number, index=index if array else None)
        own = tasks.get(index)
        if own is None:
            found.append(TaskStatus(id=task, state=state, reason=reason, ended=ended))
            continue
        name, why, began, until, code = own
        where = node if began else ""
        found.append(
            TaskStatus(id=task, state=State(name), reason=why, node=where, began=began, ended=until, code=code)
        )
    return JobStatus(number=number, comment=comment, user=user_name(uid), tasks=tuple(found))


@lru_cache(maxsize=1000)
def user_name(uid: int) -> str:
    """Return what a user is called here; the number of one whom this machine does not know."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _parts(jobs: Iterable[int] | None) -> Iterator[tuple[Callable[[str], str], Sequence[int]]]:
    """Yield the condition for a column, and its parameters, for some jobs at a time."""
    if jobs is None:
        yield (lambda _: ""), ()
        return
    numbers = list(jobs)
    for start in range(0, len(numbers), _AT_ONCE):
        some = numbers[start : start + _AT_ONCE]
        marks = ",".join("?" * len(some))
        yield (lambda column, marks=marks: f"WHERE {column} IN ({marks})"), some  # type: ignore[misc]


def _failure(path: str, error: Exception) -> QueueFailed:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return QueueFailed(f"no space left for {path}", resolution="free some space there, then try again")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return LedgerDamaged(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return QueueFailed(f"the queue is busy: {path} was locked for {_WAIT_SECONDS} s", resolution="try again")
    return QueueFailed(f"cannot use {path}: {error}", resolution="use sudo: sudo envkit ..." if os.geteuid() else None)
