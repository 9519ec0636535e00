"""`drivers/detached`: a program that outlives whoever starts it, and has nothing of it but what it is given."""

import errno
import json
import os
import signal
import stat
import sys
import time

import pytest

from envkit.drivers import detached, process
from envkit.drivers.errors import KernelRefused

_TELL = """
import json, os, sys
told = {
    "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "path": sys.path, "variables": dict(os.environ),
    "arguments": sys.argv[1:], "streams": [os.readlink(f"/proc/self/fd/{n}") for n in range(3)],
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd")),
}
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(told, file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
sys.stderr.write("it says this\\n")
"""


@pytest.fixture
def told(tmp_path):
    """A path, and a function that waits for what the program writes there."""

    class Told:
        path = str(tmp_path / "told")
        log = str(tmp_path / "log")

        def wait(self):
            deadline = time.monotonic() + 60
            while not os.path.exists(self.path) and time.monotonic() < deadline:
                time.sleep(0.02)
            with open(self.path) as file:
                return json.load(file)

    return Told()


def logged(path, text):
    """Wait until a log has a text."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open(path) as file:
            found = file.read()
        if text in found:
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def test_it_is_nobodys_child_in_a_session_of_its_own(told, monkeypatch):
    monkeypatch.setenv("SECRET", "not to be passed on")
    detached.start(_TELL, [told.path, "an argument"], what="it", log=told.log, env={"MORE": "1"})
    found = told.wait()
    with pytest.raises(ChildProcessError):
        os.waitpid(found["pid"], os.WNOHANG)
    assert found["parent"] != os.getpid()
    assert found["session"] == found["pid"]
    assert found["arguments"] == [told.path, "an argument"]
    assert found["path"] == [entry for entry in sys.path if entry]
    assert found["variables"].pop("MORE") == "1"
    assert set(found["variables"]) <= {*process.minimal_environment(), "LC_CTYPE"}
    assert found["streams"] == ["/dev/null", "/dev/null", told.log]
    assert logged(told.log, "it says") == "it says this\n"
    assert stat.S_IMODE(os.stat(told.log).st_mode) == 0o600


def test_it_has_no_descriptor_that_it_is_not_given(told):
    kept, other = os.memfd_create("kept"), os.memfd_create("other")
    os.write(kept, b"something")
    log = os.open(told.log, os.O_WRONLY | os.O_CREAT)
    try:
        pid = detached.spawn(_TELL, [told.path], log=log, keep=(kept,))
        found = told.wait()
        assert os.waitpid(pid, 0) == (pid, 0)
    finally:
        for descriptor in (kept, other, log):
            os.close(descriptor)
    assert (found["pid"], found["parent"], found["session"]) == (pid, os.getpid(), pid)
    assert kept in found["descriptors"]
    assert not {other, log} & set(found["descriptors"]) - {kept, 0, 1, 2, max(found["descriptors"])}


def test_it_outlives_who_starts_it(told):
    between = os.fork()
    if between == 0:
        detached.start(f"import time; time.sleep(0.3)\n{_TELL}", [told.path], what="it", log=told.log)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(between, 0)[1] == signal.SIGKILL
    assert told.wait()["arguments"] == [told.path]


def test_a_long_log_begins_anew_and_a_short_one_goes_on(told):
    for size, left in ((1 << 20, True), ((1 << 20) + 1, False)):
        with open(told.log, "w") as file:
            file.write("x" * size)
        detached.start("import sys; sys.stderr.write('it says this')", [], what="it", log=told.log)
        assert logged(told.log, "it says this").startswith("x") == left


def test_a_log_that_cannot_be_opened_is_told(told):
    os.symlink("/dev/null", told.log)
    with pytest.raises(KernelRefused, match="the log"):
        detached.start(_TELL, [told.path], what="it", log=told.log)
    assert not os.path.exists(told.path)


def test_that_there_can_be_no_more_processes_is_told(told, monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(KernelRefused, match="cannot start it: Resource temporarily unavailable"):
        detached.start(_TELL, [told.path], what="it", log=told.log)
    assert os.listdir("/proc/self/fd") == before
