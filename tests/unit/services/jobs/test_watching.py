"""What one client hears of its jobs. The queue's answers are given, the store is a real one."""

import pytest
from queue_support import Given
from stored_support import Lab

from envkit.model.ids import EnvName
from envkit.model.job import Job
from envkit.model.order import Kind, Order
from envkit.model.task import State, TaskResult
from envkit.model.version import LayerRef
from envkit.services.jobs import following
from envkit.services.jobs.following import key_of
from envkit.services.jobs.ticketing import pin, ticket_of, write_ticket
from envkit.services.jobs.watching import FIRST_PAUSE, INLINE, Watch
from envkit.store import layout, orders

LAYER = LayerRef(tree="ab" * 32, entries=1, size=1, stored=1)


@pytest.fixture
def queue(monkeypatch):
    given = Given()
    monkeypatch.setattr(following, "open_queue", lambda _config, _paths: given)
    return given


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def context(lab):
    return lab.fresh_context()


@pytest.fixture
def made(context, queue):
    """A function that stores an order and the ticket of its job."""

    def make(number, count=1):
        order = Order(
            token=f"{number:032x}",
            owner="root",
            uid=0,
            gid=0,
            env=EnvName(owner="lab", name="sci"),
            version=1,
            arch="x86_64",
            layers=(LAYER,),
            kind=Kind.COMMAND,
            job=Job(environment="lab/sci@1", command=("true",)),
            count=count,
            array=count > 1,
        )
        pin(context, order, orders.put_order(context.store, order))
        write_ticket(context.store, "root", queue.name, ticket_of(order, number))
        return order

    return make


def leave(context, order, index=0, *, value=None, err=b"", state=State.DONE, code=0):
    """Leave what a task leaves."""
    key = key_of(context, order.token)
    if value is not None:
        orders.put_part(context.store, order, key, index, 0, orders.VALUE, value)
    if err:
        orders.put_part(context.store, order, key, index, 0, "err.000000", err)
    result = TaskResult(index=index, attempt=0, state=state, code=code, value=value is not None)
    orders.put_result(context.store, order, key, result)


def told(events):
    return [(event.row["index"], event.row["state"]) for event in events]


def test_every_change_is_told_once(context, queue, made):
    order = made(1, count=2)
    queue.say(1, State.QUEUED, State.QUEUED)
    watch = Watch(context)
    assert list(watch.add(1)) == []
    assert told(watch.look()) == [(0, "queued"), (1, "queued")]
    assert told(watch.look()) == []
    queue.say(1, State.RUNNING, State.QUEUED)
    assert told(watch.look()) == [(0, "running")]
    leave(context, order, 0, value=b"one")
    queue.say(1, State.DONE, State.RUNNING)
    first, second = watch.look()
    assert (first.row["state"], second.row["state"]) == ("running", "done")
    assert (second.row["value"], second.row["sent"], second.data) == (True, 3, b"one")
    assert not watch.idle
    leave(context, order, 1, value=b"two")
    queue.say(1, State.DONE, State.DONE)
    (event,) = watch.look()
    assert (event.row["index"], event.data) == (1, b"two")
    assert watch.idle
    assert list(watch.look()) == []


def test_a_large_value_is_only_announced(context, queue, made):
    order = made(1)
    queue.say(1, State.DONE)
    leave(context, order, value=bytes(INLINE + 1))
    watch = Watch(context)
    list(watch.add(1))
    (event,) = watch.look()
    assert (event.row["value"], event.data) == (True, None)
    assert "sent" not in event.row


def test_the_last_words_of_what_left_no_value(context, queue, made):
    order = made(1)
    queue.say(1, State.FAILED)
    leave(context, order, err=b"x" * 10_000 + b"the end\n", state=State.FAILED, code=3)
    watch = Watch(context)
    list(watch.add(1))
    (event,) = watch.look()
    assert (event.row["value"], event.row["code"]) == (False, 3)
    assert event.row["stderr"].endswith("xthe end\n")
    assert len(event.row["stderr"]) == 4096


@pytest.mark.parametrize("part", [orders.VALUE, "err.000000"])
def test_what_somebody_else_wrote_is_of_that_task_alone(context, queue, made, lab, part):
    order = made(1, count=2)
    queue.say(1, State.FAILED, State.FAILED)
    for index in range(2):
        value = b"value" if part == orders.VALUE else None
        leave(context, order, index, value=value, err=b"err", state=State.FAILED, code=1)
    path = f"{lab.store_path}/{layout.task_key('root', order.token, 0, 0, part)}"
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(b"!") if part == orders.VALUE else file.truncate(34)
    watch = Watch(context)
    list(watch.add(1))
    bad, good = watch.look()
    assert (bad.row["index"], bad.row["value"], bad.data) == (0, False, None)
    assert "was not written by the job" in bad.row["error"]
    assert good.row["index"] == 1
    assert good.data == (b"value" if part == orders.VALUE else None)


def test_a_job_that_there_is_none_of(context, queue):
    watch = Watch(context)
    (event,) = watch.add(5)
    assert (event.row["job"], event.row["index"], event.row["state"]) == (5, None, "lost")
    assert watch.idle


def test_it_looks_more_and_more_seldom(context, queue, made):
    made(1)
    queue.say(1, State.RUNNING)
    watch = Watch(context)
    list(watch.add(1))
    list(watch.look())
    assert watch.pause == FIRST_PAUSE
    pauses = []
    for _ in range(30):
        assert list(watch.look()) == []
        pauses.append(watch.pause)
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
    made(2, count=300)
    queue.say(2, *[State.QUEUED] * 300)
    list(watch.add(2))
    assert watch.pause == FIRST_PAUSE
    list(watch.look())
    assert watch.pause == pytest.approx(3.01)
