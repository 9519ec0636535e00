"""The queue of one machine with real processes: scripts are plain shell, as the queue does not know environments.

Every task writes a line when it begins and one when it ends, in one write each; what overlaps in that file overlapped
in truth. A lock for each task tells if it ran twice at the same time.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections import Counter

import pytest
from commandline import PATIENCE, Envkit

from envkit.drivers import libc
from envkit.drivers.files import is_locked, read_text, remove_tree
from envkit.drivers.process import SYSTEM_PATH
from envkit.errors import InvalidInput
from envkit.model.jobid import TaskId
from envkit.model.order import Resources
from envkit.model.paths import Paths
from envkit.model.task import State
from envkit.queues.local import LocalQueue
from envkit.queues.queue import JobOver, JobUnknown, QueueFailed, Submission
from envkit.queues.supervisor import lock_path

SEED = int(os.environ.get("ENVKIT_TEST_SEED", "1"))
ALICE = 54_321

pytestmark = pytest.mark.root


class Bench:
    """A queue in a root of its own, and what its tasks have written."""

    def __init__(self, root, slots):
        self.paths = Paths.at(root)
        self.queue = LocalQueue(self.paths, slots, grace=0.5)
        self.book = f"{root}/book"
        self.hold = f"until test -e {root}/go; do sleep 0.05; done"
        os.makedirs(f"{root}/locks", exist_ok=True)

    def submit(self, work="", *, count=None, uid=0, script=None, **more):
        """Submit a script that does `work` between its two lines; `more` are fields of Submission and of Resources."""
        fields = {name: more.pop(name) for name in ("depends_on", "requeue", "directory") if name in more}
        locks = f"{self.paths.root}/locks/$ENVKIT_JOB.$ENVKIT_TASK_INDEX"
        line = '"$ENVKIT_JOB $ENVKIT_TASK_INDEX $ENVKIT_TASK_ATTEMPT'
        text = f'exec 9>{locks}; flock -n 9 || echo {line} twice" >>{self.book}\n'
        text += f'echo {line} begins" >>{self.book}\n{work}\necho {line} ends" >>{self.book}\n'
        return self.queue.submit(
            Submission(
                script=script or text,
                uid=uid,
                gid=uid,
                name="test",
                comment="of a test",
                count=count,
                resources=Resources(**more),
                **fields,
            )
        )

    def go(self):
        """Let tasks end that wait for it, with `hold`."""
        with open(f"{self.paths.root}/go", "w"):
            pass

    def lines(self, what):
        """Return (job, index, attempt) of all lines that say this, in their order."""
        rows = [line.split() for line in read_text(self.book, 1 << 24).splitlines()]
        return [tuple(map(int, row[:3])) for row in rows if row[3] == what]

    def most_at_once(self):
        """Return how many tasks ran at the same time at most."""
        running = most = 0
        for line in read_text(self.book, 1 << 24).splitlines():
            running += {"begins": 1, "ends": -1}.get(line.split()[3], 0)
            most = max(most, running)
        return most

    def tasks(self, number):
        return self.queue.statuses([number])[number].tasks

    def until(
        self, number, good=lambda tasks: all(task.state.over for task in tasks), *, pause=0.03, patience=PATIENCE
    ):
        """Wait until the tasks of a job are as they should be; return them."""
        deadline = time.monotonic() + patience
        while not good(tasks := self.tasks(number)):
            assert time.monotonic() < deadline, f"{tasks[:20]}\n{read_text(self.paths.runner_log, 4000)}"
            time.sleep(pause)
        return tasks

    def running(self, number):
        """Wait until a job runs, all of it, and its scripts have begun."""
        self.until(number, lambda tasks: all(task.state is State.RUNNING for task in tasks))
        wanted = len(self.tasks(number))
        wait_for(lambda: sum(row[0] == number for row in self.lines("begins")) >= wanted)

    def states(self, number):
        return [task.state for task in self.until(number)]

    def runner(self):
        """Return the pid of the runner that holds the lock; None if there is none that has written its number."""
        text = read_text(self.paths.runner_lock, 20).strip()
        return int(text) if is_locked(self.paths.runner_lock) and text.isdecimal() else None

    def kill_runner(self):
        """SIGKILL for the runner; another one may be there in its place at once."""
        wait_for(self.runner)
        runner = self.runner()
        kill(runner)
        wait_for(lambda: self.runner() != runner)

    def supervisor(self, number, index=0):
        return int(read_text(f"{self.paths.queued(number)}/{index}.lock", 100).split()[0])

    def processes(self):
        """Return all processes that belong to this queue: its path is in their command lines."""
        found = {}
        for name in filter(str.isdecimal, os.listdir("/proc")):
            line = read_text(f"/proc/{name}/cmdline", 4096)
            if self.paths.root in line and int(name) != os.getpid():
                found[int(name)] = line
        return found

    def end(self):
        """End all that is left; nothing may remain."""
        for number, status in self.queue.statuses().items():
            if not all(task.state.over for task in status.tasks):
                self.queue.kill([TaskId(job=number)])
                self.until(number)
        wait_for(lambda: not self.processes(), self.processes)
        assert self.lines("twice") == []
        assert read_text(self.paths.runner_log, 4000) == ""
        assert [name for name in os.listdir(self.paths.queue) if "sqlite" not in name and "runner" not in name] in (
            [],
            ["jobs"],
        )


def wait_for(good, say=lambda: ""):
    deadline = time.monotonic() + PATIENCE
    while not good():
        assert time.monotonic() < deadline, say()
        time.sleep(0.02)


def kill(pid):
    """SIGKILL for one process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bench(disk, request):
    """A function that makes a queue with so many slots; nothing may be left of it."""
    made = []

    def make(slots=2):
        made.append(Bench(f"{disk}/queue-{request.node.name[:40]}-{len(made)}", slots))
        return made[-1]

    yield make
    for one in made:
        one.end()
        remove_tree(one.paths.root)
        for path in (one.paths.run, f"/run/lxc/lock{one.paths.run}"):
            remove_tree(path)


