"""Tasks on the nodes of a real Slurm, started by batch scripts as a user who has sudo: orders made by hand."""

import contextlib
import os
import secrets

import pytest
from commandline import wait_until

from envkit.config.model import Config
from envkit.model.job import Job
from envkit.model.order import Kind, Order, Resources
from envkit.model.task import State
from envkit.queues.script import batch_script
from envkit.services.context import Context
from envkit.services.jobs.output import read_output
from envkit.store import orders, versions

pytestmark = pytest.mark.root
KEY = bytes(range(32))
ALICE = 54_321
PMI = """
ask() { echo "$1" >&0; read -r answer; }
ask "cmd=init pmi_version=1 pmi_subversion=1"
ask "cmd=get_my_kvsname"
kvs=${answer##*kvsname=}
ask "cmd=put kvsname=$kvs key=k$PMI_RANK value=$(hostname)"
ask "cmd=barrier_in"
ask "cmd=get kvsname=$kvs key=k$(( (PMI_RANK + 1) % PMI_SIZE ))"
echo "$PMI_RANK of $PMI_SIZE on $(hostname), next is on ${answer##*value=}"
ask "cmd=finalize"
"""


class Site:
    """A cluster with a store and an environment in it."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.context = Context(Config(root=f"{cluster.directory}/admin", store=f"{cluster.directory}/store"))

    def add(self, name, root):
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{self.cluster.directory}/store")
            self.cluster.run("envkit", "store", "init", f"{self.cluster.directory}/store")
        if f"base/{name}" not in self.cluster.run("envkit", "base", "list").stdout:
            self.cluster.run("envkit", "base", "import", name, root)

    def submit(self, *command, environment="tiny", options=(), **fields):
        """Place an order and submit its batch script as alice; return the order and the job's number."""
        version = versions.resolve(self.context.store, self.context.ref(f"base/{environment}"))
        fields = {
            "token": secrets.token_hex(16),
            "owner": "alice",
            "uid": ALICE,
            "gid": ALICE,
            "env": version.env,
            "version": version.number,
            "arch": version.arch,
            "layers": version.layers,
            "kind": Kind.COMMAND,
            "job": Job(environment=environment, command=command),
        } | fields
        order = Order(**fields)
        script = batch_script(
            program=f"{self.cluster.directory}/bin/envkit",
            flags="",
            owner="alice",
            token=order.token,
            digest=orders.put_order(self.context.store, order),
            key=KEY.hex(),
        )
        words = ("--output=/tmp/%j.out", *options)
        return order, self.cluster.submit(*words, script=script, user="alice", directory="/tmp")

    def result(self, order, attempt=0):
        return orders.get_result(self.context.store, "alice", order.token, KEY, 0, attempt)

    def ended(self, order, attempt=0):
        return wait_until(lambda: self.result(order, attempt), "the task leaves a result")

    def printed(self, order, stream="out", attempt=0):
        pieces = read_output(self.context.store, "alice", order.token, KEY, 0, attempt, stream)
        return b"".join(pieces).decode()

    def runs(self, *nodes):
        """What is left of runs on nodes."""
        return [name for node in nodes for name in os.listdir(f"{self.cluster.node_root(node)}/runs")]


@pytest.fixture
def site(cluster, tiny_root):
    site = Site(cluster)
    site.add("tiny", tiny_root)
    return site


def test_a_task_runs_as_the_user_on_a_node_with_a_root_of_its_own(site):
    order, number = site.submit("sh", "-c", "id -u; echo $SLURM_JOB_ID $ENVKIT_JOB $SLURMD_NODENAME")
    result = site.ended(order)
    assert (result.state, result.code, result.node) == (State.DONE, 0, "n1")
    assert site.printed(order) == f"{ALICE}\n{number} {number}\n"
    assert site.cluster.wait_for_job(number)[0]["ExitCode"] == "0:0"
    assert os.listdir(f"{site.cluster.node_root('n1')}/cache/layers")
    assert orders.get_ticket(site.context.store, "alice", "slurm-envkit", number).token == order.token


