"""Lanes of tests: what each has for itself, where a test runs that needs the machine, and that Ctrl-C lets them clean up."""

import json
import os
import signal
import subprocess
import sys

import pytest
from commandline import CHECKOUT, wait_until

pytestmark = pytest.mark.root

_LOOKING = """
import json, os, pytest

MARK
def test_looking():
    seen = {
        "lane": os.environ["PYTEST_XDIST_WORKER"],
        "network": os.stat("/proc/self/ns/net").st_ino,
        "devices": os.listdir("/sys/class/net"),
        "groups": os.listdir("/sys/fs/cgroup"),
        "run": os.stat("/run/envkit").st_dev,
    }
    with open(__file__ + ".json", "w") as file:
        json.dump(seen, file)
    assert "bad" not in __file__
"""
_CLEANING = """
import pytest, time

@pytest.fixture(scope="session")
def server():
    open(__file__ + ".begun", "w").close()
    yield
    time.sleep(3)
    open(__file__ + ".clean", "w").close()

def test_it(server):
    time.sleep(600)
"""
_HASTY = """
from xdist.workermanage import NodeManager

NodeManager.EXIT_TIMEOUT = 0.2  # it is ten seconds, and a test need not take as long
"""
_IMPATIENT = "import lanes\n\nlanes.CLEANING = 0.0\n"


class Project:
    """Tests in a directory of their own, which pytest runs in two lanes."""

    def __init__(self, directory):
        self.directory = directory
        self.write("pytest.ini", "[pytest]\nmarkers =\n    network: needs it\n")

    def write(self, path, text):
        place = self.directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")

    def start(self):
        argv = [sys.executable, "-m", "pytest", "-p", "lanes", "-p", "no:cacheprovider", "-n", "2"]
        argv += ["--basetemp", f"{self.directory}/base"]
        more = {"PYTHONPATH": f"{self.directory}:{CHECKOUT}:{CHECKOUT}/tests", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(argv, cwd=self.directory, env=os.environ | more, stdout=subprocess.PIPE, text=True)

    def has(self, end):
        return sorted(path.name.partition(".")[0] for path in self.directory.rglob(f"*.py.{end}"))


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def look(project, *paths):
    """Run tests that write down what they see; return that, pytest's output and its exit code."""
    for path in paths:
        project.write(path, _LOOKING.replace("MARK", "@pytest.mark.network" if "net" in path else ""))
    with project.start() as process:
        output = process.stdout.read()
    seen = {path: json.loads((project.directory / f"{path}.json").read_text()) for path in paths}
    return seen, output, process.returncode


def test_a_lane_has_its_own_network_and_the_first_has_the_machines(project):
    paths = ("tests/unit/test_a.py", "tests/unit/test_net.py", "tests/unit/test_b.py", "tests/faults/test_c.py")
    seen, output, code = look(project, *paths)
    assert code == 0, output
    assert "4 passed" in output
    assert seen["tests/unit/test_net.py"]["lane"] == "gw0"
    assert seen["tests/faults/test_c.py"]["lane"] == "gw1"  # begun first, by the lane that has no test for the machine
    apart = [found for found in seen.values() if found["lane"] == "gw1"]
    first = [found for found in seen.values() if found["lane"] == "gw0"]
    assert len(apart) == len(first) == 2
    here = os.stat("/proc/self/ns/net").st_ino
    assert all(found["network"] == here for found in first)
    assert all(found["network"] != here and sorted(found["devices"]) == ["lane0", "lane1", "lo"] for found in apart)
    assert all(found["groups"] == os.listdir("/sys/fs/cgroup") for found in seen.values())
    assert apart[0]["run"] != first[0]["run"]


def test_a_failure_in_any_lane_is_one_of_the_run(project):
    _, output, code = look(project, "test_a.py", "test_bad.py", "test_c.py", "test_d.py")
    assert code == 1
    assert "1 failed, 3 passed" in output


def test_a_test_that_needs_the_machine_and_does_not_say_so_plainly_fails_elsewhere(project):
    for path in ("test_a.py", "test_b.py"):
        project.write(path, "import pytest\n\nM = pytest.mark.network\n\n@M\ndef test_it():\n    pass\n")
    with project.start() as process:
        output = process.stdout.read()
    assert process.returncode == 1
    assert "so that the file stays in the first lane" in output
    assert "1 passed, 1 error" in output


def interrupt(project):
    """Press Ctrl-C while two lanes run, and return which of them have cleaned up."""
    project.write("test_a.py", _CLEANING)
    project.write("test_b.py", _CLEANING)
    with project.start() as process:
        wait_until(lambda: len(project.has("begun")) == 2, "both lanes have begun")
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 2
    return project.has("clean")


def test_an_interrupt_lets_every_lane_clean_up(project):
    project.write("conftest.py", _HASTY)
    assert interrupt(project) == ["test_a", "test_b"]


def test_lanes_that_are_not_waited_for_do_not_clean_up(project):
    project.write("conftest.py", _HASTY + _IMPATIENT)
    assert interrupt(project) == []
