"""Owns what follows in the ledger when tasks end, by themselves or because somebody ends them: for their job, and for
the jobs that wait for it. Everything here happens within one transaction of the caller's.
"""

import sqlite3
import time

from envkit.model.jobid import TaskId
from envkit.model.task import State
from envkit.queues.queue import JobUnknown

_WAITING, _QUEUED, _RUNNING = State.WAITING.value, State.QUEUED.value, State.RUNNING.value
_DONE, _KILLED = State.DONE.value, State.KILLED.value


def end(
    db: sqlite3.Connection, job: int, index: int, state: State, *, reason: str, code: int | None, ended: float
) -> None:
    """Note that a task that ran has ended."""
    db.execute(
        "UPDATE tasks SET state = ?, reason = ?, code = ?, ended = ? WHERE job = ? AND place = ?",
        (state.value, reason, code, ended, job, index),
    )
    _count(db, job, 1)


def kill(db: sqlite3.Connection, task: TaskId) -> bool:
    """End a task or a whole job that waits, note of one that runs that it has to end; return whether it was there."""
    row = db.execute("SELECT count, rest FROM jobs WHERE number = ? AND open > 0", (task.job,)).fetchone()
    if row is None:
        return False
    count, rest = row
    if task.index is None:
        db.execute("UPDATE tasks SET killed = 1 WHERE job = ? AND state = ?", (task.job, _RUNNING))
        _count(db, task.job, _end_rest(db, task.job, ""))
        return True
    if task.index >= count:
        return False
    found = db.execute("SELECT state FROM tasks WHERE job = ? AND place = ?", (task.job, task.index)).fetchone()
    if found == (_RUNNING,):
        db.execute("UPDATE tasks SET killed = 1 WHERE job = ? AND place = ?", (task.job, task.index))
        return True
    if (found or (rest,))[0] not in (_WAITING, _QUEUED):
        return False
    db.execute(
        "INSERT OR REPLACE INTO tasks VALUES (?, ?, 0, ?, '', 0, ?, NULL, 1, '')",
        (task.job, task.index, _KILLED, time.time()),
    )
    _count(db, task.job, 1)
    return True


def outcome(db: sqlite3.Connection, job: int) -> State | None:
    """Return how a job has ended, as its first task that did not end well; None if it has not ended.

    :raises JobUnknown: it is not there.
    """
    row = db.execute("SELECT open, rest FROM jobs WHERE number = ?", (job,)).fetchone()
    if row is None:
        raise JobUnknown(f"there is no job {job} to depend on", resolution="see `envkit jobs`")
    if row[0] > 0:
        return None
    query = "SELECT state FROM tasks WHERE job = ? AND state != ? ORDER BY place LIMIT 1"
    wrong = db.execute(query, (job, _DONE)).fetchone()
    if wrong is not None:
        return State(wrong[0])
    return State.DONE if row[1] in (_WAITING, _QUEUED) else State(row[1])


def follow(db: sqlite3.Connection, job: int, other: int, state: State) -> None:
    """Let a job begin because one that it depends on has ended, if that was the last one; or end it."""
    _count(db, job, _follow(db, job, other, state))


def _follow(db: sqlite3.Connection, job: int, other: int, state: State) -> int:
    """Do what `follow` does, but for counting what has ended; return how many tasks that are."""
    db.execute("DELETE FROM waits WHERE job = ? AND other = ?", (job, other))
    if state is not State.DONE:
        return _end_rest(db, job, f"job {other}, which it depends on, did not end well: {state.value}")
    if db.execute("SELECT 1 FROM waits WHERE job = ?", (job,)).fetchone() is None:
        db.execute("UPDATE jobs SET rest = ? WHERE number = ? AND rest = ?", (_QUEUED, job, _WAITING))
    return 0


def _end_rest(db: sqlite3.Connection, job: int, reason: str) -> int:
    """Kill every task of a job that does not run and has not ended; return how many that were."""
    now = time.time()
    again = db.execute(
        "UPDATE tasks SET state = ?, reason = ?, ended = ? WHERE job = ? AND state = ?",
        (_KILLED, reason, now, job, _QUEUED),
    ).rowcount
    count, rest = db.execute("SELECT count, rest FROM jobs WHERE number = ?", (job,)).fetchone()
    if rest not in (_WAITING, _QUEUED):
        return again
    own = db.execute("SELECT count(*) FROM tasks WHERE job = ?", (job,)).fetchone()[0]
    db.execute(
        "UPDATE jobs SET rest = ?, rest_reason = ?, rest_ended = ? WHERE number = ?", (_KILLED, reason, now, job)
    )
    return int(again + count - own)


def _count(db: sqlite3.Connection, job: int, tasks: int) -> None:
    """Count tasks that have ended; if they were the last ones of their job, see to those that wait for it.

    Not recursive: a row of jobs, each of which waits for the one before, may be long.
    """
    pending = [(job, tasks)] if tasks else []
    while pending:
        job, tasks = pending.pop()
        db.execute("UPDATE jobs SET open = open - ? WHERE number = ?", (tasks, job))
        if db.execute("SELECT open FROM jobs WHERE number = ?", (job,)).fetchone()[0] > 0:
            continue
        db.execute("UPDATE jobs SET ended = ? WHERE number = ?", (time.time(), job))
        db.execute("DELETE FROM waits WHERE job = ?", (job,))
        state = outcome(db, job)
        assert state is not None  # noqa: S101  # nothing of it is open
        for (number,) in db.execute("SELECT job FROM waits WHERE other = ?", (job,)).fetchall():
            ended = _follow(db, number, job, state)
            if ended:
                pending.append((number, ended))
