"""Owns the command inside a container that lxc-execute runs: its pid on the host, and its end.

LXC's small init stands between: it turns SIGHUP into SIGTERM, gives SIGTERM to every process of the container and
kills them all a second later, and it waits for everything that the command left in the background. A job's command
gets its signals itself, and the job ends with it.
"""

import contextlib
import os
import select
import signal
from collections.abc import Sequence

from envkit.drivers import cgroup, process

_INIT = 1
_COMMAND = 2
"""Pids inside: LXC's init is the first process, and forks once."""

_FIRST_LOOK = 50
_LAST_LOOK = 1000
_AFTERWARDS = 20
"""Milliseconds that the program gets to end by itself, before and after its command was seen."""


def command_pid(name: str, places: Sequence[str] | None = None) -> int | None:
    """Return the host pid of a container's command, or None while there is none.

    :param places: where its control groups are, see `cgroup.container_groups`.
    """
    return _processes(name, places).get(_COMMAND)


def wait(pid: int, name: str, places: Sequence[str] | None = None) -> int:
    """Wait for lxc-execute, and kill what its command leaves behind.

    :returns: the command's exit code, 128 + N where signal N ended it.
    """
    program = os.pidfd_open(pid)
    try:
        pause = _FIRST_LOOK  # most commands of a script end sooner, and cost no look
        while not _ended(program, milliseconds=pause):
            processes = _processes(name, places)
            if _COMMAND in processes:
                _wait_for_first(processes[_COMMAND], program)
                pause = _AFTERWARDS
            elif len(processes) > 1:
                for number, member in processes.items():
                    if number != _INIT:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(member, signal.SIGKILL)
            else:  # it has not begun, or is about to end
                pause = min(2 * pause, _LAST_LOOK)
    finally:
        os.close(program)
    return process.wait(pid)


def _processes(name: str, places: Sequence[str] | None) -> dict[int, int]:
    """Return a container's processes: pid inside to pid on the host."""
    found = {}
    for pid in cgroup.members(name, places):
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                words = next((line.split() for line in file if line.startswith(b"NSpid:")), [])
        except OSError:  # it has just ended
            continue
        if len(words) > 2:
            found[int(words[-1])] = pid
    return found


def _wait_for_first(pid: int, program: int) -> None:
    """Wait until a process, or the program behind a pidfd, ends."""
    try:
        command = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        _ended(command, program)
    finally:
        os.close(command)


def _ended(*pidfds: int, milliseconds: int | None = None) -> bool:
    """Wait until one of several processes ends; tell whether one did in time."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(milliseconds))
