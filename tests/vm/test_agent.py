"""The agent of a guest, without a guest: what it says of commands that go well, badly, or on and on."""

import io
import json
import sys

from vm import agent, releases


class Host(io.BytesIO):
    """The host's end of the port."""

    def frames(self):
        self.seek(0)
        found = []
        while header := self.read(agent.HEADER.size):
            kind, length = agent.HEADER.unpack(header)
            found.append((kind, self.read(length)))
        return found


def said(*argv, timeout=60.0, env=None):
    """Return what a command printed, what it complained about, and its exit code."""
    host = Host()
    agent.run(host, json.loads(json.dumps({"argv": argv, "env": env or {}, "cwd": "/", "timeout": timeout})))
    frames = host.frames()
    assert [kind for kind, _ in frames].index(b"x") == len(frames) - 1
    return tuple(b"".join(data for kind, data in frames if kind == wanted) for wanted in (b"o", b"e", b"x"))


def test_output_errors_and_exit_code_come_apart():
    program = "import os, sys; os.write(1, b'\\0out'); os.write(2, os.environb[b'SAY']); sys.exit(7)"
    assert said(sys.executable, "-c", program, env={"SAY": "err"}) == (b"\0out", b"err", b"7")


def test_much_output_arrives_whole():
    out, _, code = said(sys.executable, "-c", "import sys; sys.stdout.write('line\\n' * 200_000)")
    assert (len(out), code) == (1_000_000, b"0")


def test_a_command_that_is_not_there_is_127_and_one_that_a_signal_ended_128_and_its_number():
    out, err, code = said("/nonexistent/program")
    assert (out, code) == (b"", b"127")
    assert b"No such file" in err
    assert said("/bin/sh", "-c", "kill -9 $$")[2] == b"137"


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started():
    out, _, code = said("/bin/sh", "-c", "echo begun; sleep 600 & sleep 600", timeout=1.0)
    assert (out, code) == (b"begun\n", b"124")


def test_what_a_command_leaves_running_does_not_hold_its_end_up():
    assert said("/bin/sh", "-c", "sleep 20 & exit 3")[2] == b"3"


def test_a_guest_has_what_provision_installs():
    assert {"lxc", "erofs-utils", "strace", "systemd", "apparmor"} <= set(releases.packages())
    assert any(name.startswith("pytest") for name in releases.requirements())
