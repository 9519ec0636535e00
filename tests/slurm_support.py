"""A real Slurm cluster for tests, once a run of pytest; each test that asks for `cluster` finds it idle and whole."""

import os

import pytest
from slurm_cluster import lack_of_slurm, running_cluster

NODES = ("n1", "n2", "n3", "n4")


@pytest.fixture(scope="session")
def slurm(pytestconfig):
    """The cluster that tests share: four nodes with four CPUs each."""
    missing = lack_of_slurm()
    if missing is not None:
        if os.environ.get("CI") or pytestconfig.getoption("--no-skip-gated", default=False):
            pytest.fail(f"cannot run here, and must not be skipped: {missing}", pytrace=False)
        pytest.skip(missing)
    with running_cluster() as started:
        yield started


@pytest.fixture
def cluster(slurm):
    """The shared cluster. What a test does to its nodes and its queue is put right after it."""
    yield slurm
    slurm.settle(*NODES)


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
