"""Slurm as a queue, on a real cluster: what is submitted to it, what it says of it, and what it says when it cannot."""

import os
import subprocess

import pytest
from slurm_support import NODES, until

from envkit.config.model import Config
from envkit.drivers import slurm
from envkit.drivers.slurm import SlurmSilent
from envkit.errors import InvalidInput
from envkit.model.jobid import TaskId
from envkit.model.order import Resources
from envkit.model.paths import Paths
from envkit.model.task import State
from envkit.queues.choose import has_slurm, open_queue
from envkit.queues.queue import JobOver, JobUnknown, QueueFailed, Submission
from envkit.queues.slurm import SlurmQueue

pytestmark = pytest.mark.root
ALICE, BOB = 54_321, 54_322
FOREVER = "#!/bin/sh\nexec sleep 1000\n"


@pytest.fixture
def queue(cluster, monkeypatch):
    """Slurm, as this process reaches it."""
    monkeypatch.setenv("SLURM_CONF", cluster.conf)
    return SlurmQueue()


@pytest.fixture
def impatient(cluster, queue, monkeypatch):
    """Have Slurm's programs give up on the head sooner than after ten seconds."""
    path = f"{cluster.directory}/impatient.conf"
    with open(cluster.conf, encoding="utf-8") as conf, open(path, "w", encoding="utf-8") as copy:
        copy.write(f"{conf.read()}MessageTimeout=2\n")
    monkeypatch.setenv("SLURM_CONF", path)


def submission(script="#!/bin/sh\ntrue\n", *, uid=ALICE, comment="envkit alice 0123", resources=None, **fields):
    fields = {"name": "sci", "count": None} | fields
    return Submission(script=script, uid=uid, gid=uid, comment=comment, resources=resources or Resources(), **fields)


def task(queue, number, index=0):
    status = queue.statuses([number])[number]
    return next(one for one in status.tasks if (one.id.index or 0) == index)


def over(queue, number):
    """The tasks of a job, all of them over."""

    def found():
        tasks = queue.statuses([number])[number].tasks
        return tasks if all(one.state.over for one in tasks) else None

    return until(found, f"job {number} to be over")


def running(queue, number, index=0):
    until(lambda: task(queue, number, index).state is State.RUNNING, f"job {number} to run")
    return number


def test_a_machine_with_slurm_uses_it(queue, monkeypatch):
    paths = Paths.at("/nowhere")
    assert queue.name == "slurm-envkit"
    assert has_slurm()
    assert isinstance(open_queue(Config(), paths), SlurmQueue)
    assert not isinstance(open_queue(Config(queue="local"), paths), SlurmQueue)
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    assert not has_slurm()
    assert not isinstance(open_queue(Config(), paths), SlurmQueue)


def test_a_job_runs_as_its_user_and_knows_nothing_of_who_submitted_it(cluster, queue, monkeypatch):
    monkeypatch.setenv("LEAKED", "secret")
    monkeypatch.setenv("SBATCH_PARTITION", "nope")
    home = f"{cluster.directory}/home/alice"
    script = "#!/bin/sh\nid -u; pwd; env\n"
    number = queue.submit(submission(script, resources=Resources(extra=(f"--output={home}/told-%j",))))
    (ended,) = over(queue, number)
    assert (ended.state, ended.code, str(ended.id)) == (State.DONE, 0, str(number))
    assert ended.node in NODES and 0 < ended.began <= ended.ended
    text = cluster.run("cat", f"{home}/told-{number}").stdout
    assert text.startswith(f"{ALICE}\n/\n")
    assert "secret" not in text and "SLURM_CLUSTER_NAME=envkit" in text
    status = queue.statuses([number])[number]
    assert (status.comment, status.user) == ("envkit alice 0123", str(ALICE))


def test_relative_names_of_files_are_those_of_the_submitter(cluster, queue, monkeypatch):
    home = f"{cluster.directory}/home/alice"
    monkeypatch.chdir(home)
    number = queue.submit(submission("#!/bin/sh\necho said\n", resources=Resources(extra=("-o", "relative"))))
    over(queue, number)
    assert cluster.run("cat", f"{home}/relative").stdout == "said\n"


