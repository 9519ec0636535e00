"""Jobs on nodes that share no directory: the store is a bucket on a real S3 server, which goes away for a while."""

import json
import os

import pytest
from fault_proxy import FaultProxy, Rule
from s3_support import KEY, SECRET
from slurm_files import USERS
from slurm_support import Desk, until

pytestmark = [pytest.mark.root, pytest.mark.lxc]
AWAY = Rule("reset", times=None)


@pytest.fixture(scope="module")
def proxy(s3):
    host, _, port = s3.endpoint.removeprefix("http://").partition(":")
    with FaultProxy(host, int(port)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def carol(slurm, s3, proxy, tiny_root):
    """Alice with a profile that names the bucket and its server; what nodes have in /etc names another store."""
    home = f"{slurm.directory}/home/alice"
    url = s3.new_url()
    profile = {"store": url, "endpoint": proxy.endpoint, "region": "us-east-1"}
    write(f"{home}/.config/envkit/config.toml", "[profile.bucket]\n", profile)
    write(
        f"{home}/.aws/credentials", "[default]\n", {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}, raw=True
    )
    desk = Desk(slurm, "alice")
    desk("--profile", "bucket", "store", "init", url).ok()
    desk("--profile", "bucket", "base", "import", "tiny", tiny_root).ok()
    yield lambda *words, **options: desk("--profile", "bucket", *words, **options)
    os.unlink(f"{home}/.config/envkit/config.toml")
    os.unlink(f"{home}/.aws/credentials")


def write(path, title, values, *, raw=False):
    """Write a file of settings that belongs to alice."""
    home = path.partition("/.")[0]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(title + "".join(f"{key} = {value if raw else json.dumps(value)}\n" for key, value in values.items()))
    place = path
    while place != home:
        os.chown(place, USERS["alice"], USERS["alice"])
        place = os.path.dirname(place)
    os.chmod(path, 0o600)


def ended(desk, job):
    desk("wait", job, "--timeout", "100")
    return json.loads(desk("jobs", job, "--json").ok())


def test_nodes_find_the_bucket_by_what_the_submitter_has_said(carol, cluster):
    job = carol("submit", "-e", "base/tiny", "--array", "0-5", "--", "sh", "-c", "echo $ENVKIT_TASK_INDEX").ok()
    rows = ended(carol, job)
    assert [row["state"] for row in rows] == ["done"] * 6, rows
    results = json.loads(carol("result", job, "--json").ok())
    assert [row["output"] for row in results] == [f"{index}\n" for index in range(6)]
    assert carol("logs", f"{job}_3").ok() == "3"
    assert {os.path.exists(f"{cluster.directory}/store/jobs/alice/{name}") for name in tokens(cluster, job)} == {False}
    assert SECRET not in cluster.run("scontrol", "write", "batch_script", job, "-").stdout


def tokens(cluster, job):
    return {record["Comment"].split()[2] for record in cluster.jobs(job)}


def test_a_job_outlives_a_store_that_is_away(carol, cluster, proxy):
    home = f"{cluster.directory}/home/alice"
    script = "echo early; until test -e /home/go; do sleep 0.1; done; echo late; exit 4"
    job = carol("submit", "-e", "base/tiny", "-v", f"{home}:/home", "--", "sh", "-c", script).ok()
    until(lambda: carol("logs", job).out == b"early\n", "it to run")
    proxy.rules = [AWAY]
    try:
        cluster.run("touch", f"{home}/go", user="alice")
        until(lambda: proxy.met, "the node to miss its store")
    finally:
        proxy.rules = []
        os.unlink(f"{home}/go")
    (row,) = ended(carol, job)
    assert (row["state"], row["code"]) == ("failed", 4)
    assert carol("result", job).out == b"early\nlate\n"
