"""Roots for the command line on a real disk, and the bases that tests start from; all of it gone in the end."""

import glob
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest
from commandline import CHECKOUT, Envkit, Outcome
from python_support import python_root  # noqa: F401  # here, so that all tests share one
from traces import new_traces, traces

from envkit.drivers.files import remove_tree
from envkit.model.paths import Paths
from envkit.ondemand.client import Client

DISK = os.environ.get("ENVKIT_TEST_DIR", "/var/tmp")


@pytest.fixture(scope="session")
def disk():
    """A directory for everything that tests of the command line leave on a disk."""
    path = tempfile.mkdtemp(prefix="envkit-test-", dir=DISK)
    os.chmod(path, 0o755)
    yield path
    remove_tree(path)
    assert not os.path.exists(path)


@pytest.fixture(scope="session")
def new_root(disk):
    """A function that makes another root; each has to be empty of sessions and running things in the end."""
    made = {}

    def make(*, place="root", **options):
        envkit = Envkit(f"{disk}/{place}-{len(made)}", **options)
        made[envkit] = traces(envkit)
        return envkit

    yield make
    for envkit, before in made.items():
        if not os.path.isdir(envkit.root):
            continue
        for session in envkit.json("status"):
            envkit("close", session["session"], "--discard").ok()
        envkit("doctor", "--fix")
        assert Client.stop(Paths.at(envkit.root)), f"{envkit.root}: something still uses the image server"
        left = new_traces(envkit, before)
        for path in (envkit.run_directory, f"/run/lxc/lock{envkit.run_directory}"):
            shutil.rmtree(path, ignore_errors=True)
        assert left == [], f"{envkit.root} left something behind"


@pytest.fixture(scope="session")
def shared(new_root):
    """The root that most tests use, so that they need not import bases again."""
    return new_root()


@pytest.fixture
def envkit(shared, tiny):
    """The command line, with the base `tiny` there; fails a test that leaves a session open."""
    yield shared
    left = glob.glob(f"{shared.root}/sessions/*/*")
    for path in left:
        shared("close", "/".join(path.split("/")[-2:]), "--discard")
    assert left == [], "the test left sessions open"


@pytest.fixture(scope="session")
def tiny_root(disk):
    """A root file system of busybox alone."""
    root = f"{disk}/tiny"
    for name in ("bin", "etc", "home", "root", "usr/share", "usr/bin", "var/log", "opt", "proc", "sys", "dev", "run"):
        os.makedirs(f"{root}/{name}")
    os.mkdir(f"{root}/tmp")
    os.chmod(f"{root}/tmp", 0o1777)
    busybox = shutil.which("busybox")
    shutil.copy(busybox, f"{root}/bin/busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True).stdout.split():
        if applet != "busybox":
            os.symlink("busybox", f"{root}/bin/{applet}")
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        "etc/group": "root:x:0:\nnogroup:x:65534:\n",
        "etc/profile": "export PS1='# '\n",
        "usr/share/old": "from the base\n",
        "usr/share/doc/a": "a\n",
        "usr/share/doc/b": "b\n",
    }
    for path, text in files.items():
        os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
        with open(f"{root}/{path}", "w", encoding="utf-8") as file:
            file.write(text)
    return root


@pytest.fixture(scope="session")
def tiny(shared, tiny_root):
    """The base `tiny` in the shared root."""
    assert shared("base", "import", "tiny", tiny_root, "-d", "busybox").ok() == "base/tiny@1"
    return "tiny"


@pytest.fixture(scope="session")
def debian(shared):
    """The base `debian-12`, built once for all tests."""
    assert shared("base", "build", "debian-12", patience=600).ok() == "base/debian-12@1"
    return "debian-12"


_NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]


@pytest.fixture(scope="session")
def as_nobody(disk):
    """A function that runs a command line of a root as uid 65534."""
    # The checkout may lie in a home that is closed to others.
    shutil.copytree(f"{CHECKOUT}/envkit", f"{disk}/code/envkit", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([*_NOBODY, sys.executable, "-c", "import click"], cwd="/", capture_output=True, check=False)
    assert done.returncode == 0, f"an ordinary user cannot run {sys.executable}: move the virtual environment"

    def run(envkit, *words):
        more = {"PYTHONPATH": f"{disk}/code", "PYTHONDONTWRITEBYTECODE": "1"}
        argv, env = [*_NOBODY, *envkit.argv(*words)], envkit.environment(more=more)
        done = subprocess.run(argv, env=env, capture_output=True, timeout=60, check=False, cwd="/")
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def place(disk):
    """An empty directory that every user can reach, which pytest's own are not."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="place-", dir=disk))
    path.chmod(0o755)
    yield path
    remove_tree(str(path))
