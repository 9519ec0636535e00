"""What is known of jobs: what a queue says and what the store holds, put together. The queue's answers are given."""

import time

import pytest
from aging import DAY, age
from queue_support import Given
from stored_support import Lab

from envkit.errors import Conflict, Damaged, Unavailable
from envkit.model.ids import EnvName
from envkit.model.job import Job
from envkit.model.jobid import parse_ids
from envkit.model.order import Kind, Order
from envkit.model.task import State, TaskResult
from envkit.model.version import LayerRef
from envkit.queues.queue import JobUnknown
from envkit.services.jobs import ending, following, forgetting, outcomes, waiting
from envkit.services.jobs.following import Book, Filter, key_of, rows_json
from envkit.services.jobs.ticketing import comment_of, pin, pinned_order, ticket_of, write_ticket
from envkit.store import layout, orders

LAYER = LayerRef(tree="ab" * 32, entries=1, size=1, stored=1)


@pytest.fixture
def queue(monkeypatch):
    given = Given()
    for module in (following, forgetting):
        monkeypatch.setattr(module, "open_queue", lambda _config, _paths: given)
    monkeypatch.setattr(waiting.time, "sleep", lambda _seconds: None)
    return given


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def context(lab):
    return lab.fresh_context()


def order(context, number, *, count=1, array=False, label="", env="sci", version=1, created=None, ticket=True):
    """Store an order, and a ticket that says that a job is this order's."""
    made = Order(
        token=f"{number:032x}",
        owner="root",
        uid=0,
        gid=0,
        env=EnvName(owner="lab", name=env),
        version=version,
        arch="x86_64",
        layers=(LAYER,),
        kind=Kind.COMMAND,
        job=Job(environment=f"lab/{env}@{version}", command=("true",)),
        count=count,
        array=array,
        label=label,
        created=created or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    pin(context, made, orders.put_order(context.store, made))
    if ticket:
        write_ticket(context.store, "root", "given-1", ticket_of(made, number))
    return made


def leave(context, made, index=0, attempt=0, state=State.DONE, code=0, error=""):
    """Leave a result as a task does."""
    result = TaskResult(index=index, attempt=attempt, state=state, code=code, error=error, node="n2")
    orders.put_result(context.store, made, key_of(context, made.token), result)


def states(jobs):
    return [[task.state for task in job.tasks] for job in jobs]


def test_a_result_counts_more_than_what_the_queue_says(context, queue):
    made = order(context, 1)
    leave(context, made, state=State.FAILED, code=125, error="no such layer")
    queue.say(1, State.RUNNING)
    (job,) = Book(context).jobs(parse_ids(["1"]), results=True)
    (task,) = job.tasks
    assert (task.state, task.code, task.error, task.node) == (State.FAILED, 125, "no such layer", "n2")


def test_a_task_that_was_queued_again_is_not_over(context, queue):
    made = order(context, 1)
    leave(context, made)
    queue.say(1, State.QUEUED)
    assert states(Book(context).jobs(parse_ids(["1"]), results=True)) == [[State.QUEUED]]


def test_only_the_last_attempt_counts(context, queue):
    made = order(context, 1)
    leave(context, made, state=State.FAILED, code=1)
    orders.put_part(context.store, made, key_of(context, made.token), 0, 1, "out.000000", b"again")
    queue.say(1, State.RUNNING)
    (job,) = Book(context).jobs(parse_ids(["1"]), results=True)
    assert (job.tasks[0].state, job.tasks[0].attempt) == (State.RUNNING, 1)
    leave(context, made, attempt=1)
    assert states(Book(context).jobs(parse_ids(["1"]), results=True)) == [[State.DONE]]


def test_what_the_queue_has_forgotten_is_lost_unless_it_left_a_result(context, queue):
    made = order(context, 1, count=3, array=True)
    leave(context, made, index=0)
    leave(context, made, index=2, state=State.FAILED, code=3)
    (job,) = Book(context).jobs(parse_ids(["1"]))
    assert states([job]) == [[State.DONE, State.LOST, State.FAILED]]
    assert "without a result" in job.tasks[1].error


def test_a_result_that_somebody_else_wrote_is_not_believed(context, queue):
    made = order(context, 1)
    name = layout.task_key("root", made.token, 0, 0, orders.RESULT)
    forged = TaskResult(index=0, attempt=0, state=State.DONE, code=0)
    orders.put_result(context.store, made, b"x" * 32, forged)
    assert context.store.size(name)
    (job,) = Book(context).jobs(parse_ids(["1"]))
    assert job.tasks[0].state is State.LOST
    assert "was not written by the job" in job.tasks[0].error


def test_an_order_that_was_exchanged_is_not_believed(context, queue):
    made = order(context, 1)
    assert pinned_order(context, "root", made.token) == made
    context.store.delete(layout.order_key("root", made.token))
    orders.put_order(context.store, made.replace(job=Job(environment="lab/sci@1", command=("rm", "-r", "/data"))))
    with pytest.raises(Damaged):
        pinned_order(context, "root", made.token)


def test_a_job_without_a_ticket_is_found_by_its_comment(context, queue):
    made = order(context, 7, ticket=False)
    queue.say(7, State.RUNNING, comment=comment_of(made))
    queue.say(8, State.RUNNING, comment="somebody's own script")
    queue.say(9, State.RUNNING, comment=comment_of(made.replace(owner="alice")))
    assert [job.ticket.number for job in Book(context).recent(Filter())] == [7]
    assert orders.get_ticket(context.store, "root", "given-1", 7).token == made.token
    with pytest.raises(JobUnknown):
        Book(context).jobs(parse_ids(["8"]))


def test_a_number_that_is_given_twice_means_the_later_job(context, queue):
    order(context, 1)
    later = order(context, 2, ticket=False)
    write_ticket(context.store, "root", "given-1", ticket_of(later, 1))
    (job,) = Book(context).jobs(parse_ids(["1"]))
    assert job.ticket.token == later.token


def test_a_number_that_somebody_else_has_now_means_the_job_that_was(context, queue):
    made = order(context, 1)
    leave(context, made)
    queue.say(1, State.RUNNING, user="bob", comment=comment_of(made.replace(owner="bob", token="cd" * 16)))
    (job,) = Book(context).jobs(parse_ids(["1"]))
    assert (states([job]), job.user) == ([[State.DONE]], "")
    assert ending.kill(context, parse_ids(["1"])) == ([], parse_ids(["1"]))
    assert queue.killed == []


def test_a_number_whose_ticket_is_of_an_earlier_job_means_what_the_queue_says(context, queue):
    order(context, 1)
    later = order(context, 2, ticket=False)
    queue.say(1, State.RUNNING, comment=comment_of(later))
    (job,) = Book(context).jobs(parse_ids(["1"]))
    assert (job.ticket.token, states([job])) == (later.token, [[State.RUNNING]])


def test_the_list_shows_what_is_open_and_what_is_young(context, queue):
    long_ago = "2020-01-01T00:00:00Z"
    for number, created in ((1, long_ago), (2, long_ago), (3, None), (4, None)):
        order(context, number, created=created, label=f"run/{number}", env="sci" if number < 4 else "other")
        queue.say(number, State.DONE)
    queue.say(1, State.RUNNING)

    def shown(**wanted):
        return [job.ticket.number for job in Book(context).recent(Filter(**wanted))]

    assert shown() == [4, 3, 1]
    assert shown(recent=False, limit=None) == [4, 3, 2, 1]
    assert shown(recent=False, limit=1) == [4, 1]
    assert shown(label="run/[34]") == [4, 3]
    assert shown(states=frozenset([State.RUNNING])) == [1]
    assert shown(env="lab/sci", recent=False) == [3, 2, 1]
    assert shown(env="lab/sci@2", recent=False) == []
    assert shown(env="lab/other@1") == [4]


def test_one_question_to_the_queue_for_all_jobs(context, queue):
    for number in range(1, 31):
        order(context, number)
        queue.say(number, State.DONE)
    assert len(Book(context).jobs(parse_ids(["1-30"]))) == 30
    assert queue.questions == 1


def test_waiting_ends_with_the_last_task_and_tells_of_every_change(context, queue, monkeypatch):
    made = order(context, 1, count=2, array=True)
    queue.say(1, State.QUEUED, State.QUEUED)
    script = iter(
        [
            lambda: queue.say(1, State.RUNNING, State.QUEUED),
            lambda: (leave(context, made, index=0), queue.say(1, State.DONE, State.RUNNING)),
            lambda: setattr(queue, "failures", 2),
            lambda: None,
            lambda: None,
            lambda: (leave(context, made, index=1, state=State.FAILED, code=2), queue.jobs.clear()),
        ]
    )
    monkeypatch.setattr(waiting.time, "sleep", lambda _seconds: next(script)())
    told = []
    found, in_time = waiting.wait(
        context, parse_ids(["1"]), on_change=lambda _, task: told.append((task.index, task.state))
    )
    assert in_time
    assert states(found) == [[State.DONE, State.FAILED]]
    assert told == [
        (0, State.QUEUED),
        (1, State.QUEUED),
        (0, State.RUNNING),
        (0, State.DONE),
        (1, State.RUNNING),
        (1, State.FAILED),
    ]


def test_waiting_asks_more_and_more_seldom(context, queue, monkeypatch):
    order(context, 1)
    queue.say(1, State.RUNNING)
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 30:
            queue.say(1, State.KILLED)

    monkeypatch.setattr(waiting.time, "sleep", sleep)
    waiting.wait(context, parse_ids(["1"]))
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.1)
    assert pauses[-1] == pytest.approx(2.0)
    assert queue.questions == 31