def test_a_script_is_told_its_place_and_its_user_and_how_it_ended(bench):
    bench = bench()
    number = bench.submit(script='env; echo "here: $PWD"; exit 3', uid=ALICE, directory="/usr")
    (task,) = bench.until(number)
    assert (task.state, task.code, task.id) == (State.FAILED, 3, TaskId(job=number))
    assert task.reason == "here: /usr"
    assert 0 < task.began <= task.ended
    log = read_text(f"{bench.paths.queued(number)}/0.log", 10_000).splitlines()
    assert {f"ENVKIT_JOB={number}", "ENVKIT_TASK_INDEX=0", "ENVKIT_TASK_ATTEMPT=0"} <= set(log)
    assert {f"SUDO_UID={ALICE}", f"SUDO_GID={ALICE}", f"SUDO_USER={ALICE}"} <= set(log)
    assert f"ENVKIT_QUEUE={bench.queue.name}" in log and f"PATH={SYSTEM_PATH}" in log
    names = {line.partition("=")[0] for line in log}
    assert names <= {
        "ENVKIT_JOB", "ENVKIT_TASK_INDEX", "ENVKIT_TASK_ATTEMPT", "ENVKIT_QUEUE", "SUDO_UID", "SUDO_GID", "SUDO_USER",
        "PATH", "HOME", "LC_ALL", "TERM", "PWD", "OLDPWD", "SHLVL", "_", "here: /usr",
    }  # fmt: skip
    assert bench.queue.statuses([number])[number].comment == "of a test"


def test_what_a_failing_script_said_last_is_the_reason(bench):
    bench = bench()
    failing = bench.submit(script="echo before; echo 'error: no such version' >&2; echo 'hint: list them'; exit 125")
    lost = bench.submit(script="true", directory="/nonexistent/place")
    signalled = bench.submit(script="kill -9 $$")
    assert bench.until(failing)[0].reason == "no such version"
    assert bench.until(lost)[0].reason == "cannot enter /nonexistent/place: No such file or directory"
    assert [task.code for number in (failing, lost, signalled) for task in bench.until(number)] == [125, 125, 137]


