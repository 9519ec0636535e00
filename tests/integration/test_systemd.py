"""The image server as a service of systemd, and what control groups of services and logins do to it and to jobs."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from commandline import CHECKOUT, PATIENCE, read_until, wait_until

pytestmark = [pytest.mark.root, pytest.mark.lxc, pytest.mark.systemd]

UNIT = "envkit-images-test.service"
PLACE = f"/run/systemd/system/{UNIT}"
READS = "cat /opt/first; read line; cat /opt/second | wc -c"


def systemctl(*words, check=True):
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def show(name):
    return systemctl("show", "--property", name, "--value", UNIT)


def transient(envkit, *words):
    """Return the command line of a service that lasts as long as its command, which gets envkit's settings."""
    settings = {**envkit._settings, "PYTHONPATH": CHECKOUT}
    variables = [f"--setenv={name}={value}" for name, value in settings.items()]
    return ["systemd-run", "--quiet", "--pipe", "--wait", *variables, *words]


def as_service(envkit, *words):
    """Run envkit as a service of its own, to its end."""
    done = subprocess.run(transient(envkit, *envkit.argv(*words)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def groups(pid):
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
        return file.read()


@pytest.fixture(scope="module")
def store(new_root, tiny_root):
    """A root whose store has `lab/env`, with two files that are not in one chunk."""
    envkit = new_root(place="saver")
    envkit("base", "import", "tiny", tiny_root).ok()
    with envkit.session("env", script="echo first >/opt/first; head -c 9000000 /dev/urandom >/opt/second"):
        envkit("save", "env").ok()
    return envkit


@pytest.fixture
def node(new_root, store):
    """A node that has nothing of the store's environments, and no image server in the end."""
    envkit = new_root(place="node", store=f"{store.root}/store")
    yield envkit
    envkit("cache", "stop", "--force")


@pytest.fixture
def service(node):
    """The unit as it is shipped, for the node: with this code, and under another name."""
    with open(f"{CHECKOUT}/scripts/systemd/envkit-images.service", encoding="utf-8") as file:
        unit = file.read()
    program = f"{sys.executable} -m envkit"
    assert unit.count("/usr/local/bin/envkit ") == 2
    settings = {**node._settings, "PYTHONPATH": CHECKOUT}
    variables = "".join(f"Environment={name}={value}\n" for name, value in settings.items())
    unit = unit.replace("/usr/local/bin/envkit ", f"{program} ").replace("[Service]\n", f"[Service]\n{variables}")
    with open(PLACE, "w", encoding="utf-8") as file:
        file.write(unit)
    systemctl("daemon-reload")
    systemctl("start", UNIT)
    wait_until(lambda: node.json("stat")["running"], "the service serves")
    yield UNIT
    node("cache", "stop", "--force")
    systemctl("stop", UNIT, check=False)
    os.unlink(PLACE)
    systemctl("daemon-reload")
    systemctl("reset-failed", check=False)


def started(node):
    """Start a job that has read something and will read more when it gets a line."""
    job = node.start("run", "-e", "env", "--no-start-pack", "--", "sh", "-c", READS, stdin=subprocess.PIPE)
    assert job.stdout.readline() == b"first\n"
    return job


def finished(job):
    out, err = job.communicate(b"\n", PATIENCE)
    assert (job.returncode, out) == (0, b"9000000\n"), err


def test_the_service_serves_jobs_and_ends_when_it_is_stopped(node, service):
    assert show("ActiveState") == "active"
    assert UNIT in groups(node.json("stat")["pid"])
    finished(started(node))
    wait_until(lambda: node("cache", "stop").code == 0, "nothing uses the server")
    wait_until(lambda: show("ActiveState") == "inactive", "the service ends with the server")
    assert show("Result") == "success"


def test_jobs_survive_the_death_of_the_server(node, service):
    job = started(node)
    before = node.json("stat")["pid"]
    os.kill(before, signal.SIGKILL)
    finished(job)
    assert node.json("stat")["pid"] != before
    assert show("ActiveState") == "active"


def test_jobs_survive_the_death_of_the_holder(node, service):
    job = started(node)
    os.kill(int(show("MainPID")), signal.SIGKILL)
    wait_until(lambda: show("ActiveState") != "active", "systemd has seen it")
    finished(job)


def test_jobs_survive_a_stop_of_the_service(node, service):
    job = started(node)
    systemctl("stop", UNIT, check=False)
    assert show("ActiveState") in ("inactive", "failed")
    finished(job)
    assert node.sh("env", "cat /opt/first").ok() == "first"


def test_the_server_of_a_job_outlives_the_service_that_started_it(node):
    assert as_service(node, "run", "-e", "env", "--no-start-pack", "--", "cat", "/opt/first") == b"first\n"
    state = node.json("stat")
    assert state["running"]
    assert ".service" not in groups(state["pid"])
    finished(started(node))


def test_a_session_outlives_the_service_that_opened_it(node):
    as_service(node, "create", "work", "--from", "env", "--no-shell")
    monitor = node.monitor("work")
    node.inside("work", "echo more >/opt/more").ok()
    assert node.monitor("work") == monitor, "the session had ended with the service"
    node("save", "work", "--as", "other", "--close").ok()


def test_a_session_outlives_the_login_that_opened_it(node):
    """Even one whose processes logind ends, as it does at each logout where KillUserProcesses=yes."""
    opening = shlex.join(node.argv("create", "work", "--from", "env", "--no-shell"))
    script = f"{opening} && cat /proc/self/cgroup; read line; echo left"
    argv = transient(node, "--property=User=root", "--property=PAMName=login", "sh", "-c", script)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(argv, **pipes) as login:
        (number,) = re.findall(rb"/session-(\w+)\.scope", read_until(login.stdout, b".scope\n"))
        monitor = node.monitor("work")
        subprocess.run(["loginctl", "terminate-session", number], check=True)
        login.wait(PATIENCE)
        assert login.stdout.read() == b"", "the login ended by itself"
    node.inside("work", "echo more >/opt/more").ok()
    assert node.monitor("work") == monitor, "the session had ended with the login"
    node("close", "work", "--discard").ok()