def test_waiting_ends_when_the_time_is_up(context, queue):
    order(context, 1)
    queue.say(1, State.RUNNING)
    _, in_time = waiting.wait(context, parse_ids(["1"]), timeout=0.0)
    assert not in_time


def test_results_of_what_still_runs_are_refused(context, queue):
    order(context, 1)
    queue.say(1, State.RUNNING)
    with pytest.raises(outcomes.StillRunning):
        outcomes.results(context, parse_ids(["1"]))


def test_a_job_of_somebody_else_is_not_killed_whatever_the_store_says(context, queue, monkeypatch):
    order(context, 1)
    queue.say(1, State.RUNNING, user="bob")
    ending.kill(context, parse_ids(["1"]))  # as root
    monkeypatch.setenv("SUDO_UID", "54321")
    monkeypatch.setenv("SUDO_GID", "54321")
    monkeypatch.setenv("SUDO_USER", "alice")
    made = order(context, 2, ticket=False)
    write_ticket(context.store, "alice", "given-1", ticket_of(made, 1))
    queue.killed.clear()
    with pytest.raises(Unavailable):
        ending.kill(context, parse_ids(["1"]))
    assert queue.killed == []
    queue.say(1, State.RUNNING, user="alice")
    ending.kill(context, parse_ids(["1"]))
    assert queue.killed == parse_ids(["1"])
    with pytest.raises(Unavailable):
        Book(context, owner="root")


