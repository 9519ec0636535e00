"""The ledger by itself: its numbers, what follows from what, its bounds, and a file that somebody has damaged."""

import contextlib
import multiprocessing
import os
import random
import sqlite3
from collections import Counter

import pytest

from envkit.model.jobid import TaskId
from envkit.model.order import Resources
from envkit.model.task import State
from envkit.queues import agenda, endings, ledger
from envkit.queues.agenda import Room
from envkit.queues.ledger import Ledger, LedgerDamaged
from envkit.queues.queue import JobUnknown, QueueFailed, Submission

MACHINE = Room(slots=4, memory=1000, gpus=2)
CARDS = ["0", "1"]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "queue.sqlite")


@pytest.fixture
def book(path):
    with Ledger(path) as opened:
        opened.db.execute("PRAGMA synchronous = OFF")  # no power is cut here
        yield opened


def submit(book, *, count=None, depends_on=(), requeue=True, prepare=lambda number: None, **resources):
    return book.submit(
        Submission(
            script="",
            uid=0,
            gid=0,
            name="a",
            comment="b",
            count=count,
            depends_on=depends_on,
            requeue=requeue,
            resources=Resources(**resources),
        ),
        prepare,
    )


def start(book, left=MACHINE):
    with book.turn():
        return [(task.job, task.index) for task in agenda.choose(book, MACHINE, left, CARDS[: left.gpus])]


def end(book, job, index=0, state=State.DONE):
    with book.turn():
        endings.end(book.db, job, index, state, reason="", code=0 if state is State.DONE else 1, ended=1.0)


def states(book, job):
    return [task.state for task in book.statuses([job])[job].tasks]


def test_numbers_begin_at_one_and_are_never_given_twice(book, monkeypatch):
    assert [submit(book) for _ in range(3)] == [1, 2, 3]
    assert book.kill([TaskId(job=3)]) == []
    monkeypatch.setattr(ledger, "_KEPT_JOBS", 0)
    forgotten = []
    book.forget(forgotten.append)
    assert forgotten == [3] and list(book.statuses(None)) == [1, 2]
    assert submit(book) == 4


def test_a_submission_that_fails_in_the_middle_was_never_there(book):
    def fail(number):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        submit(book, prepare=fail)
    assert book.statuses(None) == {}
    assert submit(book) == 1


def test_an_array_is_one_row_until_something_happens_to_a_task(book):
    number = submit(book, count=100_000)
    assert start(book) == [(number, index) for index in range(4)]
    assert book.db.execute("SELECT count(*) FROM tasks").fetchone() == (4,)
    assert Counter(states(book, number)) == {State.RUNNING: 4, State.QUEUED: 99_996}


def test_ids_of_arrays_have_an_index_and_others_none(book):
    single, array = submit(book), submit(book, count=1)
    found = book.statuses(None)
    assert [task.id for number in (single, array) for task in found[number].tasks] == [
        TaskId(job=single), TaskId(job=array, index=0),
    ]  # fmt: skip


def test_only_those_that_are_asked_for_are_told_of(book):
    numbers = [submit(book) for _ in range(5)]
    assert list(book.statuses([4, 2, 99])) == [2, 4]
    assert list(book.statuses([])) == []
    assert list(book.statuses(range(1, 2000))) == numbers


def test_room_is_given_in_order_and_never_twice(book):
    low = submit(book, count=2, priority=0)
    wide = submit(book, cpus=3, priority=7)
    memory = submit(book, memory=999, priority=5)
    assert start(book) == [(wide, 0), (memory, 0)]
    left = MACHINE.without(Room(slots=4, memory=999, gpus=0))
    assert start(book, left) == []
    end(book, wide)
    assert start(book, Room(slots=3, memory=1, gpus=2)) == [(low, 0), (low, 1)]


