"""Large arguments and values are in memory once."""

import subprocess
import sys

from commandline import CHECKOUT

SIZE = 96 << 20
PROGRAM = f"""
import sys, envkit

def peak():
    # Not ru_maxrss, which begins with that of whoever has started this process.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))

envkit.call(abs, -1, _env="sci").result(60)
data = bytes(range(256)) * ({SIZE} >> 8)
before = peak()
future = envkit.call(lambda given: given, data, _env="sci")
submitted = peak()
same = future.result(60) == data
twice = [data[:-1], data[:-1]] if "twice" in sys.argv else None
print(submitted - before, peak() - submitted, same)
"""


def growth(*words):
    """Return by how many bytes a program grew while it sent its data, and while it got them back."""
    argv = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=120)
    sent, came, same = done.stdout.split()
    assert same == "True"
    return int(sent), int(came)


def test_sending_takes_no_memory_and_receiving_takes_the_value_once(fake):
    sent, came = growth()
    assert sent < SIZE // 4
    assert came < SIZE * 5 // 4


def test_a_second_copy_would_be_noticed(fake):
    assert growth("twice")[1] > SIZE * 5 // 4