def test_what_was_killed_before_it_began_stays_killed_when_the_queue_forgets(context, queue):
    order(context, 1, count=3, array=True)
    queue.say(1, State.KILLED, State.KILLED, State.KILLED)
    begun = queue.jobs[1].tasks[1].replace(began=5.0)  # such a task leaves its own result, or was lost
    queue.jobs[1] = queue.jobs[1].replace(tasks=(queue.jobs[1].tasks[0], begun, queue.jobs[1].tasks[2]))
    assert ending.kill(context, parse_ids(["1_0-1"])) == (parse_ids(["1_0-1"]), [])
    queue.jobs.clear()
    (job,) = Book(context).jobs(parse_ids(["1"]))
    assert states([job]) == [[State.KILLED, State.LOST, State.LOST]]
    assert (job.tasks[0].code, job.tasks[0].began) == (None, 0.0)


def test_a_task_that_was_killed_too_late_keeps_its_own_result(context, queue):
    made = order(context, 1)
    leave(context, made)
    queue.say(1, State.KILLED)
    ending.kill(context, parse_ids(["1"]))
    queue.jobs.clear()
    assert states(Book(context).jobs(parse_ids(["1"]))) == [[State.DONE]]


def test_a_job_that_the_queue_has_lost_is_lost_though_another_one_has_its_number(context, queue):
    made, other = order(context, 1), order(context, 2, ticket=False)
    queue.say(1, State.RUNNING, comment=comment_of(made))
    assert states(Book(context).jobs(parse_ids(["1"]))) == [[State.RUNNING]]
    for comment in (comment_of(other.replace(owner="bob")), "(null)", "of another user"):
        queue.say(1, State.RUNNING, user="bob", comment=comment)
        assert states(Book(context).jobs(parse_ids(["1"]))) == [[State.LOST]]
        assert ending.kill(context, parse_ids(["1"])) == ([], parse_ids(["1"]))
    assert queue.killed == []