def test_a_job_without_room_holds_up_the_next_but_not_for_gpus(book):
    gpu = submit(book, count=3, gpus=2)
    other, third = submit(book, gpus=1), submit(book)
    assert start(book) == [(gpu, 0), (third, 0)]
    end(book, gpu)
    assert start(book, Room(slots=3, memory=0, gpus=2)) == [(gpu, 1)]
    large, small = submit(book, cpus=4), submit(book)
    assert start(book, Room(slots=2, memory=0, gpus=0)) == []
    assert {states(book, number)[0] for number in (other, large, small)} == {State.QUEUED}


def test_gpus_are_given_by_name_and_not_twice(book):
    for _ in range(3):
        submit(book, gpus=1)
    start(book)
    assert sorted(task.cards for task in agenda.running(book, MACHINE)) == [("0",), ("1",)]
    end(book, 1)
    with book.turn():
        (task,) = agenda.choose(book, MACHINE, MACHINE.replace(gpus=1), ["0"])
    assert (task.job, task.cards) == (3, ("0",))


def test_what_a_job_leaves_is_for_the_next(book):
    first, second = submit(book, cpus=3), submit(book)
    assert start(book) == [(first, 0), (second, 0)]


def test_a_job_that_asks_for_more_than_all_slots_gets_all(book):
    number = submit(book, cpus=100, tasks=100)
    assert start(book, Room(slots=3, memory=0, gpus=0)) == []
    assert start(book) == [(number, 0)]


def test_tasks_killed_one_by_one_are_passed_over(book):
    number = submit(book, count=6)
    gone = [TaskId(job=number, index=index) for index in (0, 2, 5)]
    assert book.kill(gone) == [] and book.kill(gone) == gone
    assert start(book) == [(number, 1), (number, 3), (number, 4)]
    assert not agenda.due(book)
    for index in (1, 3, 4):
        end(book, number, index)
    assert book.is_idle()


def test_killing_all_of_an_array_while_some_of_it_runs(book):
    number = submit(book, count=1000)
    start(book)
    end(book, number, 1)
    assert book.kill([TaskId(job=number)]) == []
    assert Counter(states(book, number)) == {State.RUNNING: 3, State.DONE: 1, State.KILLED: 996}
    assert all(task.killed for task in agenda.running(book, MACHINE))
    assert start(book) == [] and not book.is_idle()
    for index in (0, 2, 3):
        end(book, number, index, State.KILLED)
    assert book.is_idle() and book.kill([TaskId(job=number)]) == [TaskId(job=number)]


def test_a_row_of_jobs_longer_than_any_stack(book):
    numbers = [submit(book)]
    for _ in range(3000):
        numbers.append(submit(book, depends_on=(numbers[-1],)))
    book.kill([TaskId(job=numbers[0])])
    assert book.is_idle()
    assert states(book, numbers[-1]) == [State.KILLED]


def test_a_job_begins_when_the_last_one_that_it_waits_for_is_done(book):
    first, second = submit(book, count=2), submit(book)
    after = submit(book, depends_on=(first, second, first))
    assert start(book) == [(first, 0), (first, 1), (second, 0)]
    for job, index in ((first, 0), (second, 0)):
        end(book, job, index)
        assert states(book, after) == [State.WAITING]
    end(book, first, 1)
    assert states(book, after) == [State.QUEUED]
    assert start(book) == [(after, 0)]
    with pytest.raises(JobUnknown, match="there is no job 9 to depend on"):
        submit(book, depends_on=(first, 9))


@pytest.mark.parametrize("state", [State.FAILED, State.TIMEOUT, State.KILLED, State.LOST])
def test_a_job_is_killed_when_what_it_waits_for_ends_otherwise(book, state):
    first = submit(book, count=2)
    before = submit(book, count=3, depends_on=(first,))
    start(book)
    end(book, first, 0, state)
    end(book, first, 1)
    late = submit(book, depends_on=(first,))
    reason = f"job {first}, which it depends on, did not end well: {state.value}"
    for number in (before, late):
        assert {(task.state, task.reason) for task in book.statuses([number])[number].tasks} == {(State.KILLED, reason)}
    assert book.is_idle()


