"""Submitting, and submitting again, into a queue that runs nothing."""

import hashlib

import pytest
from queue_support import Given
from stored_support import Lab

from envkit.errors import Conflict, Damaged, InvalidInput, NotFound, Unavailable
from envkit.model.job import Job
from envkit.model.jobid import TaskId
from envkit.model.order import TASK_NUMBER, Input, Kind, Resources
from envkit.model.task import NodeFacts, State, TaskResult
from envkit.queues.queue import QueueFailed
from envkit.services.jobs import following, rerunning, submitting
from envkit.services.jobs.following import key_of
from envkit.services.jobs.rerunning import rerun
from envkit.services.jobs.submitting import Request, submit
from envkit.services.jobs.ticketing import KEEPER, pin, pinned_order, ticket_of, write_ticket
from envkit.store import layout, orders


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def context(lab):
    return lab.fresh_context()


@pytest.fixture
def queue(monkeypatch):
    given = Given()
    for module in (following, rerunning, submitting):
        monkeypatch.setattr(module, "open_queue", lambda _config, _paths: given)
    return given


@pytest.fixture
def sci(lab):
    return lab.save("sci", {"a": b"a"})


def request(*command, **fields):
    return Request(job=Job(environment="sci", command=command or ("true",)), **fields)


def order_of(context, done):
    return pinned_order(context, "root", done.token)


def leave(context, order, index, state, code=0):
    result = TaskResult(index=index, attempt=0, state=state, code=code)
    orders.put_result(context.store, order, key_of(context, order.token), result)


def test_a_submission_pins_what_the_name_means_now(lab, context, queue, sci):
    done = submit(
        context, request("solve", "{x}", names=("x",), rows=(("1",), ("2",)), count=2, array=True, label="a/b")
    )
    lab.save("sci", {"b": b"b"}, below=sci)
    order = order_of(context, done)
    assert (order.reference, order.layers) == ("lab/sci@1", sci.layers)
    assert (done.number, done.reference, done.count) == (101, "lab/sci@1", 2)
    (told,) = queue.submitted
    assert (told.count, told.name, told.uid) == (2, "a/b", 0)
    assert order.token in told.comment and "lab/sci@1" in told.comment and done.digest in told.comment
    assert f"task root {order.token}" in told.script and key_of(context, order.token).hex() in told.script
    assert orders.get_ticket(context.store, "root", queue.name, 101).command == "solve {x}"


def test_nothing_is_left_of_a_submission_that_the_queue_refuses(context, queue, sci):
    def refuse(_submission):
        raise QueueFailed("no")

    queue.submit = refuse
    with pytest.raises(QueueFailed):
        submit(context, request(script=b"#!/bin/sh\n"))
    assert list(context.store.list(layout.JOBS)) == []


@pytest.mark.parametrize(
    ("node", "resources", "text"),
    [
        ({"arch": "riscv128"}, {}, "riscv128"),
        ({"cpus": 4}, {"cpus": 5}, "5 CPUs"),
        ({"cpus": 4, "memory": 1 << 30}, {"memory": 2 << 30}, "bytes of memory"),
        ({"cpus": 4}, {"gpus": 1}, "1 GPUs"),
    ],
)
def test_what_no_node_has_is_refused(context, queue, sci, node, resources, text):
    queue.machines = [NodeFacts(name="n1", **node)]
    with pytest.raises(Unavailable) as refused:
        submit(context, request(resources=Resources(**resources)))
    assert text in str(refused.value) + str(refused.value.resolution)
    queue.machines = [NodeFacts(name="n2", arch="x86_64", cpus=64, memory=1 << 40, gpus=8), *queue.machines]
    submit(context, request(resources=Resources(**resources)))


def test_several_processes_need_slurm_unless_a_script_starts_them(context, queue, sci):
    with pytest.raises(InvalidInput):
        submit(context, request(resources=Resources(tasks=2)))
    submit(context, request("solve.sh", script=b"#!/bin/sh\n", resources=Resources(tasks=2)))
    queue.name = "slurm-lab"
    submit(context, request(resources=Resources(tasks=2)))


