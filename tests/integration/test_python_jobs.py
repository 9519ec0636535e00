"""The Python API against the real thing: this machine's queue, containers, and an environment that has Python."""

import concurrent.futures
import hashlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time

import pytest
from commandline import PATIENCE

import envkit as api
from envkit.client import follower
from envkit.errors import InvalidInput, NotFound

pytestmark = [pytest.mark.root, pytest.mark.lxc]
LONG = 4 * PATIENCE


@pytest.fixture(scope="session")
def lab(new_root, python_root):
    """A root with the environment `sci`, which has this Python, and `other`, which says that it has another one."""
    envkit = new_root(place="python")
    assert envkit("base", "import", "python", python_root).ok() == "base/python@1"
    # A name is enough: that it is this machine's Python shows only when it runs, and it never does.
    another = f"python3.{sys.version_info.minor + 1}"
    script = f"cp {os.path.realpath(sys.executable)} /usr/bin/{another}; ln -sf {another} /usr/bin/python3"
    envkit.saved("sci", "echo 0.5 > /etc/constant", base="python")
    envkit.saved("other", script, base="python")
    envkit.saved("bare", "rm /usr/bin/python3", base="python")
    return envkit


@pytest.fixture
def sci(lab, monkeypatch, tmp_path):
    """The Python API with that root, in a directory that none of the tests' modules lie in."""
    for name, value in lab.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENVKIT_COMMAND", shlex.join(lab.argv()))
    monkeypatch.setattr(follower, "_follower", follower.Follower())
    return "sci"


def test_a_call(sci):
    def solve(x, *, power):
        with open("/etc/constant", encoding="ascii") as file:
            constant = float(file.read())
        sys.stdout.write("solving\n")
        return constant * x**power, os.environ["ENVKIT_ENVIRONMENT"], os.path.exists("/etc/debian_version")

    future = api.call(solve, 4, power=2, _env=sci, _cores=1, _label="one")
    assert future.result(LONG) == (8.0, "lab/sci@1", False)
    assert future.stdout == "solving\n"
    assert (future.status, future.stderr) == ("done", "")


def test_map_is_an_array_and_its_functions_enclose_what_they_need(sci):
    factor = 3
    futures = api.map(lambda a, b: factor * a + b, range(20), range(20), _env=sci)
    assert futures.results(LONG) == [4 * number for number in range(20)]
    assert len({future.id.partition("_")[0] for future in futures}) == 1
    assert {future.id.partition("_")[2] for future in futures} == {str(number) for number in range(20)}


def test_exceptions_come_back_as_themselves(sci):
    class Diverged(Exception):
        def __init__(self, step):
            super().__init__(f"at step {step}")
            self.step = step

        def __reduce__(self):
            return Diverged, (self.step,)

    def iterate(steps):
        raise Diverged(steps)

    with pytest.raises(Diverged, match="at step 7") as caught:
        api.call(iterate, 7, _env=sci).result(LONG)
    assert caught.value.step == 7
    assert isinstance(caught.value.__cause__, api.RemoteTraceback)
    assert "in iterate" in str(caught.value.__cause__)


def test_a_module_that_the_environment_does_not_have(sci):
    def use():
        import no_such_module  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        api.call(use, _env=sci).result(LONG)


def test_a_task_that_dies(sci):
    def die():
        os.write(2, b"the last words\n")
        os.kill(os.getpid(), 9)

    with pytest.raises(api.JobFailed, match="the last words") as caught:
        api.call(die, _env=sci).result(LONG)
    assert caught.value.state == "failed"


def test_killing_a_task(sci):
    future = api.call(time.sleep, 1000, _env=sci)
    deadline = time.monotonic() + LONG
    while not future.running():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    future.kill()
    with pytest.raises(api.JobFailed, match="was killed"):
        future.result(LONG)
    assert future.status == "killed"


def test_a_time_that_is_up(sci):
    with pytest.raises(api.JobFailed, match="ran out of time"):
        api.call(time.sleep, 1000, _env=sci, _time="1s").result(LONG)


def test_an_executor(sci):
    with api.Executor(sci, cores=1) as executor:
        futures = {executor.submit(pow, number, 2): number for number in range(8)}
        for future in concurrent.futures.as_completed(futures, LONG):
            assert future.result() == futures[future] ** 2
        assert list(executor.map(hashlib_of, [b"a", b"b"], timeout=LONG)) == [hashlib_of(b"a"), hashlib_of(b"b")]


def hashlib_of(data):
    return hashlib.sha256(data).hexdigest()


