"""What Slurm's states mean; those that the test cluster cannot be brought to are given."""

import os

import pytest

from envkit.drivers import slurm
from envkit.drivers.errors import ProgramMissing
from envkit.drivers.slurm import JobRow, SlurmRefused, SlurmSilent
from envkit.model.order import Resources
from envkit.model.task import State
from envkit.queues.queue import QueueFailed, Submission
from envkit.queues.slurm import SlurmQueue

ROW = JobRow(
    job=12,
    indexes="N/A",
    raw=12,
    state="RUNNING",
    reason="None",
    uid=os.getuid(),
    node="n1",
    began=100.0,
    ended=200.0,
    code=0,
    comment="envkit nobody-here 0123",
)


@pytest.fixture
def told(monkeypatch):
    """A function that says what squeue prints; returns the one task that comes of it."""

    def tell(**fields):
        monkeypatch.setattr(slurm, "jobs", lambda _numbers=None: [ROW.replace(**fields)])
        return SlurmQueue().statuses()[12].tasks[0]

    return tell


@pytest.mark.parametrize(
    ("state", "reason", "expected", "words"),
    [
        ("PENDING", "Priority", State.QUEUED, "Priority"),
        ("PENDING", "Dependency", State.WAITING, "waits for other jobs"),
        ("PENDING", "JobHeldUser,JobArrayTaskLimit", State.WAITING, "JobHeldUser,JobArrayTaskLimit"),
        ("CONFIGURING", "None", State.QUEUED, "its nodes are starting"),
        ("REQUEUED", "None", State.QUEUED, ""),
        ("SPECIAL_EXIT", "None", State.WAITING, ""),
        ("RUNNING", "None", State.RUNNING, ""),
        ("SUSPENDED", "None", State.RUNNING, "suspended"),
        ("COMPLETING", "None", State.RUNNING, "ending"),
        ("STAGE_OUT", "None", State.RUNNING, ""),
        ("COMPLETED", "None", State.DONE, ""),
        ("FAILED", "NonZeroExitCode", State.FAILED, ""),
        ("OUT_OF_MEMORY", "OutOfMemory", State.FAILED, "out of memory"),
        ("TIMEOUT", "TimeLimit", State.TIMEOUT, ""),
        ("DEADLINE", "None", State.TIMEOUT, "its deadline passed"),
        ("PREEMPTED", "None", State.KILLED, "preempted"),
        ("CANCELLED", "None", State.KILLED, ""),
        ("NODE_FAIL", "NodeDown", State.LOST, "its node failed"),
        ("BOOT_FAIL", "None", State.LOST, "its node did not start"),
        ("SOMETHING_NEW", "None", State.RUNNING, ""),
    ],
)
def test_states(told, state, reason, expected, words):
    task = told(state=state, reason=reason)
    assert (task.state, task.reason) == (expected, words)
    assert task.began == (0.0 if expected in (State.QUEUED, State.WAITING) else 100.0)
    assert task.ended == (200.0 if expected.over else 0.0)  # before that Slurm guesses


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [("FAILED", 3 << 8, 3), ("FAILED", 9, 137), ("COMPLETED", 0, 0), ("CANCELLED", 15, None)],
)
def test_exit_codes(told, state, status, code):
    assert told(state=state, code=status).code == code


def test_a_comment_that_names_another_user_says_nothing(monkeypatch):
    other = next(name for name, uid in (("root", 0), ("daemon", 1)) if uid != os.getuid())
    monkeypatch.setattr(slurm, "jobs", lambda _numbers=None: [ROW.replace(comment=f"envkit {other} 0123")])
    assert SlurmQueue().statuses([12])[12].comment == "of another user"
    monkeypatch.setattr(slurm, "jobs", lambda _numbers=None: [ROW])
    assert SlurmQueue().statuses([12])[12].comment == ROW.comment


@pytest.mark.parametrize(
    ("error", "text", "hint"),
    [
        (SlurmSilent("squeue", "Unable to contact slurm controller"), "head does not answer", "scontrol ping"),
        (SlurmRefused("squeue", "Access/permission denied"), "Access/permission denied", "ask the admins"),
        (ProgramMissing("squeue"), "squeue is not installed", "link them"),
    ],
)
def test_failures_are_the_queues(monkeypatch, error, text, hint):
    def fail(_numbers=None):
        raise error

    monkeypatch.setattr(slurm, "jobs", fail)
    with pytest.raises(QueueFailed, match=text) as caught:
        SlurmQueue().statuses()
    assert hint in caught.value.resolution


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--output=a", "-e", "b", "-oc", "-i=d"), ["--output=/work/a", "-e", "/work/b", "-o/work/c", "-i/work/d"]),
        (("--error", "/var/x", "--nice=5", "-w", "n1"), ["--error", "/var/x", "--nice=5", "-w", "n1"]),
        (("--exclusive", "--input", "none"), ["--exclusive", "--input", "/work/none"]),
    ],
)
def test_files_are_those_of_the_submitters_directory(monkeypatch, words, expected):
    seen = []
    monkeypatch.setattr(slurm, "cluster", lambda: slurm.ClusterFacts(name="x", max_array=10))
    monkeypatch.setattr(slurm, "submit", lambda options, _script, _user: seen.append(options) or 7)
    monkeypatch.setattr(os, "getcwd", lambda: "/work")
    resources = Resources(extra=words)
    wanted = Submission(script="", uid=0, gid=0, name="x", comment="envkit", count=None, resources=resources)
    assert SlurmQueue().submit(wanted) == 7
    (options,) = seen
    assert options[1 : 1 + len(expected)] == expected