def test_scripts_hold_a_key_so_nobody_else_may_read_them_and_they_go_with_the_job(bench):
    bench = bench()
    number = bench.submit("sleep 100")
    script = f"{bench.paths.queued(number)}/script"
    bench.running(number)
    assert os.stat(script).st_mode & 0o777 == 0o600
    assert os.stat(bench.paths.queue).st_mode & 0o777 == 0o700
    bench.queue.kill([TaskId(job=number)])
    assert bench.states(number) == [State.KILLED]
    wait_for(lambda: not os.path.exists(script))


def test_a_script_that_says_too_much_is_cut_short(bench):
    bench = bench()
    number = bench.submit(script="yes | head -c 3000000; echo; echo the last line; exit 1")
    assert bench.until(number)[0].reason == "the last line"
    assert os.path.getsize(f"{bench.paths.queued(number)}/0.log") == 256 << 10


def test_slots_are_never_exceeded(bench):
    bench = bench(3)
    numbers = [bench.submit("sleep 0.05", count=12), *(bench.submit("sleep 0.05", cpus=2) for _ in range(6))]
    numbers.append(bench.submit("sleep 0.05", cpus=100, tasks=3))
    for number in numbers:
        assert set(bench.states(number)) == {State.DONE}
    held = held_slots(bench, {number: 2 for number in numbers[1:-1]} | {numbers[-1]: 3})
    assert held <= 3


def held_slots(bench, costs):
    held = most = 0
    for line in read_text(bench.book, 1 << 24).splitlines():
        job, _, _, what = line.split()
        held += {"begins": 1, "ends": -1}.get(what, 0) * costs.get(int(job), 1)
        most = max(most, held)
    return most


def test_the_book_shows_more_tasks_at_once_than_there_should_be(bench):
    """Negative control: a queue with too many slots is noticed."""
    bench = bench(4)
    number = bench.submit(f"until test $(grep -c begins {bench.book}) -ge 4; do sleep 0.05; done", count=4)
    bench.until(number)
    assert bench.most_at_once() == 4


def test_the_book_shows_a_task_that_runs_twice_at_once(bench):
    """Negative control: what the runner goes by is taken away, so that it believes the task dead."""
    bench = bench(2)
    number = bench.submit(bench.hold)
    bench.running(number)
    os.unlink(lock_path(bench.paths.queued(number), 0))
    wait_for(lambda: bench.lines("twice") == [(number, 0, 1)])
    bench.go()
    bench.until(number)
    wait_for(lambda: len(bench.lines("ends")) == 2)
    os.unlink(bench.book)


def test_an_array_can_be_told_to_take_less_than_there_is(bench):
    bench = bench(4)
    number = bench.submit("sleep 0.05", count=8, at_once=2)
    assert set(bench.states(number)) == {State.DONE}
    assert bench.most_at_once() <= 2


def test_priority_comes_first_then_the_number(bench):
    bench = bench(1)
    first = bench.submit(bench.hold)
    bench.running(first)
    numbers = [bench.submit(priority=priority) for priority in (None, 5, 0, 9, 5)]
    bench.go()
    for number in numbers:
        assert bench.states(number) == [State.DONE]
    order = [row[0] for row in bench.lines("begins")]
    assert order == [first, numbers[3], numbers[1], numbers[4], numbers[0], numbers[2]]


def test_a_large_job_is_not_overtaken_for_ever(bench):
    bench = bench(2)
    small = bench.submit(bench.hold)
    bench.running(small)
    large, later = bench.submit(cpus=2), bench.submit()
    time.sleep(0.2)
    bench.go()
    bench.until(later)
    assert [row[0] for row in bench.lines("begins")] == [small, large, later]


def test_a_job_waits_for_those_that_it_depends_on(bench):
    bench = bench(4)
    first, second = bench.submit(bench.hold, count=3), bench.submit("sleep 0.2")
    after = bench.submit(depends_on=(first, second))
    waiting = bench.tasks(after)[0]
    assert waiting.state is State.WAITING
    assert waiting.reason in (f"waits for jobs {first}, {second}", f"waits for job {first}")
    bench.go()
    assert bench.states(after) == [State.DONE]
    rows = read_text(bench.book, 1 << 20).splitlines()
    assert max(
        rows.index(row) for row in rows if row.endswith("ends") and not row.startswith(f"{after} ")
    ) < rows.index(f"{after} 0 0 begins")
    assert bench.states(bench.submit(depends_on=(first, after))) == [State.DONE]