def test_the_exit_code_is_the_commands_also_for_slurm(site):
    order, number = site.submit("sh", "-c", "exit 7")
    assert site.ended(order).code == 7
    assert site.cluster.wait_for_job(number)[0]["ExitCode"] == "7:0"


def test_an_array_has_a_result_for_each_task(site):
    order, number = site.submit(
        "echo", "{x}", count=3, array=True, names=("x",), rows=(("a",), ("b",), ("c",)), options=("--array=0-2",)
    )
    site.cluster.wait_for_job(number)
    for index, text in enumerate("abc"):
        pieces = read_output(site.context.store, "alice", order.token, KEY, index, 0, "out")
        assert b"".join(pieces).decode() == f"{text}\n"


def test_a_cancelled_task_leaves_a_result_and_nothing_else(site):
    order, number = site.submit("sh", "-c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done")
    wait_until(lambda: site.printed(order), "it runs")
    site.cluster.run("scancel", number, user="alice")
    assert site.ended(order).state is State.KILLED
    assert site.printed(order).startswith("ready\nbye\n")
    site.cluster.wait_for_job(number)
    wait_until(lambda: not site.runs("n1"), "the node is clean")


def test_a_task_whose_node_dies_starts_again_under_the_next_number(site):
    order, number = site.submit(
        "sh", "-c", "echo $SLURM_RESTART_COUNT; sleep 3", options=("--requeue", "--nodelist=n2")
    )
    wait_until(lambda: site.printed(order), "it runs")
    site.cluster.fail("n2")
    site.cluster.boot("n2")
    assert site.ended(order, attempt=1).state is State.DONE
    assert site.result(order) is None
    assert site.printed(order, attempt=1) == "1\n"
    site.cluster.wait_for_job(number)


def test_a_user_cannot_hand_slurms_configuration_to_root(site):
    """With one of their own, root would load plugins of theirs."""
    run = site.cluster.run("sudo", "-n", "--preserve-env=SLURM_CONF", "envkit", "list", user="alice", check=False)
    assert run.returncode != 0
    assert "not allowed" in run.stderr


def test_ranks_find_one_another_over_pmi2(site):
    wanted = Resources(tasks=4, nodes=2, mpi="pmi2")
    order, number = site.submit("sh", "-c", PMI, resources=wanted, options=("-N2", "-n4", "--ntasks-per-node=2"))
    assert site.ended(order).state is State.DONE, site.printed(order, "err")
    nodes = ("n1", "n1", "n2", "n2")
    assert sorted(site.printed(order).splitlines()) == [
        f"{rank} of 4 on {nodes[rank]}, next is on {nodes[(rank + 1) % 4]}" for rank in range(4)
    ]
    site.cluster.wait_for_job(number)
    wait_until(lambda: not site.runs("n1", "n2"), "the nodes are clean")


def test_the_exit_code_of_a_rank_is_that_of_the_task(site):
    script = "test $SLURM_PROCID = 1 && exit 9; sleep 1000"
    order, _ = site.submit("sh", "-c", script, resources=Resources(tasks=2), options=("-N2", "-n2"))
    result = site.ended(order)
    assert result.state is State.FAILED
    assert result.code != 0
    assert "9" in site.printed(order, "err")


def test_a_rank_reaches_its_pmix_server(site):
    script = """
    port=${PMIX_SERVER_URI2##*:}
    ls $PMIX_SERVER_TMPDIR | wc -l
    nc -w 5 127.0.0.1 $port </dev/null && echo $PMIX_RANK reached
    """
    wanted = Resources(tasks=2, mpi="pmix")
    order, _ = site.submit("sh", "-c", script, resources=wanted, options=("-N2", "-n2"))
    assert site.ended(order).state is State.DONE, site.printed(order, "err")
    assert sorted(site.printed(order).splitlines()) == ["0 reached", "1 reached", "2", "2"]
