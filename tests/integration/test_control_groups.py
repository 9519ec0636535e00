"""A job's container lies below the control groups that envkit is called in: what limits and ends these, goes for it."""

import contextlib
import os
import secrets
import signal
import subprocess

import pytest
from commandline import PATIENCE, Outcome, read_until, wait_until

ROOT = "/sys/fs/cgroup"
TINY = "base/tiny"
GREEDY = "x=a; while :; do x=$x$x; done"  # a shell whose variable doubles until somebody ends it


@pytest.fixture
def group():
    """Groups of our own for memory and for ending processes, as a queue makes them for a job: functions by name."""
    if not os.path.exists(f"{ROOT}/memory/memory.limit_in_bytes"):
        pytest.skip("needs the memory controller of version 1")
    made = Groups(f"envkit-test-{secrets.token_hex(4)}")
    yield made
    made.remove()


class Groups:
    def __init__(self, name):
        self.paths = [f"{ROOT}/{kind}/{name}" for kind in ("memory", "freezer", "pids", "cpu")]
        for path in self.paths:
            os.mkdir(path)

    def limit_memory(self, size):
        with open(f"{self.paths[0]}/memory.limit_in_bytes", "w", encoding="ascii") as file:
            file.write(str(size))

    def enter(self):
        for path in self.paths:
            with open(f"{path}/cgroup.procs", "w", encoding="ascii") as file:
                file.write("0")

    def members(self, *, below):
        found = set()
        for path in self.paths:
            for directory, _, _ in os.walk(path):
                if below or directory == path:
                    with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                        found |= {int(line) for line in file}
        return found

    def below(self):
        return [name for path in self.paths for name in os.listdir(path) if os.path.isdir(f"{path}/{name}")]

    def remove(self):
        for path in self.paths:
            for directory, _, _ in os.walk(path, topdown=False):
                os.rmdir(directory)


def test_the_limits_of_the_group_hold_for_the_container(envkit, group):
    group.limit_memory(64 << 20)
    words = ("run", "-e", TINY, "--", "sh", "-c", GREEDY)
    outcome = envkit(*words, preexec_fn=group.enter)
    assert outcome.code == 137, outcome  # the kernel killed it
    with open(f"{group.paths[0]}/memory.max_usage_in_bytes", encoding="ascii") as file:
        assert 32 << 20 < int(file.read()) <= 64 << 20
    assert group.below() == []


def test_a_container_may_have_less_than_the_group(envkit, group):
    words = ("run", "-e", TINY, "--memory", "32M", "--", "sh", "-c", GREEDY)
    assert envkit(*words, preexec_fn=group.enter).code == 137
    with open(f"{group.paths[0]}/memory.failcnt", encoding="ascii") as file:
        assert int(file.read()) == 0


def test_a_job_leaves_no_group_in_its_own(envkit, group):
    assert envkit("run", "-e", TINY, "--", "true", preexec_fn=group.enter).code == 0
    assert group.below() == []
    assert group.members(below=True) == set()


def test_who_kills_the_processes_of_the_group_kills_the_container(envkit, group):
    """Slurm kills those in the group itself, and looks at none below."""
    with envkit.start("run", "-e", TINY, "--", "sleep", "1000", preexec_fn=group.enter) as process:
        wait_until(lambda: len(group.members(below=True)) >= 4, "the command runs in the group")
        own = group.members(below=False)
        assert process.pid in own
        for pid in own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not group.members(below=True), "the container ends, too")
    envkit("doctor", "--fix")
    assert group.below() == []


def test_without_a_group_of_ours_nothing_is_limited(envkit, group):
    """The negative control: the same greed, outside of the group, does not touch its limit."""
    group.limit_memory(64 << 20)
    assert envkit("run", "-e", TINY, "--memory", "128M", "--", "sh", "-c", GREEDY).code == 137
    with open(f"{group.paths[0]}/memory.max_usage_in_bytes", encoding="ascii") as file:
        assert int(file.read()) == 0


UNIFIED = f"{ROOT}/unified" if os.path.isdir(f"{ROOT}/unified") else ROOT


class Unified:
    """envkit on a machine that seems to have version 2 alone, in a group of our own there."""

    def __init__(self, envkit, name):
        self._envkit = envkit
        self.path = f"{UNIFIED}/{name}"
        os.makedirs(self.path)

    def start(self, *words):
        argv = self._envkit.argv(*words)
        if UNIFIED != ROOT:
            script = f'umount -R {ROOT} && mount -t cgroup2 cgroup2 {ROOT} && exec "$@"'
            argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *argv]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(argv, env=self._envkit.environment(), preexec_fn=self._enter, **pipes)

    def run(self, *words):
        with self.start(*words) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return Outcome(process.returncode, out, err)

    def _enter(self):
        with open(f"{self.path}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")

    def below(self):
        return [name for name in os.listdir(self.path) if os.path.isdir(f"{self.path}/{name}")]

    def members(self):
        found = set()
        for directory, _, _ in os.walk(self.path):
            with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                found |= {int(line) for line in file}
        return found

    def remove(self):
        for directory, _, _ in os.walk(self.path, topdown=False):
            os.rmdir(directory)


@pytest.fixture
def unified(envkit):
    """A function that makes such a machine; the name of the group may have slashes."""
    if not os.path.exists(f"{UNIFIED}/cgroup.procs"):
        pytest.skip("needs version 2 of control groups")
    made = []

    def make(name):
        made.append(Unified(envkit, name))
        return made[-1]

    yield make
    for one in made:
        one.remove()


def test_in_version_2_a_container_lies_below_a_group_with_processes(unified):
    group = unified(f"envkit-test-{secrets.token_hex(4)}")
    outcome = group.run("run", "-e", TINY, "--", "sh", "-c", "echo ran; exit 5")
    assert outcome == (5, b"ran\n", b"")
    assert group.below() == []


def test_in_version_2_the_end_of_the_group_is_that_of_the_container(unified):
    group = unified(f"envkit-test-{secrets.token_hex(4)}")
    with group.start("run", "-e", TINY, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        read_until(process.stdout, b"ready")
        assert len(group.members()) >= 4
        with open(f"{group.path}/cgroup.procs", encoding="ascii") as file:
            assert process.pid not in map(int, file), "it went into a group of its own"
        with open(f"{group.path}/cgroup.kill", "w", encoding="ascii") as file:
            file.write("1")
        assert process.wait(PATIENCE) == -signal.SIGKILL
        wait_until(lambda: not group.members(), "all of it ends")
    group.run("doctor", "--fix")
    assert group.below() == []


def test_in_version_2_limits_of_its_own_lead_no_job_of_slurm_out_of_its_group(unified):
    name = f"envkit-test-{secrets.token_hex(4)}"
    group = unified(f"{name}/slurmstepd.scope")
    try:
        group.run("run", "-e", TINY, "--memory", "64M", "--", "true").fails(125, "cannot give its container limits")
        assert group.run("run", "-e", TINY, "--", "true").code == 0
    finally:
        group.remove()
        group.path = f"{UNIFIED}/{name}"