def test_a_job_never_begins_if_what_it_depends_on_did_not_end_well(bench):
    bench = bench(4)
    failing = bench.submit('test "$ENVKIT_TASK_INDEX" != 1 || exit 7', count=3)
    after = bench.submit(count=2, depends_on=(failing,))
    last = bench.submit(depends_on=(after,))
    late = bench.submit(depends_on=(failing, failing))
    for number, reason in ((after, f"job {failing}, which it depends on, did not end well: failed"),
                           (last, f"job {after}, which it depends on, did not end well: killed"),
                           (late, f"job {failing}, which it depends on, did not end well: failed")):  # fmt: skip
        assert {(task.state, task.reason) for task in bench.until(number)} == {(State.KILLED, reason)}
    assert {row[0] for row in bench.lines("begins")} == {failing}
    with pytest.raises(JobUnknown, match="there is no job 99 to depend on"):
        bench.submit(depends_on=(99,))


def test_killing_what_waits_and_what_runs(bench):
    bench = bench(2)
    deaf = bench.submit("trap '' TERM; sleep 1000 & while :; do sleep 0.1; done")
    array = bench.submit("sleep 1000", count=5)
    bench.running(deaf)
    bench.until(array, lambda tasks: tasks[0].state is State.RUNNING)
    one, other = TaskId(job=array, index=0), TaskId(job=array, index=3)
    assert bench.queue.kill([one, other]) == []
    bench.until(array, lambda tasks: tasks[0].state is State.KILLED and tasks[1].state is State.RUNNING)
    assert [task.state for task in bench.tasks(array)][2:] == [State.QUEUED, State.KILLED, State.QUEUED]
    assert bench.queue.kill([one, other, TaskId(job=77), TaskId(job=array, index=5)]) == [
        one, other, TaskId(job=77), TaskId(job=array, index=5),
    ]  # fmt: skip
    both = [TaskId(job=array), TaskId(job=deaf)]
    assert bench.queue.kill(both) == [] and bench.queue.kill(both)[1:] == []
    assert set(bench.states(array)) == {State.KILLED}
    assert bench.states(deaf) == [State.KILLED]
    assert bench.queue.kill(both) == both
    assert all(task.code is None for task in bench.tasks(array))


def test_a_task_whose_time_is_over_is_ended_and_all_that_it_started(bench):
    bench = bench(2)
    polite = bench.submit("trap 'exit 5' TERM; while :; do sleep 0.1; done", time=1)
    deaf = bench.submit("trap '' TERM; (set -m; sleep 1000 & wait) & while :; do sleep 0.1; done", time=1)
    for number in (polite, deaf):
        (task,) = bench.until(number)
        assert (task.state, task.reason) == (State.TIMEOUT, "its time, 1 s, was over")
    wait_for(lambda: not bench.processes(), bench.processes)


def test_what_a_script_leaves_in_the_background_goes_with_it(bench):
    bench = bench()
    number = bench.submit("sleep 1000 & echo $! >&2")
    assert bench.states(number) == [State.DONE]
    left = int(read_text(f"{bench.paths.queued(number)}/0.log", 100))
    wait_for(lambda: "sleep" not in read_text(f"/proc/{left}/cmdline", 100))


def test_eight_submitters_at_once(bench, disk):
    bench = bench(2)
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    submitters = [context.Process(target=submit_some, args=(bench.paths.root, results)) for _ in range(8)]
    for process in submitters:
        process.start()
    numbers = [number for _ in submitters for number in results.get()]
    for process in submitters:
        process.join()
        assert process.exitcode == 0
    assert sorted(numbers) == list(range(1, 41))
    for number in numbers:
        assert bench.states(number) == [State.DONE]
    assert sorted(row[0] for row in bench.lines("begins")) == sorted(numbers)


def submit_some(root, results):
    results.put([Bench(root, 2).submit() for _ in range(5)])


