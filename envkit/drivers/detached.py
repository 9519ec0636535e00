"""Owns starting this envkit's own processes that outlive whoever starts them: no terminal, no parent, a log.

They run the interpreter of this process with its search path, and nothing of its environment.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from envkit.drivers import process
from envkit.drivers.errors import KernelRefused
from envkit.drivers.files import io_error

_MAX_LOG = 1 << 20


def start(program: str, arguments: Sequence[str], *, what: str, log: str, env: Mapping[str, str] | None = None) -> None:
    """Start a program in a session of its own, as nobody's child: nobody has to wait for it.

    :param program: text for Python's `-c`; its arguments are in `sys.argv[1:]`.
    :param what: what it is, for messages.
    :param log: the file that gets its standard error; it begins anew when it has more than 1 MiB.
    :param env: added to the minimal environment.
    :raises KernelRefused: there can be no more processes, or the log cannot be opened.
    """
    descriptor = _open_log(log)
    try:
        # A child in between, which ends at once.
        between = os.fork()
        if between == 0:
            try:
                spawn(program, arguments, log=descriptor, env=env)
            finally:
                os._exit(0)
        os.waitpid(between, 0)
    except OSError as error:
        raise KernelRefused(f"start {what}", error) from error
    finally:
        os.close(descriptor)


def spawn(
    program: str,
    arguments: Sequence[str],
    *,
    log: int,
    keep: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> int:
    """Start a program as `start` does, but as a child, with an open log; return its pid.

    :param keep: descriptors that it gets under the same numbers.
    """

    def before_exec() -> None:
        for descriptor in keep:
            os.set_inheritable(descriptor, True)  # noqa: FBT003
        os.dup2(log, 2)

    argv = interpreter(program, arguments)
    environment = process.minimal_environment() | dict(env or {})
    return process.spawn(argv[0], argv, env=environment, detach=True, before_exec=before_exec)


def interpreter(program: str, arguments: Sequence[str]) -> list[str]:
    """Return the argv that runs a program text with this process's interpreter and search path."""
    path = [entry for entry in sys.path if entry]
    return [sys.executable, "-IS", "-c", f"import sys; sys.path[:] = {path!r}; {program}", *arguments]


def _open_log(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        log = os.open(path, flags, 0o600)
        if os.fstat(log).st_size > _MAX_LOG:
            os.ftruncate(log, 0)
    except OSError as error:
        raise io_error(f"open the log {path}", error) from error
    return log
