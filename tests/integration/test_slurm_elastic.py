"""Nodes that Slurm starts when it needs them, by the example programs, with a cache that is warm before the first job."""

import os
import sys

import pytest
from slurm_cluster import running_cluster
from slurm_files import CHECKOUT
from slurm_support import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.lxc,
    pytest.mark.slurm,
]
RUN = """\
import sys
sys.path.insert(0, sys.argv[1])
from slurm_cluster import Cluster
done = Cluster(sys.argv[2]).inside(*sys.argv[3:], check=False)
sys.exit(done.returncode)
"""


@pytest.fixture
def elastic():
    """A cluster of one node, and two that do not run, with the example programs in place of its own."""
    with running_cluster(nodes=1, cloud=2) as cluster:
        tests, place = f"{CHECKOUT}/tests", cluster.directory
        command = f"{sys.executable} {tests}/slurm_command.py"
        with open(f"{place}/run.py", "w", encoding="utf-8") as file:
            file.write(RUN)
        with open(f"{place}/nodes.conf", "w", encoding="utf-8") as file:
            file.write(
                f"START='{command} boot --quietly {place}'\nSTOP='{command} fail --quietly {place}'\n"
                f"RUN='{sys.executable} {place}/run.py {tests} {place}'\nENVKIT={place}/bin/envkit\n"
            )
        for name in ("resume", "suspend"):
            with open(f"{place}/bin/{name}", "w", encoding="utf-8") as file:
                script = f"{CHECKOUT}/scripts/slurm/{name}"
                log = f"{place}/log/{name}"
                file.write(f'#!/bin/sh\nENVKIT_SLURM_NODES={place}/nodes.conf exec {script} "$1" >>{log} 2>&1\n')
        yield cluster


def layers(cluster, node):
    try:
        return os.listdir(f"{cluster.node_root(node)}/cache/layers")
    except FileNotFoundError:
        return []


def test_a_node_that_starts_fetches_what_the_queue_names_and_stops_when_it_is_idle(elastic, tiny_root):
    elastic.run("envkit", "store", "init", f"{elastic.directory}/store")
    elastic.run("envkit", "base", "import", "tiny", tiny_root)
    # Two that never begin: the comment of the first is like those of envkit, the other one's only looks so.
    named = f"--comment=envkit alice {'0' * 32} base/tiny@1 sha256:{'0' * 64}"
    elastic.submit("--hold", named, "--wrap", "true")
    elastic.submit("--hold", "--comment=envkit alice x base/tiny@1;reboot sha256:0", "--wrap", "true")
    plain = elastic.submit("--nodelist=c2", "--output=/dev/null", "--wrap", "true")
    words = ("sudo", "envkit", "submit", "-e", "base/tiny", "--", "--nodelist=c1", "--")
    job = elastic.run(*words, "cat", "/usr/share/old", user="alice").stdout.strip()  # no reason to refuse it: c1 is off

    elastic.run("sudo", "envkit", "wait", job, user="alice")
    assert elastic.run("sudo", "envkit", "result", job, user="alice").stdout == "from the base\n"
    elastic.wait_for_job(plain, "COMPLETED")
    until(lambda: layers(elastic, "c2"), "the layers on c2, where nothing has run")
    assert "could not be" not in elastic.log("resume")
    until(lambda: not elastic.is_up("c1") and not elastic.is_up("c2"), "both to be stopped")
    assert elastic.is_up("n1")