def test_an_array_of_two_thousand(bench):
    bench = bench(4)
    count = 2000
    number = bench.submit(script=f'echo "$ENVKIT_TASK_INDEX" >>{bench.paths.root}/ran', count=count)
    tasks = bench.until(number, pause=0.5, patience=5 * PATIENCE)
    assert Counter(task.state for task in tasks) == {State.DONE: count}
    assert [task.id.index for task in tasks] == list(range(count))
    assert sorted(map(int, read_text(f"{bench.paths.root}/ran", 1 << 20).split())) == list(range(count))


def test_an_array_while_the_runner_is_killed_again_and_again(bench):
    bench = bench(8)
    count, chance = 250, random.Random(SEED)
    number = bench.submit("test $((ENVKIT_TASK_INDEX % 100)) -ne 7 || exit 9", count=count)
    killed = 0
    while len(bench.lines("begins")) < count:
        if (runner := bench.runner()) is not None and killed < 20:
            time.sleep(chance.random() * 0.1)
            kill(runner)
            killed += 1
        time.sleep(0.02)
        bench.tasks(number)  # whoever asks starts the next one
    tasks = bench.until(number)
    assert killed >= 5
    assert Counter(task.state for task in tasks) == {State.DONE: count - 3, State.FAILED: 3}
    assert {task.id.index for task in tasks if task.code == 9} == {7, 107, 207}
    begun = [row[1] for row in bench.lines("begins")]
    assert sorted(begun) == list(range(count)), "a task did not run, or ran twice"
    assert bench.most_at_once() <= 8 + 3  # those that fail write no second line


def test_a_runner_that_is_killed_leaves_tasks_alone_and_the_next_one_takes_them_over(bench):
    bench = bench(3)
    number = bench.submit(f"{bench.hold}; exit $ENVKIT_TASK_INDEX", count=3)
    bench.running(number)
    bench.kill_runner()
    bench.go()
    wait_for(lambda: not any(is_locked(lock_path(bench.paths.queued(number), index)) for index in range(3)))
    tasks = bench.until(number)
    assert [(task.state, task.code) for task in tasks] == [(State.DONE, 0), (State.FAILED, 1), (State.FAILED, 2)]
    assert sorted(bench.lines("begins")) == [(number, index, 0) for index in range(3)]


def test_time_and_kills_count_for_tasks_that_were_taken_over(bench):
    bench = bench(2)
    timed, killed = bench.submit("sleep 1000", time=5), bench.submit("sleep 1000")
    bench.running(timed)
    bench.running(killed)
    bench.kill_runner()
    assert bench.queue.kill([TaskId(job=killed)]) == []
    assert (bench.states(killed), bench.states(timed)) == ([State.KILLED], [State.TIMEOUT])


def test_what_dies_with_the_runner_starts_again_or_is_lost(bench):
    bench = bench(3)
    work = f"test -e {bench.paths.root}/go || sleep 1000"
    again, never = bench.submit(work, count=2), bench.submit(work, requeue=False)
    bench.running(again)
    bench.running(never)
    victims = [bench.supervisor(again, 0), bench.supervisor(again, 1), bench.supervisor(never)]
    bench.kill_runner()
    bench.go()
    for pid in victims:
        kill(pid)
    assert bench.states(again) == [State.DONE, State.DONE]
    assert [(task.state, task.reason, task.code) for task in bench.until(never)] == [
        (State.LOST, "its process vanished", None)
    ]
    begun = sorted(bench.lines("begins"))
    assert begun == [(again, 0, 0), (again, 0, 1), (again, 1, 0), (again, 1, 1), (never, 0, 0)]


