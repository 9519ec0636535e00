"""A real Slurm cluster for tests, once a run of pytest; each test that asks for `cluster` finds it idle and whole."""

import json
import os

import pytest
from commandline import Outcome, wait_until
from gates import skip_or_fail
from slurm_cluster import PATIENCE, lack_of_slurm, running_cluster

NODES = ("n1", "n2", "n3", "n4")


@pytest.fixture(scope="session")
def slurm(pytestconfig):
    """The cluster that tests share: four nodes with four CPUs each."""
    missing = lack_of_slurm()
    if missing is not None:
        skip_or_fail(pytestconfig, missing)
    with running_cluster() as started:
        yield started


@pytest.fixture
def cluster(slurm):
    """The shared cluster. What a test does to its nodes and its queue is put right after it."""
    yield slurm
    slurm.settle(*NODES)


class Desk:
    """Somebody at the head of a cluster, who calls envkit through sudo; root without."""

    def __init__(self, cluster, user):
        self.cluster, self.user = cluster, user

    def __call__(self, *words, env=None, input=""):
        prefix = ("sudo", "envkit") if self.user else ("envkit",)
        done = self.cluster.run(*prefix, *words, user=self.user, check=False, env=env, input=input)
        return Outcome(done.returncode, done.stdout.encode(), done.stderr.encode())

    def json(self, *words):
        return json.loads(self(*words, "--json").ok())

    def submit(self, *words, env="base/tiny", **options):
        return self("submit", "-e", env, *words, **options).ok()

    def states(self, job):
        return {row["id"]: row["state"] for row in self.json("jobs", job)}

    def running(self, job):
        until(lambda: set(self.states(job).values()) == {"running"}, f"{job} to run")
        return job

    def over(self, job):
        """Wait for a job; return its rows."""
        self("wait", job, "--timeout", f"{PATIENCE:.0f}")
        rows = self.json("jobs", job)
        assert {row["state"] for row in rows} <= {"done", "failed", "timeout", "killed", "lost"}, rows
        return rows


def until(condition, what):
    """Wait as long as a cluster may take; return the first result of a condition that is true."""
    return wait_until(condition, what, patience=PATIENCE, pause=0.1)


def processes_of(directory):
    """Pids of all processes of this machine that have a directory's name in their words or variables."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        texts = []
        for name in ("cmdline", "environ"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    texts.append(file.read())
            except OSError:  # it has just ended
                continue
        if any(os.fsencode(directory) in text for text in texts):
            found.add(int(pid))
    return found - {os.getpid()}
