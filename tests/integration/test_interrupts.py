"""Ctrl-C and its kin at any moment of a save: nothing is lost or left over, and what remains is told."""

import glob
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from commandline import CHECKOUT, Terminal, wait_until
from screen import screen
from traces import new_traces, traces

from envkit.drivers import cgroup

pytestmark = [pytest.mark.root, pytest.mark.lxc]

SIZE = 100_000_000
WRITE = "head -c 20 /dev/urandom >/opt/small"  # there is something to save again

_numbers = itertools.count()


@pytest.fixture
def large(envkit):
    for path in _unfinished(envkit):  # other tests kill saves in this root
        os.unlink(path)
    with envkit.session(f"interrupts-{next(_numbers)}", script=f"head -c {SIZE} /dev/urandom >/opt/blob") as name:
        yield name


def _unfinished(envkit):
    """What a put that was cut short leaves in a store."""
    return glob.glob(f"{envkit.root}/store/**/~tmp.*", recursive=True)


def _state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]


def _frozen(envkit, name):
    return cgroup._is_frozen(*cgroup._freezer(envkit.identity(name)))


def test_a_save_that_is_killed_is_seen_to_leave_something(envkit, large):
    """Without it nobody would know whether the checks of the other tests see anything."""
    assert envkit("save", large, env={"ENVKIT_CRASH": "store:packs"}).code == -signal.SIGKILL
    assert _frozen(envkit, large)
    envkit.inside(large, "true", patience=20).ok()
    assert not _frozen(envkit, large)
    with open(f"{envkit.root}/store/~tmp.0", "wb"):
        assert _unfinished(envkit) == [f"{envkit.root}/store/~tmp.0"]
    os.unlink(f"{envkit.root}/store/~tmp.0")


def _check(envkit, name, digest):
    """A session goes on as it was, and nothing is left over."""
    assert not _frozen(envkit, name)  # asked first: the next command would thaw it
    assert _unfinished(envkit) == []
    assert envkit.inside(name, "sha256sum /opt/blob", patience=20).ok() == digest


def test_a_save_that_is_interrupted_at_any_moment_changes_nothing(envkit, large):
    digest = envkit.inside(large, "sha256sum /opt/blob").ok()
    before = traces(envkit)
    chance = random.Random(7)
    versions = 0
    for round in range(12):
        number = (signal.SIGINT, signal.SIGTERM)[round % 2]
        with envkit.start("save", large) as process:
            time.sleep(0.25 + chance.random() * 0.9)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        # Python itself dies of what comes before envkit has begun.
        assert b"Traceback" not in err or b"KeyboardInterrupt" in err.splitlines()[-1], err
        assert process.returncode in (0, 128 + number, -number), err
        if process.returncode > 0:
            _check_told(number, out, err.decode())
        _check(envkit, large, digest)
        versions = _check_versions(envkit, large, versions, process.returncode, err.decode())
        envkit.inside(large, WRITE).ok()
    assert new_traces(envkit, before) == []
    assert envkit("save", large).ok() == f"lab/{large}@{versions + 1}"
    assert envkit.sh(large, "sha256sum /opt/blob").ok() == digest


def _check_told(number, out, err):
    first = {signal.SIGINT: "interrupted: ", signal.SIGTERM: "ended by SIGTERM: "}[number]
    assert first in err
    assert out == b"" or " is stored" in err


def _check_versions(envkit, name, before, code, err):
    """A save has made one version if it says so, none if it says nothing, and either if it says that it may have."""
    after = _versions(envkit, name)
    said = 1 if code == 0 or " is stored" in err else 0
    allowed = {before, before + 1} if "may have got its version" in err else {before + said}
    assert after in allowed, err
    return after


def _versions(envkit, name):
    listed = envkit("log", name, "--json")
    return len(json.loads(listed.out)) if listed.code == 0 else 0