def test_a_machine_that_goes_down_kills_no_job(bench):
    """It asks every process to end, and nobody has asked the queue for that."""
    bench = bench(2)
    number = bench.submit(f"test -e {bench.paths.root}/go || sleep 1000", count=2)
    bench.running(number)
    bench.go()
    for pid in sorted(bench.processes(), key=lambda pid: pid != bench.runner()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    assert bench.states(number) == [State.DONE, State.DONE]
    assert sorted(bench.lines("begins")) == [(number, index, attempt) for index in (0, 1) for attempt in (0, 1)]


def test_containers_without_anybody_are_looked_for_before_a_killed_task_is_over(bench):
    bench = bench(1)
    left = f"{bench.paths.runs}/0123456789"
    number = bench.submit("trap '' TERM; while :; do sleep 0.1; done")
    bench.running(number)
    os.makedirs(left)
    bench.queue.kill([TaskId(job=number)])
    assert bench.states(number) == [State.KILLED]
    assert not os.path.exists(left)


def test_a_task_that_always_takes_its_process_down_is_given_up(bench):
    bench = bench(1)
    number = bench.submit(script="kill -9 $PPID; sleep 1000")
    (task,) = bench.until(number)
    assert (task.state, task.reason) == (State.LOST, "its process vanished 6 times")


def test_tasks_and_runner_killed_in_any_order_are_never_there_twice(bench):
    """Supervisors and the runner die at random moments; what was acknowledged ends, and nothing runs twice at once."""
    bench = bench(4)
    chance = random.Random(SEED)
    number = bench.submit("sleep 0.1", count=60)
    for _ in range(40):
        time.sleep(0.05 + chance.random() * 0.05)
        others = [pid for pid in bench.processes() if pid != bench.runner()]
        if (runner := bench.runner()) is not None and chance.random() < 0.3:
            kill(runner)
        if others and chance.random() < 0.5:
            kill(chance.choice(others))
        bench.tasks(number)
    states = Counter(bench.states(number))
    assert set(states) <= {State.DONE, State.FAILED, State.LOST}
    assert {row[1] for row in bench.lines("ends")} == {
        task.id.index for task in bench.tasks(number) if task.state is State.DONE
    }


def test_a_full_disk(bench):
    """It says so, still answers, and goes on by itself when there is room again."""
    bench = bench(1)
    root = f"{bench.paths.root}/small"
    os.mkdir(root)
    libc.mount("tmpfs", root, "tmpfs", 0, "size=1m")
    try:
        small = Bench(root, 1)
        number = small.submit(f"{bench.hold}; exit 4")
        small.running(number)
        with open(f"{root}/filling", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        with pytest.raises(Exception, match="no space left"):
            small.submit()
        assert [task.state for task in small.tasks(number)] == [State.RUNNING]
        bench.go()
        time.sleep(0.5)
        assert [task.state for task in small.tasks(number)] == [State.RUNNING]
        os.unlink(f"{root}/filling")
        (task,) = small.until(number)
        assert (task.state, task.code) == (State.FAILED, 4)
        assert small.submit() == number + 1
        assert small.states(number + 1) == [State.DONE]
        wait_for(lambda: not small.processes(), small.processes)
    finally:
        libc.umount(root, libc.MNT_DETACH)


def test_a_damaged_ledger_is_told_in_one_line(bench):
    bench = bench(2)
    bench.until(bench.submit())
    wait_for(lambda: not bench.processes())
    os.rename(bench.paths.ledger, f"{bench.paths.root}/good")
    with open(bench.paths.ledger, "w") as file:
        file.write("this is no database\n" * 1000)
    for verb in (bench.submit, bench.queue.statuses, lambda: bench.queue.kill([TaskId(job=1)]), bench.queue.serve):
        with pytest.raises(
            QueueFailed, match=f"^the memory of this machine's queue, {bench.paths.ledger}, is damaged$"
        ):
            verb()
    assert not bench.processes()
    os.rename(f"{bench.paths.root}/good", bench.paths.ledger)


def test_a_new_ledger_is_a_new_queue_whatever_still_runs_of_the_old_one(bench):
    bench = bench(1)
    number = bench.submit(f"{bench.hold}; exit 9")
    bench.running(number)
    name, old = bench.queue.name, bench.supervisor(number)
    os.rename(bench.paths.ledger, f"{bench.paths.root}/old")
    wait_for(lambda: bench.runner() is None)
    assert "was taken away" in read_text(bench.paths.runner_log, 4000)
    os.truncate(bench.paths.runner_log, 0)
    assert bench.queue.name != name
    assert bench.submit(script="sleep 1") == number
    bench.go()
    wait_for(lambda: not os.path.exists(f"/proc/{old}"))
    assert [(task.state, task.code) for task in bench.until(number)] == [(State.DONE, 0)]


def test_a_ledger_of_another_release_is_left_alone(bench):
    import sqlite3

    bench = bench()
    bench.until(bench.submit())
    wait_for(lambda: not bench.processes())
    for version, problem in ((2, "is of another release of envkit"), (1, None)):
        with contextlib.closing(sqlite3.connect(bench.paths.ledger)) as db:
            db.execute(f"PRAGMA user_version = {version}")
        if problem is not None:
            with pytest.raises(QueueFailed, match=problem):
                bench.queue.statuses()
    assert list(bench.queue.statuses()) == [1]


def test_what_this_machine_cannot_do_is_refused_at_once(bench):
    bench = bench()
    for asked, message in (
        ({"memory": 1 << 60}, "bytes of memory would never begin: this machine has"),
        ({"gpus": 1000}, "a job for 1,000 GPUs would never begin: this machine has [0-9]+$"),
        ({"nodes": 2}, "a job for 2 nodes cannot run on this machine by itself"),
    ):
        with pytest.raises(InvalidInput, match=message):
            bench.submit(**asked)
    assert bench.queue.statuses() == {}


def test_memory_that_is_asked_for_is_not_given_twice(bench):
    bench = bench(4)
    (node,) = bench.queue.nodes()
    number = bench.submit("sleep 0.1", count=4, memory=node.memory // 2 + 1)
    assert set(bench.states(number)) == {State.DONE}
    assert bench.most_at_once() == 1


def test_commands_beside_a_task_are_run_where_it_runs(bench):
    bench = bench(1)
    number, waiting = bench.submit("sleep 1000"), bench.submit()
    bench.running(number)
    assert bench.queue.inside(TaskId(job=number), ["ps", "x"], terminal=False) == ["ps", "x"]
    with pytest.raises(JobOver, match=f"job {waiting} does not run: it is queued"):
        bench.queue.inside(TaskId(job=waiting), ["ps"], terminal=True)
    with pytest.raises(JobUnknown):
        bench.queue.inside(TaskId(job=number, index=1), ["ps"], terminal=True)


def test_this_machine_is_the_only_node(bench):
    (node,) = bench().queue.nodes()
    assert (node.name, node.arch, node.up) == (os.uname().nodename, os.uname().machine, True)
    assert node.cpus == len(os.sched_getaffinity(0)) and node.memory > 1 << 28
    assert node.features == tuple(sorted(set(node.features)))


def test_no_two_roots_are_the_same_queue(bench):
    first, second = bench(), bench()
    assert first.queue.name != second.queue.name
    assert first.queue.name == first.queue.name
    assert first.queue.name.startswith("local-") and len(first.queue.name) == 14


def test_the_runner_leaves_the_session_of_who_started_it_and_ends_when_there_is_nothing_to_do(bench):
    bench = bench()
    number = bench.submit("sleep 1000")
    bench.running(number)
    runner, task = bench.runner(), bench.supervisor(number)
    assert os.getsid(runner) == runner != os.getsid(0) and os.getsid(task) == task
    assert os.readlink(f"/proc/{runner}/fd/0") == os.readlink(f"/proc/{runner}/fd/1") == "/dev/null"
    bench.queue.kill([TaskId(job=number)])
    wait_for(lambda: not bench.processes(), bench.processes)


def test_serving_in_the_foreground(bench):
    """It stays when there is nothing to do, SIGTERM ends it, and what runs then goes on."""
    bench = bench(1)
    envkit = Envkit(bench.paths.root)
    settings = {"ENVKIT_QUEUE_KIND": "local", "ENVKIT_SLOTS": "1"}
    server = subprocess.Popen(envkit.argv("queue", "serve"), env=envkit.environment(more=settings))
    wait_for(lambda: bench.runner() == server.pid)
    assert bench.states(bench.submit()) == [State.DONE]
    number = bench.submit(bench.hold)
    bench.running(number)
    assert bench.runner() == server.pid
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE) == 0
    bench.go()
    assert bench.states(number) == [State.DONE]
    assert bench.lines("begins")[-1] == (number, 0, 0)
