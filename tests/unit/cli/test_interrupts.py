"""Signals in a process of their own: the first unwinds, the next ends it at once, and there is never a traceback."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from commandline import CHECKOUT, read_until

from envkit.cli.boundary import show_interrupt
from envkit.cli.interrupts import interrupt_code
from envkit.model.interruption import Stopped, remains

_BEGIN = """
import os, sys, time
from envkit.cli.boundary import show_interrupt
from envkit.cli.interrupts import Interrupts
from envkit.model.interruption import remains
interrupts = Interrupts()
interrupts.install()
def ready(): print("ready", flush=True)
"""

CLEANS_UP = """
try:
    with remains(lambda: "the work is half done"):
        try:
            ready(); time.sleep(100)
        finally:
            print("cleaning up", flush=True); time.sleep(WAIT)
            print("cleaned up", flush=True)
except KeyboardInterrupt as stop:
    sys.exit(show_interrupt(stop))
"""

LOSES = """
class Loses:
    def __del__(self):
        ready(); time.sleep(100)
try:
    Loses()
    time.sleep(100)
except KeyboardInterrupt as stop:
    sys.exit(show_interrupt(stop))
"""

FORKS = """
pid = os.fork()
if pid == 0:
    try:
        ready(); time.sleep(100)
    finally:
        print("the child unwound", flush=True)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@contextlib.contextmanager
def script(text, **options):
    argv = [sys.executable, "-c", _BEGIN + text]
    environment = {"PYTHONPATH": CHECKOUT, "PATH": os.environ["PATH"]}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **options) as process:
        try:
            read_until(process.stdout, b"ready\n")
            yield process
        finally:
            process.kill()


def finish(process):
    out, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("number", "code", "what"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_the_first_signal_cleans_up_and_tells_what_is_left(number, code, what):
    with script(CLEANS_UP.replace("WAIT", "0")) as process:
        process.send_signal(number)
        assert finish(process) == (code, "cleaning up\ncleaned up\n", f"{what}: the work is half done\n")


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_ends_it_at_once(second, code):
    with script(CLEANS_UP.replace("WAIT", "100")) as process:
        process.send_signal(signal.SIGINT)
        read_until(process.stdout, b"cleaning up\n")
        time.sleep(0.4)
        process.send_signal(second)
        assert finish(process) == (code, "", "ended at once; the next command cleans up what is left\n")


def test_one_request_that_comes_twice_is_one():
    with script(CLEANS_UP.replace("WAIT", "1")) as process:
        process.send_signal(signal.SIGTERM)
        read_until(process.stdout, b"cleaning up\n")
        process.send_signal(signal.SIGTERM)
        assert finish(process) == (143, "cleaned up\n", "ended by SIGTERM: the work is half done\n")


def test_a_request_that_python_cannot_raise_is_not_lost():
    with script(LOSES) as process:
        process.send_signal(signal.SIGINT)
        assert finish(process) == (130, "", "interrupted: nothing was changed that is not complete\n")


def test_a_child_ends_without_unwinding_its_parents_work():
    with script(FORKS, start_new_session=True) as process:
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout), signal.SIGTERM)
        assert finish(process) == (0, "143\n", "")


def test_what_the_caller_switched_off_stays_off():
    def ignore_hangups():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with script("ready(); time.sleep(0.5); print('alive')", preexec_fn=ignore_hangups) as process:
        process.send_signal(signal.SIGHUP)
        assert finish(process) == (0, "alive\n", "")


def test_an_interrupt_that_nobody_catches_has_no_traceback_and_a_bug_has_one():
    with script("ready(); time.sleep(100)") as process:
        process.send_signal(signal.SIGINT)
        assert finish(process)[2] == ""
    with script("ready(); raise RuntimeError('bug')") as process:
        _, err = process.communicate(timeout=60)
        assert b"Traceback" in err
        assert b"bug" in err


def test_the_codes():
    assert interrupt_code(KeyboardInterrupt()) == 130
    assert interrupt_code(Stopped(15)) == 143


def test_all_that_is_left_is_told_the_outermost_first(capsys):
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        remains(lambda: "the session is open"),
        remains(lambda: "1 MB\x1b"),
    ):
        raise KeyboardInterrupt
    assert show_interrupt(caught.value) == 130
    assert capsys.readouterr().err == "interrupted: the session is open\n  1 MB\\x1b\n"