def test_tasks_whose_process_vanished_go_on_from_their_next_attempt(book):
    number, never = submit(book, count=2), submit(book, requeue=False)
    for attempt in range(6):
        assert (number, 0) in start(book, Room(slots=3 if attempt == 0 else 1, memory=0, gpus=0))
        (task,) = (task for task in agenda.running(book, MACHINE) if (task.job, task.index) == (number, 0))
        assert task.attempt == attempt
        with book.turn():
            assert agenda.again(book, task, now=1.0) is (attempt < 5)
    lost = book.statuses([number])[number].tasks[0]
    assert (lost.state, lost.reason) == (State.LOST, "its process vanished 6 times")
    (task,) = (task for task in agenda.running(book, MACHINE) if task.job == never)
    with book.turn():
        assert not agenda.again(book, task, now=1.0)
    assert states(book, never) == [State.LOST]


def test_a_task_that_was_to_be_killed_does_not_start_again(book):
    number = submit(book)
    start(book)
    book.kill([TaskId(job=number)])
    (task,) = agenda.running(book, MACHINE)
    with book.turn():
        assert not agenda.again(book, task, now=1.0)
    assert states(book, number) == [State.KILLED]


def test_jobs_that_ended_are_tidied_up_once(book):
    number = submit(book)
    seen = []
    book.tidy(seen.append)
    assert seen == []
    book.kill([TaskId(job=number)])
    book.tidy(seen.append)
    book.tidy(seen.append)
    assert seen == [number]


def test_old_jobs_are_forgotten_and_open_ones_never(book, monkeypatch):
    numbers = [submit(book) for _ in range(6)]
    book.kill([TaskId(job=number) for number in numbers[:5]])
    book.db.execute("UPDATE jobs SET ended = ended - ? WHERE number <= 2", (31 * 86400,))
    gone = []
    book.forget(gone.append)
    assert gone == [1, 2]
    monkeypatch.setattr(ledger, "_KEPT_JOBS", 2)
    book.forget(gone.append)
    assert gone == [1, 2, 3] and list(book.statuses(None)) == [4, 5, 6]


def test_random_histories_end_with_everything_accounted_for(book):
    """Whatever happens in whatever order: room is never exceeded, and every task ends once."""
    chance = random.Random(int(os.environ.get("ENVKIT_TEST_SEED", "1")))
    numbers, running = [], {}
    for step in range(600):
        act = chance.random()
        if act < 0.2 and step < 400:
            others = tuple(chance.sample(numbers, min(len(numbers), chance.choice((0, 0, 1, 2)))))
            count = chance.choice((None, 1, 3, 20))
            numbers.append(
                submit(book, count=count, cpus=chance.choice((None, 2, 9)), depends_on=others, priority=step % 3)
            )
        elif act < 0.3 and numbers:
            job = chance.choice(numbers)
            book.kill([TaskId(job=job, index=chance.choice((None, 0, 2)))])
        elif running and act < 0.7:
            task = chance.choice(sorted(running))
            entry = running.pop(task)
            if chance.random() < 0.2:
                with book.turn():
                    agenda.again(book, entry, now=1.0)
            else:
                end(book, *task, chance.choice((State.DONE, State.DONE, State.FAILED)))
        used = [task.takes for task in agenda.running(book, MACHINE)]
        left = MACHINE
        for takes in used:
            left = left.without(takes)
        start(book, left)
        running = {(task.job, task.index): task for task in agenda.running(book, MACHINE)}
        assert sum(task.takes.slots for task in running.values()) <= MACHINE.slots
    while not book.is_idle():
        for task in agenda.running(book, MACHINE):
            end(book, task.job, task.index)
        start(book)
    for status in book.statuses(None).values():
        assert all(task.state.over for task in status.tasks)
    assert book.db.execute("SELECT count(*) FROM waits").fetchone() == (0,)
    assert book.db.execute("SELECT count(*) FROM jobs WHERE open != 0").fetchone() == (0,)