def test_large_arguments_and_values(sci):
    data = os.urandom(1 << 20) * 200
    future = api.call(lambda given: (hashlib_of(given), given[::-1]), data, _env=sci, _memory="2G")
    digest, backwards = future.result(LONG)
    assert digest == hashlib_of(data)
    assert len(backwards) == len(data) and backwards[:100] == data[:-101:-1]


def test_another_version_of_python_is_refused_before_anything_is_queued(sci, lab):
    before = lab.json("jobs", "--all")
    client, has = (f"3.{sys.version_info.minor + more}" for more in (0, 1))
    with pytest.raises(InvalidInput, match=f"lab/other@1 has Python {has} .*, this is Python {client}") as caught:
        api.call(abs, 1, _env="other")
    assert "_python=" in caught.value.resolution or f"with Python {client}" in caught.value.resolution
    with pytest.raises(NotFound, match="has no python3"):
        api.call(abs, 1, _env="bare")
    with pytest.raises(NotFound, match="nowhere"):
        api.call(abs, 1, _env="nowhere")
    assert lab.json("jobs", "--all") == before


def test_another_python_of_the_environment(sci):
    real = os.path.realpath(sys.executable)
    executable = api.call(getattr, sys, "executable", _env="other", _python=real)
    assert executable.result(LONG) is not None
    with pytest.raises(NotFound, match="no program /usr/bin/nothing"):
        api.call(abs, 1, _env=sci, _python="/usr/bin/nothing")


def test_a_value_that_somebody_changed_in_the_store_is_not_unpickled(sci, lab):
    future = api.call(bytes, 3_000_000, _env=sci)
    concurrent.futures.wait([future], LONG)
    found = [
        os.path.join(place, name)
        for place, _, names in os.walk(f"{lab.root}/store/jobs")
        for name in names
        if name.endswith(".value") and os.path.getsize(os.path.join(place, name)) > 3_000_000
    ]
    newest = max(found, key=os.path.getmtime)
    with open(newest, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    with pytest.raises(api.EnvkitError, match="was not written by the job"):
        future.result()


def test_an_environment(sci, tmp_path):
    env = api.Environment("made")
    env.create(base="python", description="for a test")
    try:
        done = env.exec("sh", "-c", "echo 1 > /etc/made; echo said; echo complained >&2")
        assert (done.returncode, done.stdout, done.stderr) == (0, "said\n", "complained\n")
        with pytest.raises(subprocess.CalledProcessError) as caught:
            env.exec("sh", "-c", "exit 3")
        assert caught.value.returncode == 3
        assert env.exec("sh", "-c", "exit 3", check=False).returncode == 3
        assert env.save("the first")["version"] == "lab/made@1"
        env.exec("sh", "-c", "echo 2 > /etc/made")
        env.save("the second", close=True)
    except BaseException:
        env.close(discard=True)
        raise
    assert env.run("cat", "/etc/made").stdout == "2\n"
    assert api.Environment("made@1").run("cat", "/etc/made").stdout == "1\n"
    assert env.run("cat", "/given/a", volumes=[f"{tmp_path}:/given"], check=False).returncode == 1
    with pytest.raises(api.EnvkitError, match="has no command 'nothing'"):
        env.run("nothing")
    assert [version["version"] for version in env.versions()] == [2, 1]
    assert env.info()["message"] == "the second"
    assert [change["path"] for change in env.diff(1, 2)["files"]] == ["/etc/made"]
    env.delete()
    with pytest.raises(NotFound):
        env.info()


def test_the_store_keeps_no_function_that_nobody_submitted(sci, lab):
    """What cannot be pickled leaves nothing behind."""
    before = sorted(os.listdir(f"{lab.root}/store/jobs/lab")) if os.path.isdir(f"{lab.root}/store/jobs/lab") else []
    with pytest.raises(TypeError, match="pickle"):
        api.call(abs, threading.Lock(), _env=sci)
    after = sorted(os.listdir(f"{lab.root}/store/jobs/lab")) if os.path.isdir(f"{lab.root}/store/jobs/lab") else []
    assert after == before


def test_what_the_client_hears_of_a_job_that_there_is_none_of(lab):
    done = lab("follow", input=b"4711\n")
    rows = [json.loads(line) for line in done.ok().splitlines()]
    assert [(row["job"], row["index"], row["state"]) for row in rows] == [(4711, None, "lost")]
    assert "no job 4711" in rows[0]["error"]


@pytest.mark.parametrize(
    "line", [b"nothing\n", b"9-1\n", b"\xff\n", b"1" * (2 << 20)], ids=["word", "range", "bytes", "long"]
)
def test_what_is_no_job_is_refused(lab, line):
    done = lab("follow", input=line)
    assert done.code == 2
    assert json.loads(done.stderr.splitlines()[-1])["event"] == "error"
    assert done.out == b""
