"""Owns what this machine's queue starts next: by priority, then number, as far as there is room."""

import time
from collections.abc import Sequence
from typing import Any

from envkit.model.record import Record
from envkit.model.task import MAX_ATTEMPTS, State
from envkit.queues import endings
from envkit.queues.ledger import Ledger

_RUNNING, _QUEUED = State.RUNNING.value, State.QUEUED.value
_MAX_CRASHES = 5
"""How often a task whose process vanished is started again: one that takes its machine down must not do so for ever."""


class Room(Record):
    """What tasks take of a machine, or what is left of it: slots, bytes of memory, GPUs."""

    slots: int
    memory: int
    gpus: int

    def without(self, other: "Room", times: int = 1) -> "Room":
        """Return what is left when something is taken; less than nothing is nothing."""
        return Room(
            slots=max(0, self.slots - times * other.slots),
            memory=max(0, self.memory - times * other.memory),
            gpus=max(0, self.gpus - times * other.gpus),
        )

    def times(self, other: "Room") -> int:
        """Return how often something fits into it; everything takes a slot."""
        pairs = ((self.slots, other.slots), (self.memory, other.memory), (self.gpus, other.gpus))
        return min(have // need for have, need in pairs if need)


class Running(Record):
    """A task that was started and whose end is not known: what it takes, and whether somebody wants it ended.

    `cards` are the names of the GPUs that it was given.
    """

    job: int
    index: int
    attempt: int
    killed: bool
    requeue: bool
    takes: Room
    cards: tuple[str, ...]


class Start(Record):
    """A task to be started: as which user, in which directory, for at most `time` seconds, with which GPUs."""

    job: int
    index: int
    attempt: int
    uid: int
    gid: int
    directory: str
    time: int | None
    cards: tuple[str, ...]


def running(ledger: Ledger, machine: Room) -> list[Running]:
    """Return the tasks that were started and have not ended."""
    with ledger.turn(writing=False):
        rows = ledger.db.execute(
            "SELECT job, place, attempt, killed, requeue, cards, slots, memory, gpus"
            " FROM tasks JOIN jobs ON number = job WHERE state = ?",
            (_RUNNING,),
        ).fetchall()
    return [
        Running(
            job=job,
            index=place,
            attempt=attempt,
            killed=bool(killed),
            requeue=bool(requeue),
            takes=_takes(machine, row),
            cards=tuple(cards.split(",")) if cards else (),
        )
        for job, place, attempt, killed, requeue, cards, *row in rows
    ]


def due(ledger: Ledger) -> bool:
    """Tell whether a task waits for nothing but room."""
    with ledger.turn(writing=False):
        return ledger.db.execute(f"{_CANDIDATES} LIMIT 1").fetchone() is not None


def choose(ledger: Ledger, machine: Room, left: Room, cards: Sequence[str]) -> list[Start]:
    """Mark tasks as running, as many as there is room left for, and return them; in a turn.

    A job for which there is no room yet holds up all that come after it, or it would never get any; one that only
    waits for GPUs holds up those that want some.

    :param cards: names of the GPUs that are left.
    """
    chosen: list[Start] = []
    following: dict[int, int] = {}
    for row in ledger.db.execute(_CANDIDATES):
        number, uid, gid, directory, seconds = row[:5]
        takes = _takes(machine, row[6:9])
        if takes.gpus > left.gpus:
            left = left.replace(gpus=0)
            continue
        fitting = left.times(takes)
        places, following[number], more = _places(ledger, row, fitting)
        for place, attempt in places:
            given, cards = tuple(cards[: takes.gpus]), cards[takes.gpus :]
            start = Start(
                job=number,
                index=place,
                attempt=attempt,
                uid=uid,
                gid=gid,
                directory=directory,
                time=seconds,
                cards=given,
            )
            chosen.append(start)
        left = left.without(takes, len(places))
        if more and takes.gpus <= left.gpus:
            break
        if more:
            left = left.replace(gpus=0)
    _mark(ledger, chosen, following)
    return chosen


def again(ledger: Ledger, task: Running, *, now: float) -> bool:
    """Queue a task again whose process vanished, or end it if that must not be; return whether it starts again.

    In a turn, so that nobody who kills it meanwhile is passed over.
    """
    query = "SELECT killed FROM tasks WHERE job = ? AND place = ?"
    if ledger.db.execute(query, (task.job, task.index)).fetchone()[0]:
        endings.end(ledger.db, task.job, task.index, State.KILLED, reason="", code=None, ended=now)
        return False
    if not task.requeue or task.attempt >= min(_MAX_CRASHES, MAX_ATTEMPTS):
        reason = "its process vanished" + ("" if not task.requeue else f" {task.attempt + 1} times")
        endings.end(ledger.db, task.job, task.index, State.LOST, reason=reason, code=None, ended=now)
        return False
    ledger.db.execute(
        "UPDATE tasks SET state = ?, attempt = attempt + 1, reason = ?, began = 0 WHERE job = ? AND place = ?",
        (_QUEUED, "its process vanished; it starts again", task.job, task.index),
    )
    return True


_CANDIDATES = """SELECT number, uid, gid, directory, time, next, slots, memory, gpus, count, rest, at_once FROM jobs
    WHERE open > 0 AND ((rest = 'queued' AND next < count)
    OR EXISTS (SELECT 1 FROM tasks WHERE state = 'queued' AND job = number)) ORDER BY priority DESC, number"""


def _takes(machine: Room, row: Any) -> Room:
    """Return what a task takes; all slots at most, or it would never begin."""
    slots, memory, gpus = row
    return Room(slots=min(slots, machine.slots), memory=min(memory, machine.memory), gpus=min(gpus, machine.gpus))


def _places(ledger: Ledger, row: tuple[Any, ...], fitting: int) -> tuple[list[tuple[int, int]], int, bool]:
    """Return index and attempt of the tasks of a job that can start, of which `fitting` find room; from where on none
    has been looked at; and whether more would start if there were room.
    """
    number, following, count, rest, at_once = row[0], row[5], *row[9:]
    wanted = fitting + 1
    if at_once is not None:
        query = "SELECT count(*) FROM tasks WHERE state = ? AND job = ?"
        wanted = min(wanted, at_once - ledger.db.execute(query, (_RUNNING, number)).fetchone()[0])
    query = "SELECT place, attempt FROM tasks WHERE state = ? AND job = ? ORDER BY place LIMIT ?"
    places = ledger.db.execute(query, (_QUEUED, number, max(0, wanted))).fetchall()
    while len(places) < wanted and rest == _QUEUED and following < count:
        query = "SELECT 1 FROM tasks WHERE job = ? AND place = ?"
        if ledger.db.execute(query, (number, following)).fetchone() is None:  # else it was killed before
            places.append((following, 0))
        following += 1
    more = len(places) > fitting
    if more and following > row[5] and places[-1][0] == following - 1:
        following -= 1
    return places[:fitting], following, more


def _mark(ledger: Ledger, chosen: list[Start], following: dict[int, int]) -> None:
    now = time.time()
    ledger.db.executemany(
        "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, '', ?, 0, NULL, 0, ?)",
        ((start.job, start.index, start.attempt, _RUNNING, now, ",".join(start.cards)) for start in chosen),
    )
    ledger.db.executemany(
        "UPDATE jobs SET next = ? WHERE number = ?", ((place, number) for number, place in following.items())
    )