def test_eight_processes_make_it_and_write_to_it_at_once(path):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    writers = [context.Process(target=_write, args=(path, results)) for _ in range(8)]
    for writer in writers:
        writer.start()
    found = [results.get() for _ in writers]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(number for numbers, _ in found for number in numbers) == list(range(1, 81))
    assert len({name for _, name in found}) == 1


def _write(path, results):
    with Ledger(path) as book:
        results.put(([submit(book, count=2) for _ in range(10)], book.name))


def test_two_ledgers_have_two_names(path, tmp_path):
    with Ledger(path) as first, Ledger(str(tmp_path / "other")) as second:
        assert first.name != second.name


def test_a_ledger_knows_when_it_was_taken_away(book, path):
    assert book.is_there()
    os.rename(path, f"{path}.away")
    assert not book.is_there()
    with Ledger(path):
        assert not book.is_there()


def test_another_release_is_told_by_its_number(path):
    with Ledger(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    with (
        pytest.raises(QueueFailed, match=r"is of another release of envkit \(format 7, this one reads 1\)"),
        Ledger(path),
    ):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA application_id = 5")
    with pytest.raises(QueueFailed), Ledger(path):
        pass


@pytest.mark.parametrize(
    "change",
    ["ALTER TABLE tasks ADD COLUMN more TEXT", "ALTER TABLE jobs DROP COLUMN name", "DROP TABLE waits"],
)
def test_other_tables_are_refused_by_everybody(path, change):
    """Who submits would need one table, the runner another: a job that is accepted has to be one that can begin."""
    with Ledger(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(change)
    with pytest.raises(LedgerDamaged, match="is damaged") as caught, Ledger(path):
        pass
    assert caught.value.details == "its tables are not those of format 1"


def filled(path):
    with Ledger(path) as book:
        book.db.execute("PRAGMA synchronous = OFF")
        for _ in range(200):
            submit(book, count=3)
        for _ in range(40):
            start(book)
    return os.path.getsize(path)


def test_no_damage_is_more_than_an_error(path):
    """Bytes anywhere in the file: the answer may be wrong where no check can tell, but it is an answer, or one line."""
    size = filled(path)
    with open(path, "rb") as file:
        good = file.read()
    chance = random.Random(int(os.environ.get("ENVKIT_TEST_SEED", "1")))
    noticed = 0
    for _ in range(120):
        data = bytearray(good)
        where = chance.choice((0, chance.randrange(size)))
        length = chance.choice((1, 16, 4096, size))
        data[where : where + length] = os.urandom(min(length, size - where))
        with open(path, "wb") as file:
            file.write(data)
        try:
            with Ledger(path) as book:
                book.check()
                book.statuses(None)
                agenda.running(book, MACHINE)
                start(book)
                submit(book)
                book.kill([TaskId(job=5)])
        except QueueFailed as error:
            assert "\n" not in error.brief
            noticed += 1
    assert noticed > 30
    with open(path, "wb") as file:
        file.write(good)
    with Ledger(path) as book:
        book.check()
        assert len(book.statuses(None)) == 200


@pytest.mark.parametrize("content", [b"no database\n" * 500, bytes(100)])
def test_what_is_no_database_is_damage(path, content):
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(LedgerDamaged, match="is damaged") as caught, Ledger(path):
        pass
    assert (
        caught.value.resolution
        == f"move {path} away: a new queue begins, and what ended jobs have left in the store stays"
    )


def test_a_database_cut_in_half_is_damage(path):
    size = filled(path)
    os.truncate(path, size // 8192 * 4096)
    with pytest.raises(LedgerDamaged), Ledger(path) as book:
        book.check()
        book.statuses(None)
