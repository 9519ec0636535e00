"""Commands side by side: lines stay whole and say where they come from, a failure is not lost, none is left behind."""

import os
import signal
import subprocess
import sys

from commandline import CHECKOUT, read_until, wait_until
from vm import sidebyside

from envkit.drivers.process import start_time


def test_lines_say_which_command_they_come_from(capfdbinary):
    script = "for n in $(seq 1000); do echo $0 $n; done; printf '%s end' $0 >&2"
    assert sidebyside.run({name: ["sh", "-c", script, name] for name in ("12", "13")}) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    for name in (b"12", b"13"):
        said = [line.removeprefix(name + b"| ") for line in lines if line.startswith(name)]
        assert said == [*(b"%s %d" % (name, n) for n in range(1, 1001)), name + b" end"]
    assert len(lines) == 2002


def test_one_failure_is_that_of_all_and_the_others_go_on(capfdbinary):
    commands = {"bad": ["sh", "-c", "exit 3"], "good": ["sh", "-c", "sleep 0.2; echo done"]}
    assert sidebyside.run(commands) == 3
    assert capfdbinary.readouterr().out == b"good| done\n"


def test_commands_end_with_the_one_that_started_them():
    program = "from vm import sidebyside; sidebyside.run({'a': ['sh', '-c', 'echo $$; exec sleep 1000']})"
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/tests"}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) as process:
        pid = int(read_until(process.stdout, b"\n").removeprefix(b"a| "))
        assert start_time(pid) is not None
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: start_time(pid) is None, "the command ends")