def test_each_task_of_an_array_has_a_state_and_a_code_of_its_own(queue):
    script = '#!/bin/sh\ncase "$SLURM_ARRAY_TASK_ID" in 3) exit 7;; 4) kill -9 $$;; 5) exec sleep 1000;; esac\n'
    number = queue.submit(submission(script, count=20, resources=Resources(at_once=6)))
    assert len(queue.statuses([number])[number].tasks) == 20  # also those that wait in one line of Slurm's
    until(lambda: sum(one.state.over for one in queue.statuses([number])[number].tasks) == 19, "all tasks but one")
    tasks = queue.statuses([number])[number].tasks
    assert [str(one.id) for one in tasks] == [f"{number}_{index}" for index in range(20)]
    expected = {3: (State.FAILED, 7), 4: (State.FAILED, 137), 5: (State.RUNNING, None)}
    assert {one.id.index: (one.state, one.code) for one in tasks} == {
        index: expected.get(index, (State.DONE, 0)) for index in range(20)
    }
    assert queue.kill([TaskId(job=number, index=5), TaskId(job=number, index=3), TaskId(job=number, index=99)]) == [
        TaskId(job=number, index=3),
        TaskId(job=number, index=99),
    ]
    assert until(lambda: task(queue, number, 5).state.over, "the task to end")
    assert (task(queue, number, 5).state, task(queue, number, 5).code) == (State.KILLED, None)


def test_jobs_and_tasks_are_ended_before_and_while_they_run(cluster, queue):
    first = running(queue, queue.submit(submission(FOREVER)))
    held = queue.submit(submission(FOREVER, count=4, resources=Resources(extra=("--hold",))))
    assert {one.state for one in queue.statuses([held])[held].tasks} == {State.WAITING}
    assert task(queue, held).reason == "held"
    unknown = TaskId(job=2_000_000)
    names = [TaskId(job=first, index=0), TaskId(job=held, index=2), unknown]
    assert queue.kill(names) == [unknown]
    assert over(queue, first)[0].state is State.KILLED
    states = {one.id.index: one.state for one in queue.statuses([held])[held].tasks}
    assert states == {index: State.KILLED if index == 2 else State.WAITING for index in range(4)}
    assert queue.kill([TaskId(job=held)]) == []
    assert {one.state for one in over(queue, held)} == {State.KILLED}
    assert queue.kill([TaskId(job=held), unknown]) == [TaskId(job=held), unknown]


def test_what_depends_on_a_failed_job_does_not_wait_for_ever(queue):
    gate = queue.submit(submission("#!/bin/sh\nsleep 1; exit 1\n"))
    follower = queue.submit(submission(count=2, depends_on=(gate,)))
    last = queue.submit(submission(depends_on=(follower,)))
    until(lambda: {one.state for one in queue.statuses([follower])[follower].tasks} == {State.WAITING}, "it to wait")
    assert over(queue, gate)[0].state is State.FAILED
    for number in (follower, last):
        assert {(one.state, one.reason, one.began) for one in over(queue, number)} == {
            (State.KILLED, "a job that it depends on did not end well", 0.0)
        }


def test_nodes_that_fail(cluster, queue):
    """One job is lost, the other one goes back into the queue; it would start again after the credential's life."""
    where = Resources(extra=("--nodelist=n2",))
    lost = running(queue, queue.submit(submission(FOREVER, resources=where, requeue=False)))
    again = running(queue, queue.submit(submission(FOREVER, resources=where)))
    cluster.fail("n2")
    (ended,) = over(queue, lost)
    assert (ended.state, ended.reason, ended.node, ended.code) == (State.LOST, "its node failed", "n2", None)
    assert until(lambda: task(queue, again).state is State.QUEUED, "the other one to be queued again")
    assert task(queue, again).began == 0.0
    assert not next(node for node in queue.nodes() if node.name == "n2").up


def test_what_others_write_into_their_jobs_confuses_nothing(queue):
    mine = queue.submit(submission(resources=Resources(extra=("--hold",))))
    forged = f"envkit nobody 0123\n{mine}|N/A|{mine}|COMPLETED|None|{ALICE}|n1|1|1|0|envkit alice 0123"
    other = queue.submit(submission(uid=0, comment=forged, name="a b\n|x=1 JobState=FAILED"))
    over(queue, other)
    assert task(queue, mine).state is State.WAITING
    assert queue.statuses([other])[other].comment == "of another user"
    plain = queue.submit(submission(comment="", resources=Resources(extra=("--hold",))))
    everything = queue.statuses()
    assert mine in everything and plain not in everything
    assert queue.statuses([2_000_000]) == queue.statuses([]) == {}


@pytest.mark.parametrize(
    ("resources", "text", "hint"),
    [
        (Resources(partition="nope"), "Invalid partition name specified", "sinfo"),
        (Resources(memory=1 << 45), "node configuration is not available", "sinfo"),
        (Resources(gpus=9), "node configuration is not available", "sinfo"),
        (Resources(extra=("--constraint=nope",)), "Invalid feature specification", "sinfo"),
        (Resources(extra=("--nosuch",)), "unrecognized option", "man sbatch"),
    ],
)
def test_what_slurm_refuses_is_one_line(queue, resources, text, hint):
    with pytest.raises(QueueFailed, match=f"Slurm refuses the job: .*{text}") as caught:
        queue.submit(submission(resources=resources))
    assert hint in caught.value.resolution