@pytest.mark.parametrize("beginning", ["main", "_is_safe"])
def test_a_save_that_is_interrupted_at_any_line_changes_nothing(envkit, large, tmp_path, beginning):
    """From its beginning, and from when it has put the version into the store: what comes then is soon over."""
    digest = envkit.inside(large, f"head -c 3000000 /dev/urandom >/opt/blob; {WRITE}; sha256sum /opt/blob").ok()
    note = tmp_path / "note"
    command = partial(_interrupted, envkit, "save", large, beginning=beginning, note=note)
    assert command(line=0, number=signal.SIGTERM).returncode == 0
    lines = int(note.read_text())
    assert lines > 100
    chance = random.Random(f"{beginning} 3")
    before = traces(envkit)
    versions = _versions(envkit, large)
    for number in (signal.SIGINT, signal.SIGTERM) * 10:
        envkit.inside(large, WRITE, patience=20).ok()
        done = command(line=chance.randrange(1, lines), number=number)
        where = f"{note.read_text()}\n{done.stderr}"
        assert done.returncode in (0, 128 + number), where
        if done.returncode:
            _check_told(number, done.stdout.encode(), where)
        assert not _frozen(envkit, large), where
        assert _unfinished(envkit) == [], where
        versions = _check_versions(envkit, large, versions, done.returncode, where)
    assert new_traces(envkit, before) == []
    assert envkit.inside(large, "sha256sum /opt/blob", patience=20).ok() == digest
    assert envkit.sh(large, "sha256sum /opt/blob").ok() == digest


def _interrupted(envkit, *command, line, number, beginning, note):
    argv = [sys.executable, f"{CHECKOUT}/tests/interrupted.py", str(line), str(int(number)), beginning, str(note)]
    return subprocess.run([*argv, *command], env=envkit.environment(), capture_output=True, text=True, timeout=60)


def _interrupted_while_storing(envkit, name):
    """Interrupt a save when it has stored a pack; return what it said."""
    with envkit.start("save", name) as process:
        packs = f"{envkit.root}/store/packs/*/*"
        known = set(glob.glob(packs))
        deadline = time.monotonic() + 60
        while not set(glob.glob(packs)) - known and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    return err.decode()


def test_what_is_stored_already_is_told_and_not_sent_again(envkit, large):
    lines = _interrupted_while_storing(envkit, large).splitlines()
    assert lines[0] == f"interrupted: the session on lab/{large} is open and unchanged"
    assert lines[1] == "  no version was made"
    assert lines[2].endswith("stored already and will not be sent again") or "will not be sent again; " in lines[2]
    packs = {path: os.stat(path).st_ino for path in glob.glob(f"{envkit.root}/store/packs/*/*")}
    envkit("save", large).ok()
    assert packs.items() <= {path: os.stat(path).st_ino for path in glob.glob(f"{envkit.root}/store/packs/*/*")}.items()


def test_ctrl_c_on_a_terminal_leaves_its_screen_clean(envkit, large):
    envkit.inside(large, "head -c 300000000 /dev/urandom >/opt/blob").ok()
    with Terminal(envkit, "save", large) as terminal:
        before = terminal.expect("storing ")
        terminal.type("\x03")
        assert terminal.end() == 130
        lines = screen(f"{before}storing {terminal.seen.decode()}")
    assert lines[0] == f"interrupted: the session on lab/{large} is open and unchanged"
    assert all(line.startswith("  ") for line in lines[1:])
    envkit.inside(large, "true", patience=20).ok()


def test_ctrl_c_at_a_question_does_nothing(envkit):
    envkit.saved("asked", "echo x >/opt/x")
    for answer, code in (("\x03", 130), ("n\n", 1), ("\x04", 1)):
        with Terminal(envkit, "delete", "asked", env={"NO_COLOR": "1"}) as terminal:
            terminal.expect("[y/N]: ")
            wait_until(lambda pid=terminal.pid: _state(pid) == "S", "it waits for the answer")
            terminal.type(answer)
            assert terminal.end() == code
            assert "Traceback" not in terminal.seen.decode()
    assert envkit.json("info", "asked")["version"] == 1


def test_a_copy_that_is_ended_leaves_no_process_behind(envkit, large, place):
    with open(place / "source", "wb") as file:
        file.truncate(4_000_000_000)
    before = traces(envkit)
    with envkit.start("cp", str(place / "source"), f"{large}:/opt/copy") as process:
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.startswith(b"ended by SIGTERM: ")
    assert new_traces(envkit, before) == []
    assert envkit.inside(large, "ls /opt").ok() == "blob"


def test_hanging_up_ends_a_shell_and_not_its_session(envkit, large):
    with Terminal(envkit, "shell", large) as terminal:
        terminal.expect("# ")
        os.kill(terminal.pid, signal.SIGHUP)
        assert terminal.end() == 129
    envkit.inside(large, "true", patience=20).ok()


def test_a_signal_before_anything_has_begun_is_no_traceback(envkit):
    """Not even in the middle of the imports of a command."""
    for step in range(10):
        with envkit.start("list") as process:
            time.sleep(0.05 + step * 0.03)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        assert b"Traceback" not in err, err
        assert process.returncode in (0, 143, -signal.SIGTERM)