def test_rows_say_null_where_nothing_is_known(context, queue):
    order(context, 1, label="a")
    queue.say(1, State.WAITING)
    (row,) = rows_json(Book(context).jobs(parse_ids(["1"])))
    assert row["id"] == "1"
    assert (row["state"], row["label"], row["environment"]) == ("waiting", "a", "lab/sci@1")
    assert all(row[name] is None for name in ("code", "began", "ended", "error", "digest", "parameters"))


# Forgetting


def test_only_old_jobs_that_are_over_are_forgotten(lab, context, queue):
    for number in range(1, 5):
        order(context, number)
    queue.say(2, State.RUNNING)
    queue.say(3, State.QUEUED)
    age(lab.store_path, 31 * DAY)
    order(context, 5)
    leave(context, order(context, 6, ticket=False))
    now = time.time()
    assert forgetting.forget_old(context, now=now, dry_run=True) == 2
    assert len(list(orders.ticket_numbers(context.store, "root", "given-1"))) == 5
    assert forgetting.forget_old(context, now=now) == 2
    assert sorted(orders.ticket_numbers(context.store, "root", "given-1")) == [2, 3, 5]
    left = {int(layout.order_of(key)[1], 16) for key in context.store.list(layout.JOBS)}
    assert left == {2, 3, 5, 6}


def test_a_job_of_another_queue_is_kept_until_its_results_say_that_it_is_over(lab, context, queue):
    made = order(context, 1, ticket=False, count=2, array=True)
    write_ticket(context.store, "root", "slurm-other", ticket_of(made, 1))
    leave(context, made, index=0)
    age(lab.store_path, 31 * DAY)
    assert forgetting.forget_old(context, now=time.time()) == 0
    leave(context, made, index=1)
    age(lab.store_path, 31 * DAY)
    assert forgetting.forget_old(context, now=time.time()) == 1
    assert list(context.store.list(layout.JOBS)) == []


def test_an_order_that_was_never_queued_is_forgotten(lab, context, queue):
    order(context, 1, ticket=False)
    queued = order(context, 2, ticket=False)
    queue.say(2, State.QUEUED, comment=comment_of(queued))
    age(lab.store_path, 31 * DAY)
    assert forgetting.forget_old(context, now=time.time()) == 1
    assert pinned_order(context, "root", queued.token) == queued


def test_a_job_that_nobody_can_know_of_any_more_is_forgotten_in_the_end(lab, context, queue):
    made = order(context, 1, ticket=False)
    write_ticket(context.store, "root", "slurm-other", ticket_of(made, 1))
    age(lab.store_path, 300 * DAY)
    assert forgetting.forget_old(context, now=time.time()) == 0
    age(lab.store_path, 100 * DAY)
    assert forgetting.forget_old(context, now=time.time()) == 1


def test_forgetting_at_once_refuses_what_is_not_over(context, queue):
    order(context, 1)
    order(context, 2)
    queue.say(1, State.DONE)
    queue.say(2, State.RUNNING)
    with pytest.raises(Conflict):
        forgetting.forget(context, parse_ids(["1-2"]))
    assert forgetting.forget(context, parse_ids(["1"])) == [1]
    with pytest.raises(JobUnknown):
        Book(context).jobs(parse_ids(["1"]))


def test_layers_are_needed_until_every_task_has_left_a_result(context, queue):
    made = order(context, 1, count=2, array=True)
    assert forgetting.needed_layers(context.store) == {LAYER.tree}
    leave(context, made, index=0)
    assert forgetting.needed_layers(context.store) == {LAYER.tree}
    leave(context, made, index=1)
    assert forgetting.needed_layers(context.store) == set()
