"""Owns running a command with a clock and an eye on its memory."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """What a command took: seconds from start to end, those of all processors, peak resident memory in bytes."""

    seconds: float
    processor: float
    peak: int

    def __add__(self, other: "Run") -> "Run":
        """One command after the other."""
        return Run(self.seconds + other.seconds, self.processor + other.processor, max(self.peak, other.peak))


def timed(argv: Sequence[str], environment: dict[str, str]) -> Run:
    """Run a command, which must succeed, with nothing left to write to the disk beforehand."""
    os.sync()
    begin = time.perf_counter()
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = [0]
    watching = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watching.start()
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    watching.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} failed with {process.returncode}: {output[-2000:]}")
    return Run(seconds, used.ru_utime + used.ru_stime, peak[0])


def _watch(pid: int, peak: list[int]) -> None:
    """Keep the highest peak that the kernel tells of a process; rusage would begin with that of its parent."""
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        found = [line for line in lines if line.startswith("VmHWM:")]
        if not found:  # it is a zombie
            return
        peak[0] = max(peak[0], int(found[0].split()[1]) * 1024)
        time.sleep(0.02)