def test_a_job_is_not_made_to_wait_for_what_is_over(context, queue, sci):
    first, second = (submit(context, request()) for _ in range(2))
    queue.say(first.number, State.RUNNING)
    leave(context, order_of(context, second), 0, State.DONE)
    done = submit(context, request(depends_on=(first.number, second.number)))
    assert queue.submitted[-1].depends_on == (first.number,)
    assert order_of(context, done).depends_on == (first.number,)
    leave(context, order_of(context, first), 0, State.FAILED, code=1)
    queue.jobs.clear()
    with pytest.raises(Conflict):
        submit(context, request(depends_on=(first.number,)))


def test_a_whole_job_runs_again_as_it_was(lab, context, queue, sci):
    done = submit(context, request("solve", "x", label="night", resources=Resources(cpus=2)))
    lab.delete(sci)
    again, order = rerun(context, TaskId(job=done.number))
    before = order_of(context, done)
    assert order_of(context, again) == order
    assert order == before.replace(token=again.token, created=order.created)
    assert again.token != done.token


def test_failed_tasks_keep_their_numbers_and_values(context, queue, sci):
    rows = tuple((str(10 * index),) for index in range(4))
    done = submit(context, request("solve", "{x}", names=("x",), rows=rows, count=4, array=True))
    order = order_of(context, done)
    for index, state in enumerate((State.DONE, State.FAILED, State.DONE, State.TIMEOUT)):
        leave(context, order, index, state, code=0 if state is State.DONE else 1)
    again, order = rerun(context, TaskId(job=done.number), failed=True)
    assert [order.parameters(index) for index in range(order.count)] == [
        {"x": "10", TASK_NUMBER: "1"},
        {"x": "30", TASK_NUMBER: "3"},
    ]
    once_more, order = rerun(context, TaskId(job=again.number, index=1))
    assert order.parameters(0) == {"x": "30", TASK_NUMBER: "3"}
    assert order.array
    queue.say(once_more.number, State.RUNNING)
    with pytest.raises(NotFound):
        rerun(context, TaskId(job=once_more.number), failed=True)


def test_the_parts_of_a_call_follow_their_tasks(context, queue, sci):
    parts = [b"function", b"zero", b"", b"two"]
    data = b"".join(parts)
    given = Input(
        digest=hashlib.sha256(data).hexdigest(),
        size=len(data),
        offsets=(8, 12, 12),
        digests=tuple(hashlib.sha256(part).hexdigest() for part in parts),
    )
    template = order_of(context, submit(context, request()))
    order = template.replace(token="ab" * 16, kind=Kind.CALL, count=3, array=True, input=given)
    orders.put_input(context.store, "root", order.token, [data], given.digest)
    pin(context, order, orders.put_order(context.store, order))
    write_ticket(context.store, "root", queue.name, ticket_of(order, 7))
    leave(context, order, 0, State.DONE)
    _, again = rerun(context, TaskId(job=7), failed=True)
    assert again.count == 2
    key = layout.input_key("root", again.token, again.input.digest)
    places = [again.input.part(number) for number in range(3)]
    stored = [context.store.get_range(key, start, length) for start, length, _ in places]
    assert stored == [b"function", b"", b"two"]
    assert [hashlib.sha256(part).hexdigest() for part in stored] == [digest for _, _, digest in places]
    whole = orders.get_input(context.store, again, again.input, limit=100)
    assert whole == b"functiontwo"
    _, same = rerun(context, TaskId(job=7))
    assert same.input == given
    key = layout.input_key("root", order.token, given.digest)
    context.store.delete(key)
    context.store.put_if_absent(key, data.replace(b"two", b"TWO"))
    with pytest.raises(Damaged):
        rerun(context, TaskId(job=7))


def test_an_interactive_job_cannot_run_again(context, queue, sci):
    done = submit(context, request(KEEPER, "a b", script=b"#!/bin/sh\n"))
    assert orders.get_ticket(context.store, "root", queue.name, done.number).command == f"{KEEPER} 'a b'"
    with pytest.raises(InvalidInput):
        rerun(context, TaskId(job=done.number))


def test_a_job_that_is_forgotten_cannot_run_again(context, queue, sci):
    done = submit(context, request())
    orders.forget(context.store, "root", done.token)
    with pytest.raises(NotFound):
        rerun(context, TaskId(job=done.number))
