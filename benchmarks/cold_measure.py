"""Owns measuring one start: its times, what went over the link, the processor seconds of what it left running too.

Whatever a start leaves running becomes a child of this process, which can end it afterwards, and only it.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cold_link import Link

SECONDS = 180.0
"""How long a start may take."""
_PR_SET_CHILD_SUBREAPER = 36
_ENDING = 10.0
_SAMPLING = 0.02


@dataclass(frozen=True)
class Sample:
    """One start: seconds to the first output and to the end, bytes and numbers on the link, processor seconds.

    `served`: processor seconds of the servers. `cached`: by how many bytes the page cache had grown when it was
    largest, servers left out.
    """

    first: float
    seconds: float
    wire: int
    requests: int
    connections: int
    processor: float
    served: float
    cached: int
    output: bytes = field(repr=False, default=b"")
    talk: str = field(repr=False, default="")


class Failed(Exception):
    """A start failed, for the reason that its text gives."""


def become_subreaper() -> None:
    """Make processes whose parents end become children of this one."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("prctl: this process cannot become a subreaper")


def children() -> set[int]:
    """Return the processes that are this one's children."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def drop_caches() -> None:
    """Empty the page cache of this machine."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


class ServerGroup:
    """Control groups for the servers, which tell their share of the page cache and of the processors.

    With the second version of control groups there is no share to be told: both are 0.
    """

    def __init__(self) -> None:
        parents = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/cpuacct"))
        self.there = all((parent / "tasks").exists() for parent in parents)
        self._memory, self._processor = (parent / f"envkit-bench-{os.getpid()}" for parent in parents)

    def __enter__(self) -> "ServerGroup":
        if self.there:
            self._memory.mkdir()
            self._processor.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + _ENDING
        waiting = [self._memory, self._processor] if self.there else []
        while waiting and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # servers' servers have become children of this process
                    pass
            try:
                waiting[-1].rmdir()
            except OSError:
                time.sleep(0.05)
            else:
                waiting.pop()

    def inside(self, argv: Sequence[str]) -> list[str]:
        """Return a command line that runs another in the groups."""
        if not self.there:
            return list(argv)
        script = 'echo $$ >"$0/cgroup.procs"; echo $$ >"$1/cgroup.procs"; shift; exec "$@"'
        return ["sh", "-c", script, str(self._memory), str(self._processor), *argv]

    def cached(self) -> int:
        """Return the bytes of page cache that the servers have."""
        if not self.there:
            return 0
        for line in (self._memory / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "total_cache":
                return int(value)
        return 0

    def processor(self) -> float:
        """Return the processor seconds of the servers so far."""
        return int((self._processor / "cpuacct.usage").read_text()) / 1e9 if self.there else 0.0


class Stopwatch:
    """Measures starts over a link."""

    def __init__(self, link: Link, servers: ServerGroup) -> None:
        self._link = link
        self._servers = servers

    def measure(self, commands: Sequence[Sequence[str]], environment: dict[str, str], mine: Collection[int]) -> Sample:
        """Run commands at once, which must succeed; return what all took together.

        :param mine: children of this process that have nothing to do with it.
        :raises Failed: one failed or took too long.
        """
        before, used, served = self._link.traffic(), _processor(mine), self._servers.processor()
        with self._page_cache() as peak, tempfile.TemporaryFile() as talk:
            begin = time.perf_counter()
            starts = [_Start(argv, environment, talk.fileno()) for argv in commands]
            try:
                for start in starts:
                    start.wait(begin + SECONDS)
            finally:
                seconds = max((start.ended for start in starts), default=begin) - begin
                first = min(start.first or start.ended for start in starts) - begin
                traffic = self._link.traffic() - before
                served = self._servers.processor() - served
                peak.stop()
            talk.seek(0)
            text = talk.read().decode(errors="replace")
        for start in starts:
            if start.code:
                raise Failed(f"exit code {start.code}: {' '.join(text.split())[-300:]}")
        output = starts[0].output
        if any(start.output != output for start in starts):
            raise Failed("the starts had different outputs")
        return Sample(
            first=first,
            seconds=seconds,
            wire=traffic.bytes,
            requests=traffic.requests,
            connections=traffic.connections,
            processor=_processor(mine) - used,
            served=served,
            cached=peak.bytes,
            output=output,
            talk=text,
        )

    def _page_cache(self) -> "_Peak":
        return _Peak(lambda: _cached() - self._servers.cached())


class _Start:
    """A command that runs, and a thread that reads what it says."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str], talk: int) -> None:
        self.first = 0.0
        self.ended = 0.0
        self.code = 0
        self._pieces: list[bytes] = []
        self._process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=talk, start_new_session=True
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    @property
    def output(self) -> bytes:
        return b"".join(self._pieces)

    def _read(self) -> None:
        assert self._process.stdout is not None
        while piece := os.read(self._process.stdout.fileno(), 1 << 16):
            self.first = self.first or time.perf_counter()
            self._pieces.append(piece)

    def wait(self, deadline: float) -> None:
        try:
            self.code = self._process.wait(max(0.1, deadline - time.perf_counter()))
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise Failed(f"it took more than {SECONDS:.0f} s") from None
        finally:
            self.ended = time.perf_counter()
            self._reading.join(1)  # not for ever: something that it left running may keep the pipe open


class _Peak:
    """The largest value of something while it is watched, less what it was at first."""

    def __init__(self, value: Callable[[], int]) -> None:
        self.bytes = 0
        self._value = value
        self._stopped = threading.Event()

    def __enter__(self) -> "_Peak":
        self._first = self._value()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(_SAMPLING):
            self.bytes = max(self.bytes, self._value() - self._first)


def _cached() -> int:
    """Return the bytes of the page cache, less what is in memory file systems."""
    wanted = {"Cached:": 1, "Buffers:": 1, "Shmem:": -1}
    total = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split()[:2]
        total += wanted.get(name, 0) * int(value) * 1024
    return total


def _processor(mine: Collection[int]) -> float:
    """Return the processor seconds of all that has ended and been waited for, and of what still runs but `mine`."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(_running(pid) for pid in children() - set(mine))


def _running(pid: int) -> float:
    """Return the processor seconds of a process and all below it, those that ended included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        lines = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it ends
        return 0.0
    own = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return own + sum(_running(int(child)) for line in lines for child in line.split())


def end_others(mine: Collection[int]) -> None:
    """End all children of this process but some, in order or not, and what becomes its child thereby.

    :raises Failed: even SIGKILL does not end one in time.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + _ENDING
    while others := children() - set(mine):
        late = time.monotonic() > deadline
        if time.monotonic() > deadline + _ENDING:
            raise Failed(f"processes {sorted(others)} do not end")
        for pid in others:
            if late or pid not in asked:
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)  # it keeps its number until it is waited for
                asked.add(pid)
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
