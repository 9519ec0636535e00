"""Jobs of users on a real Slurm cluster, in real containers: from `sudo envkit submit` on the head to their results."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import threading
import time

import pytest
from slurm_cluster import PATIENCE
from slurm_support import NODES, Desk, until

pytestmark = [pytest.mark.root, pytest.mark.lxc]
MANY = int(os.environ.get("ENVKIT_TEST_TASKS", "200"))
FOREVER = "while true; do sleep 0.2; done"


@pytest.fixture(scope="module")
def stored(slurm, tiny_root):
    """The cluster, with the base `tiny` in its store, and version 1 of `which`."""
    root = Desk(slurm, None)
    if not os.path.exists(f"{slurm.directory}/store/format.json"):
        root("store", "init", f"{slurm.directory}/store").ok()
    if root("info", "base/tiny").code:
        root("base", "import", "tiny", tiny_root).ok()
    publish(slurm, tiny_root, "one")
    return slurm


def publish(cluster, tiny_root, text):
    """Make another version of `which`."""
    root = f"{cluster.directory}/which"
    shutil.copytree(tiny_root, root, symlinks=True)
    with open(f"{root}/opt/which", "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
    Desk(cluster, None)("base", "import", "which", root).ok()
    shutil.rmtree(root)


@pytest.fixture
def alice(stored, cluster):
    """Alice, at the head of an idle cluster."""
    return Desk(cluster, "alice")


def test_a_job_runs_as_its_user_and_leaves_a_result(alice, cluster):
    job = alice.submit(
        "-l", "first", "--", "sh", "-c", "id -u; cat /opt/which; echo told >&2; exit 3", env="base/which"
    )
    (row,) = alice.over(job)
    assert (row["state"], row["code"], row["environment"], row["label"]) == ("failed", 3, "base/which@1", "first")
    assert row["node"] in NODES
    done = alice("result", job)
    assert (done.code, done.stdout, done.stderr.splitlines()[0]) == (3, "54321\none\n", "told")
    comment = cluster.jobs(job)[0]["Comment"]
    assert comment.startswith("envkit alice ") and f"base/which@1 sha256:{row['digest']}" in comment
    assert Desk(cluster, "bob")("result", job).code != 0


def test_tasks_of_an_array_run_on_all_nodes(alice):
    job = alice.submit(
        "--array", f"0-{MANY - 1}", "--", "sh", "-c", "echo $ENVKIT_TASK_INDEX; exit $((${ENVKIT_TASK_INDEX} == 7))"
    )
    for _ in range(MANY // 100):
        alice("wait", job, "--timeout", f"{PATIENCE:.0f}")
    rows = alice.over(job)
    assert [row["index"] for row in rows] == list(range(MANY))
    assert {row["index"]: row["code"] for row in rows if row["code"]} == {7: 1}
    assert {row["state"] for row in rows if row["index"] != 7} == {"done"}
    assert {row["node"] for row in rows} == set(NODES)
    results = json.loads(alice("result", job, "--json").stdout)  # one of them has failed
    assert [row["output"] for row in results] == [f"{index}\n" for index in range(MANY)]
    lines = alice("logs", job).ok().splitlines()
    assert sorted(lines) == sorted(f"{job}_{index}: {index}" for index in range(MANY))
    (line,) = [line for line in alice("jobs").ok().splitlines() if line.startswith(f"{job} ")]
    assert f"done {MANY - 1}, failed 1" in line


def test_a_job_that_depends_on_another_begins_after_it_or_never(alice):
    gate = alice.submit("--", "sleep", "1")
    after = alice.submit("--depends-on", gate, "--", "echo", "after")
    until(lambda: set(alice.states(after).values()) == {"waiting"}, "it to wait")
    wrong = alice.submit("--depends-on", gate, "--", "sh", "-c", "sleep 1; exit 4")
    never = alice.submit("--depends-on", wrong, "--", "true")
    assert alice.over(after)[0]["state"] == "done"
    assert alice("result", after).ok() == "after"
    assert alice.over(wrong)[0]["code"] == 4
    (row,) = alice.over(never)
    assert (row["state"], row["began"]) == ("killed", None)


def test_a_running_job_is_joined_and_ended_by_its_owner_alone(alice, cluster):
    job = alice.running(alice.submit("--", "sh", "-c", f"echo mine >/tmp/mine; {FOREVER}"))
    assert alice("ssh", job, "--", "cat", "/tmp/mine").ok() == "mine"
    bob = Desk(cluster, "bob")
    assert bob("ssh", job, "--", "true").code != 0
    assert bob("kill", job).code != 0
    assert set(alice.states(job).values()) == {"running"}
    node = alice.json("jobs", job)[0]["node"]
    alice("kill", job).ok()
    assert alice.over(job)[0]["state"] == "killed"
    runs = f"{cluster.node_root(node)}/runs"
    until(lambda: os.listdir(runs) == [], f"nothing of it to be left in {runs}")


def test_what_was_ended_before_it_began_stays_so(alice, cluster):
    gate = alice.submit("--", "sleep", "100")
    array = alice.submit("--depends-on", gate, "--array", "0-2", "--", "true")
    alice("kill", f"{array}_1").ok()
    left = {f"{array}_0": "waiting", f"{array}_1": "killed", f"{array}_2": "waiting"}
    until(lambda: alice.states(array) == left, "Slurm to look at the dependency")
    alice("kill", array, gate).ok()
    with forgetful(cluster):
        until(lambda: not cluster.run("squeue", "-h", "-t", "all", "-j", array, check=False).stdout, "Slurm to forget")
    assert set(alice.states(array).values()) == {"killed"}
    assert [row["code"] for row in alice.json("jobs", array)] == [None] * 3


def test_a_kill_in_the_middle_of_a_submission_leaves_no_job_that_nobody_knows(stored, cluster):
    root = Desk(cluster, None)
    before = known_to_slurm(cluster)
    for point in POINTS:
        died = root("submit", "-e", "base/tiny", "--", "true", env={"ENVKIT_CRASH": point})
        assert died.code in (-signal.SIGKILL, 128 + signal.SIGKILL), (point, died)
        assert strangers(root, cluster, before) == set(), point
    assert len(known_to_slurm(cluster) - before) == 2
    job = root.submit("--", "true")
    assert [row["state"] for row in root.over(job)] == ["done"]
    stranger = cluster.submit("--hold", "--wrap=true")
    assert strangers(root, cluster, before) == {stranger}


POINTS = ("submit:order", "submit:pinned", "submit:queued", "submit:noted")


def known_to_slurm(cluster):
    return set(map(int, cluster.run("squeue", "-h", "-t", "all", "-o", "%A").stdout.split()))


def strangers(desk, cluster, before):
    """Jobs that Slurm has since, and that `jobs` does not show."""
    return known_to_slurm(cluster) - before - {row["job"] for row in desk.json("jobs", "--all")}


@contextlib.contextmanager
def forgetful(cluster):
    """Let Slurm remember jobs that are over for two seconds."""
    path = pathlib.Path(cluster.conf)
    text = path.read_text()
    assert "MinJobAge=3600" in text
    try:
        path.write_text(text.replace("MinJobAge=3600", "MinJobAge=2"))
        cluster.run("scontrol", "reconfigure")
        yield
    finally:
        path.write_text(text)
        cluster.run("scontrol", "reconfigure")


def test_a_version_is_settled_when_a_job_is_submitted(alice, cluster, tiny_root):
    gate = alice.submit("--", "sleep", "3")
    before = alice.submit("--depends-on", gate, "--", "cat", "/opt/which", env="base/which")
    publish(cluster, tiny_root, "two")
    after = alice.submit("--", "cat", "/opt/which", env="base/which")
    alice.over(after)
    alice.over(before)
    assert alice("result", after).ok() == "two"
    assert alice("result", before).ok() == "one"


def test_what_cannot_run_is_not_queued(alice, cluster):
    known = cluster.run("squeue", "-h", "-t", "all", "-o", "%A").stdout
    alice("submit", "-e", "nothing", "--", "true").fails(3, "nothing")
    alice("submit", "-e", "base/tiny@99", "--", "true").fails(3, "99")
    alice("submit", "-e", "base/tiny", "--gpus", "9", "--", "true").fails(5, "no node of this queue has 9 GPUs")
    alice("submit", "-e", "base/tiny", "-N", "5", "--", "true").fails(5, "4 nodes that could run it, not 5")
    alice("submit", "-e", "base/tiny", "-p", "nope", "--", "true").fails(5, "Invalid partition name", "sinfo")
    assert cluster.run("squeue", "-h", "-t", "all", "-o", "%A").stdout == known


def test_a_job_goes_on_elsewhere_when_its_node_dies_or_is_lost(alice, cluster):
    script = "echo begun; test ${SLURM_RESTART_COUNT:-0} -gt 0 && exit 0; while true; do sleep 0.2; done"
    again = alice.submit("--", "--exclude=n1,n4", "--", "sh", "-c", script)
    lost = alice.submit("--no-requeue", "--", "--nodelist=n2", "--", "sh", "-c", FOREVER)
    alice.running(again), alice.running(lost)
    node = alice.json("jobs", again)[0]["node"]
    cluster.fail("n2")
    (row,) = alice.over(lost)
    assert (row["state"], row["code"], row["node"]) == ("lost", None, "n2")
    assert node == "n2"
    (row,) = alice.over(again)  # after the life of a credential
    assert (row["state"], row["node"]) == ("done", "n3"), row
    assert alice("result", again).ok() == "begun"


def test_a_head_that_restarts_or_is_down_loses_nothing(alice, cluster):
    job = alice.running(alice.submit("--", "sh", "-c", "until test -e /tmp/go; do sleep 0.1; done; echo went"))
    waiting = alice.submit("--depends-on", job, "--", "echo", "then")
    cluster.stop_controller()
    try:
        alice("submit", "-e", "base/tiny", "--", "true").fails(5, "Slurm's head does not answer", "scontrol ping")
    finally:
        cluster.start_controller()
    assert set(alice.states(job).values()) == {"running"}
    # For a moment Slurm does not know the node's memory again.
    until(lambda: alice("ssh", job, "--", "touch", "/tmp/go").code == 0, "the job to be joined")
    assert [row["state"] for name in (job, waiting) for row in alice.over(name)] == ["done", "done"]
    assert [alice("result", name).ok() for name in (job, waiting)] == ["went", "then"]


def test_results_wait_for_a_store_that_is_away(alice, cluster):
    job = alice.running(alice.submit("--", "sh", "-c", "echo early; sleep 3; echo late"))
    store, away = f"{cluster.directory}/store", f"{cluster.directory}/away"
    os.rename(store, away)
    try:
        time.sleep(4)
    finally:
        os.rename(away, store)
    assert alice.over(job)[0]["state"] == "done"
    assert alice("result", job).ok() == "early\nlate"


def test_eight_submit_at_once(alice, cluster):
    found = [""] * 8
    bob = Desk(cluster, "bob")

    def one(number):
        who = alice if number % 2 else bob
        found[number] = who.submit("-l", f"many/{number}", "--", "echo", str(number))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    for number, job in enumerate(found):
        who = alice if number % 2 else bob
        assert [row["label"] for row in who.over(job)] == [f"many/{number}"]
        assert who("result", job).ok() == str(number)


def test_a_job_whose_time_is_up_says_so(alice):
    job = alice.submit("--time", "1", "--", "sh", "-c", FOREVER)
    assert alice("wait", job, "--timeout", "180").code == 1
    (row,) = alice.over(job)
    assert row["state"] == "timeout", row