def test_what_cannot_be_submitted_is_not_tried(queue):
    with pytest.raises(InvalidInput, match="at most 10,001 tasks, not 10,002"):
        queue.submit(submission(count=10_002))
    with pytest.raises(InvalidInput, match="cannot be combined"):
        queue.submit(submission(depends_on=(7,), resources=Resources(extra=("-dafterany:8",))))


def test_nodes_are_told(cluster, queue):
    cluster.run("scontrol", "update", "NodeName=n3", "AvailableFeatures=avx2,fma")
    try:
        nodes = {node.name: node for node in queue.nodes()}
    finally:
        cluster.run("scontrol", "update", "NodeName=n3", "AvailableFeatures=", "ActiveFeatures=")
    assert list(nodes) == list(NODES)
    third = nodes["n3"]
    assert (third.arch, third.cpus, third.memory, third.gpus) == (os.uname().machine, 4, 4 << 30, 2)
    assert (third.features, third.partitions, third.up) == (("avx2", "fma"), ("main",), True)
    assert nodes["n1"].features == ()


def test_a_command_joins_a_running_task_as_its_user(queue):
    number = queue.submit(submission(FOREVER, count=2, resources=Resources(extra=("--nodelist=n2",))))
    running(queue, number, 1)
    argv = queue.inside(
        TaskId(job=number, index=1),
        ["/bin/sh", "-c", 'id -u; hostname; echo "$SLURM_JOB_ID $LEAKED"; exit 5'],
        terminal=False,
    )
    done = subprocess.run(argv, env={"LEAKED": "secret"}, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    raw = next(row.raw for row in slurm.jobs([number]) if row.indexes == "1")
    assert (done.returncode, done.stdout) == (5, f"{ALICE}\nn2\n{raw} \n"), done.stderr
    queue.kill([TaskId(job=number)])
    over(queue, number)
    with pytest.raises(JobOver, match="does not run: it is killed"):
        queue.inside(TaskId(job=number, index=1), ["true"], terminal=False)
    with pytest.raises(JobUnknown):
        queue.inside(TaskId(job=2_000_000), ["true"], terminal=False)


def test_a_head_that_is_down_is_told_and_comes_back(cluster, queue, impatient):
    number = running(queue, queue.submit(submission(FOREVER)))
    cluster.stop_controller()
    unknown = SlurmQueue()
    try:
        for ask in (lambda: queue.submit(submission()), lambda: queue.statuses([number]), lambda: unknown.name):
            with pytest.raises(QueueFailed, match="head does not answer") as caught:
                ask()
            assert "jobs that run go on" in caught.value.resolution
    finally:
        cluster.start_controller()
    assert task(queue, number).state is State.RUNNING
    queue.kill([TaskId(job=number)])
    assert over(queue, number)[0].state is State.KILLED


def test_a_job_whose_number_got_lost_on_its_way_is_found_again(queue, monkeypatch):
    submit = slurm.submit

    def answer_lost(*arguments):
        submit(*arguments)
        raise SlurmSilent("sbatch", "Socket timed out on send/recv operation")

    monkeypatch.setattr(slurm, "submit", answer_lost)
    own = submission(comment="envkit alice 4567")
    number = queue.submit(own)
    assert queue.statuses([number])[number].comment == "envkit alice 4567"

    def never_arrived(*_):
        raise SlurmSilent("sbatch", "Socket timed out on send/recv operation")

    monkeypatch.setattr(slurm, "submit", never_arrived)
    with pytest.raises(QueueFailed, match="does not answer"):
        queue.submit(submission(uid=BOB, comment="envkit alice 4567"))  # that one is alice's


def test_a_program_of_slurm_that_hangs_is_given_up(cluster, queue, monkeypatch):
    """The head has stopped, and still has its port."""
    monkeypatch.setattr(slurm, "PATIENCE", 1.0)
    with open(f"{cluster.directory}/nodes/head/slurmctld.pid", encoding="ascii") as file:
        pid = file.read().strip()
    cluster.run("kill", "-STOP", pid)
    try:
        with pytest.raises(QueueFailed, match="head does not answer"):
            queue.statuses()
    finally:
        cluster.run("kill", "-CONT", pid)
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_CONF", cluster.conf)
    assert until(lambda: isinstance(queue.statuses(), dict), "the head to answer again")
