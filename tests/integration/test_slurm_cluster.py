"""The test cluster itself: nodes that are apart, power cuts, a head that restarts, and nothing left at the end."""

import os
import signal
import subprocess
import time

import pytest
from slurm_cluster import PATIENCE, Cluster, SlurmError, running_cluster
from slurm_config import Shape, cgroup_conf, parse_records, slurm_conf
from slurm_files import CHECKOUT
from slurm_support import NODES, processes_of

pytestmark = pytest.mark.root
SCRIPT = f"{CHECKOUT}/scripts/slurm-cluster"


def lines(done):
    return sorted(done.stdout.split())


def eventually(condition):
    """Whether it becomes true."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return result


def test_a_user_runs_a_command_on_every_node(cluster):
    assert lines(cluster.run("srun", "-N4", "hostname", user="alice")) == list(NODES)
    assert set(lines(cluster.run("srun", "-N4", "id", "-un", user="alice"))) == {"alice"}


def test_tools_outside_reach_it_with_one_variable(cluster):
    environment = os.environ | cluster.variables
    done = subprocess.run(["srun", "-N2", "hostname"], env=environment, capture_output=True, text=True, cwd="/")
    assert (done.returncode, lines(done)) == (0, ["n1", "n2"]), done.stderr


def test_nodes_share_homes_and_nothing_else(cluster):
    script = 'for place in /tmp /run; do touch $place/$(hostname); ls $place | grep -c "^n[1-4]$"; done'
    assert lines(cluster.run("srun", "-N4", "sh", "-c", script)) == ["1"] * 8
    cluster.run("srun", "-N4", "sh", "-c", "touch ~/seen-$(hostname)", user="alice")
    assert lines(cluster.run("sh", "-c", "ls ~ | grep seen", user="alice")) == [f"seen-{node}" for node in NODES]
    roots = cluster.run("srun", "-N4", "grep", "^root", "/etc/envkit/config.toml", user="alice").stdout
    assert sorted(roots.splitlines()) == [f'root = "{cluster.node_root(node)}"' for node in NODES]


def test_an_array_is_spread_and_every_task_remembered(cluster):
    number = cluster.submit("--array=0-39", "--output=%a.out", "--wrap", "hostname; exit $((SLURM_ARRAY_TASK_ID / 39))")
    tasks = cluster.wait_for_job(number)
    assert len(tasks) == 40
    assert [task["ArrayTaskId"] for task in tasks if task["JobState"] != "COMPLETED"] == ["39"]
    assert len({task["NodeList"] for task in tasks}) > 1


def test_a_job_says_how_it_ended(cluster):
    ends = {"exit 3": ("FAILED", "3:0"), "kill -9 $$": ("FAILED", "0:9"), "true": ("COMPLETED", "0:0")}
    for script, expected in ends.items():
        record = cluster.wait_for_job(cluster.submit("--wrap", script, user="alice", directory="/tmp"))[0]
        assert (record["JobState"], record["ExitCode"]) == expected
    number = cluster.submit("--comment=a word=of it", "--output=/dev/null", "--wrap", "sleep 1000", user="alice")
    cluster.wait_for_job(number, "RUNNING")
    assert "denied" in cluster.run("scancel", number, user="bob", check=False).stderr
    cluster.run("scancel", number, user="alice")
    record = cluster.wait_for_job(number)[0]
    assert (record["JobState"], record["Comment"].strip()) == ("CANCELLED", "a word=of it")


def test_a_power_cut_ends_a_job_and_everything_on_the_node(cluster):
    number = cluster.submit("--no-requeue", "--nodelist=n2", "--wrap", "exec sleep 987123")
    cluster.wait_for_job(number, "RUNNING")
    eventually(lambda: "987123" in cluster.inside("n2", "ps", "-eo", "args").stdout)
    cluster.fail("n2")
    assert cluster.wait_for_job(number)[0]["JobState"] == "NODE_FAIL"
    assert not cluster.is_up("n2")
    assert "987123" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert lines(cluster.run("srun", "-N3", "hostname")) == ["n1", "n3", "n4"]
    with pytest.raises(SlurmError, match="n2 is not up"):
        cluster.inside("n2", "true")
    cluster.boot("n2")
    cluster.wait_for_nodes("n2")
    assert lines(cluster.run("srun", "-w", "n2", "hostname")) == ["n2"]


def test_a_job_outlives_the_slurmd_that_started_it(cluster):
    number = cluster.submit(
        "--nodelist=n3", "--wrap", "touch ~/begun; until [ -e ~/go ]; do sleep 0.1; done", user="bob"
    )
    home = f"{cluster.directory}/home/bob"
    assert eventually(lambda: os.path.exists(f"{home}/begun"))
    cluster.kill_slurmd("n3")
    cluster.run("touch", f"{home}/go")
    cluster.start_slurmd("n3")
    assert cluster.wait_for_job(number)[0]["JobState"] == "COMPLETED"


def test_a_head_that_restarts_knows_its_jobs(cluster):
    running = cluster.submit("--output=/dev/null", "--wrap", "sleep 1000")
    waiting = cluster.submit("--output=/dev/null", "--hold", "--wrap", "true")
    cluster.wait_for_job(running, "RUNNING")
    cluster.stop_controller()
    assert not cluster.controller_runs()
    cluster.start_controller()
    assert [cluster.jobs(number)[0]["JobState"] for number in (running, waiting)] == ["RUNNING", "PENDING"]
    cluster.run("scontrol", "release", waiting)
    assert cluster.wait_for_job(waiting)[0]["JobState"] == "COMPLETED"


def test_gpus_are_given_to_one_job_each(cluster):
    script = 'echo "$CUDA_VISIBLE_DEVICES"; sleep 1'
    words = ("--nodelist=n1", "--gres=gpu:1", "--output=gpu-%j", "--wrap", script)
    numbers = [cluster.submit(*words, user="alice") for _ in range(2)]
    for number in numbers:
        cluster.wait_for_job(number)
    assert lines(cluster.run("sh", "-c", "cat ~/gpu-*", user="alice")) == ["0", "1"]


@pytest.mark.lxc
def test_jobs_of_two_nodes_run_an_environment_from_caches_of_their_own(cluster, tiny_root):
    if not os.path.exists(f"{cluster.directory}/store/format.json"):
        cluster.run("envkit", "store", "init", f"{cluster.directory}/store")
    cluster.run("envkit", "base", "import", "tiny", tiny_root)
    done = cluster.run("srun", "-N2", "sudo", "envkit", "run", "-e", "base/tiny", "--", "id", "-u", user="alice")
    assert lines(done) == ["54321", "54321"]
    for node in ("n1", "n2"):
        assert os.listdir(f"{cluster.node_root(node)}/cache/layers") != []
    assert not os.path.exists(cluster.node_root("n3"))


def test_two_clusters_know_nothing_of_each_other_and_leave_nothing(cluster):
    number = cluster.submit("--output=/dev/null", "--wrap", "sleep 1000")
    with running_cluster(nodes=1) as other:
        assert lines(other.run("srun", "hostname")) == ["n1"]
        assert other.run("squeue", "--noheader").stdout == ""
        assert len(processes_of(other.directory)) >= 4  # so that none at the end means something
        seen = f"/run/{os.path.basename(other.directory)}"
        other.run("touch", seen)
        other.fail("n1")
    assert processes_of(other.directory) == set()
    assert not os.path.exists(other.directory)
    assert not os.path.exists(seen)
    assert lines(cluster.run("squeue", "--noheader", "--format=%i")) == [str(number)]
    assert [cluster.node_state(node) for node in NODES[1:]] == ["IDLE"] * 3


def test_a_cluster_ends_with_whoever_started_it(place):
    words = [SCRIPT, "run", "--nodes", "1", "--", "sleep", "1000"]
    environment = os.environ | {"ENVKIT_TEST_DIR": str(place)}
    with subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL) as starter:
        assert eventually(lambda: b"sleep\x001000" in b"".join(_words(pid) for pid in processes_of(place)))
        starter.send_signal(signal.SIGKILL)
    assert eventually(lambda: processes_of(place) == set())


def _words(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_a_cluster_goes_on_where_it_was_stopped(place):
    def call(*words):
        done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, cwd="/")
        return done.returncode, done.stdout, done.stderr

    directory = f"{place}/hpc"
    try:
        assert call("start", directory, "--nodes", "1", "--gpus", "0") == (
            0,
            f"export SLURM_CONF={directory}/slurm.conf\n",
            "",
        )
        assert call("start", directory)[0::2] == (1, f"error: {directory}: a cluster runs there already\n")
        number = Cluster(directory).submit("--hold", "--output=/dev/null", "--wrap", "true")
        assert call("fail", directory, "n9") == (1, "", f"error: {directory} has no node 'n9'\n")
        assert call("fail", directory, "n1") == call("boot", directory, "n1") == (0, "", "")
        assert call("stop", directory) == (0, "", "")
        assert call("stop", directory) == (1, "", f"error: {directory}: no cluster runs there\n")
        assert processes_of(directory) == set()
        assert call("start", directory, "--nodes", "1")[0] == 0
        assert call("shell", directory, "--user", "bob", "--", "sh", "-c", "squeue -ho %i; exit 7") == (
            7,
            f"{number}\n",
            "",
        )
    finally:
        Cluster(directory).stop()


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(SlurmError, match="at most 70 bytes"):
        Cluster("/var/tmp/" + "x" * 70)
    with pytest.raises(SlurmError, match="must not be in /tmp"):
        Cluster("/tmp/x")


def test_records_of_scontrol_are_read():
    text = "JobId=1 Comment=two words a=b Reason=None ReqB:S:C:T=0:0:*:* TRES=cpu=1,mem=1G\n\nJobId=2 JobState=FAILED\n"
    first, second = parse_records(text)
    assert first["Comment"] == "two words a=b"
    assert (first["ReqB:S:C:T"], first["TRES"], first["Reason"]) == ("0:0:*:*", "cpu=1,mem=1G", "None")
    assert second == {"JobId": "2", "JobState": "FAILED"}


def test_the_configuration_has_what_was_asked_for():
    text = slurm_conf(Shape("/d", (1, 2, 3), nodes=1, cloud=1, gpus=0, extra=("Epilog=/e",)))
    assert "NodeName=n1 NodeHostname=n1 NodeAddr=127.0.0.1 Port=2 CPUs=4 RealMemory=4096 State=UNKNOWN\n" in text
    assert "NodeName=c1 NodeHostname=c1 NodeAddr=127.0.0.1 Port=3 CPUs=4 RealMemory=4096 State=CLOUD\n" in text
    assert "\nEpilog=/e\n" in text and "\nResumeProgram=/d/bin/resume\n" in text
    assert (cgroup_conf((22, 5)), cgroup_conf((24, 11))) == ("", "CgroupPlugin=disabled\n")
