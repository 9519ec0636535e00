"""Owns starting processes: nothing else in envkit does.

`run` waits for a program and captures what it says; `spawn` starts one on the terminal or on the descriptors of
this process and gives its pid. Programs get an argv list, never a shell, and a minimal environment.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from envkit.drivers import libc
from envkit.drivers.errors import ProgramFailed, ProgramMissing, ProgramTimedOut
from envkit.model.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import NoReturn

    from envkit.drivers.caller import Caller

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_LAST_SECONDS = 5.0


class Result(Record):
    """What a program did: exit code (negative: the signal that ended it) and captured output."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes


def find_program(name: str) -> str | None:
    """Return the absolute path of a program in the system's directories (not the user's PATH), or None."""
    for directory in SYSTEM_PATH.split(":"):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None


def require_program(name: str) -> str:
    """Return the absolute path of a program; raise ProgramMissing."""
    path = find_program(name)
    if path is None:
        raise ProgramMissing(name)
    return path


def _located(argv: Sequence[str]) -> list[str]:
    """Return an argv whose program is a path."""
    return [argv[0] if "/" in argv[0] else require_program(argv[0]), *argv[1:]]


def minimal_environment() -> dict[str, str]:
    """Return the environment for programs: a fixed PATH, English messages, and the terminal's type."""
    return {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb"), "HOME": "/root"}


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    timeout: float | None = None,
    check: bool = True,
    preexec: Callable[[], None] | None = None,
) -> Result:
    """Run a program to its end and capture its output; `stdin` and `stdout` may be descriptors instead.

    :param env: added to the minimal environment.
    :param timeout: seconds; the program is killed after that.
    :raises ProgramMissing: it is not installed.
    :raises ProgramFailed: `check` is on and it did not exit with 0.
    :raises ProgramTimedOut: it took too long.
    """
    import subprocess  # late: 15 ms that a warm run does not pay

    located = _located(argv)
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            located,
            env=minimal_environment() | dict(env or {}),
            stdin=pipe if input is not None else subprocess.DEVNULL if stdin is None else stdin,
            stdout=pipe if stdout is None else stdout,
            stderr=pipe,
            preexec_fn=preexec,
        )
    except FileNotFoundError as error:
        raise ProgramMissing(located[0]) from error
    try:
        out, err = process.communicate(input, timeout)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise ProgramTimedOut(tuple(argv), error.timeout) from error
    except BaseException:
        _end(process)
        raise
    result = Result(argv=tuple(argv), code=process.returncode, stdout=out or b"", stderr=err or b"")
    if check and result.code != 0:
        output = result.stderr or result.stdout
        raise ProgramFailed(result.argv, result.code, output.decode("utf-8", "replace"))
    return result


def pipeline(
    producer: Sequence[str],
    consumer: Sequence[str],
    *,
    env: Mapping[str, str],
    second_preexec: Callable[[], None] | None = None,
) -> tuple[Result, Result]:
    """Run two programs with a pipe from the first to the second; return what both did, their errors captured."""
    import subprocess

    with contextlib.ExitStack() as files:
        import tempfile

        # Errors go to files: with pipes, one program could block on its messages while the other waits for it.
        logs = [files.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        first = subprocess.Popen(
            _located(producer),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=logs[0],
        )
        second = subprocess.Popen(
            _located(consumer),
            env=dict(env),
            stdin=first.stdout,
            stdout=subprocess.DEVNULL,
            stderr=logs[1],
            preexec_fn=second_preexec,
        )
        if first.stdout is not None:
            first.stdout.close()  # so that the first gets SIGPIPE when the second ends
        results = []
        try:
            for argv, process, log in ((consumer, second, logs[1]), (producer, first, logs[0])):
                code = process.wait()
                log.seek(0)
                results.append(Result(argv=tuple(argv), code=code, stdout=b"", stderr=log.read(64 * 1024)))
        except BaseException:
            _end(first)
            _end(second)
            raise
    return results[1], results[0]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a program whose result nobody waits for any more, and wait until it has let go of what it works on."""
    import subprocess

    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_LAST_SECONDS)


def spawn(
    program: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    own_group: bool = False,
    detach: bool = False,
    before_exec: Callable[[], None] | None = None,
) -> int:
    """Start a program on this process's standard descriptors; return its pid.

    The program is killed when the calling process ends, however that happens, unless `detach` is on; then it gets
    a session of its own and no terminal.

    :param own_group: give it a process group, so that a signal to this process's group does not reach it.
    :param before_exec: called in the new process before it becomes the program.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(program, argv, env, parent, own_group=own_group, detach=detach, before_exec=before_exec)
        finally:
            os._exit(127)
    return pid


def _become(
    program: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    parent: int,
    *,
    own_group: bool,
    detach: bool,
    before_exec: Callable[[], None] | None,
) -> None:
    """Turn the forked child into the program; return only where that failed."""
    try:
        if detach:
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in range(3):
                os.dup2(null, descriptor)
        else:
            libc.die_with_parent(signal.SIGKILL)
            if os.getppid() != parent:  # the parent died before prctl took effect
                return
        if own_group:
            os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if before_exec is not None:
            before_exec()
        os.execve(program, list(argv), dict(env))
    except OSError as error:
        os.write(2, f"envkit: cannot execute {program}: {error.strerror}\n".encode())


def become(argv: Sequence[str], env: Mapping[str, str], caller: "Caller | None" = None) -> "NoReturn":
    """Turn this process into a program, which is a path, and this user; it still dies with its parent, if it did.

    :raises OSError: it stays what it is, though maybe as that user.
    """
    if caller is not None and os.geteuid() == 0:
        from envkit.drivers.caller import groups_of

        death_signal = libc.death_signal()
        os.setgroups(groups_of(caller))
        os.setresgid(caller.gid, caller.gid, caller.gid)
        os.setresuid(caller.uid, caller.uid, caller.uid)
        if death_signal:  # the kernel forgets it with a change of ids
            libc.die_with_parent(death_signal)
    os.execve(argv[0], list(argv), dict(env))


def wait(pid: int) -> int:
    """Wait for a child; return its exit code, 128 + N where signal N ended it."""
    while True:
        try:
            _, status = os.waitpid(pid, 0)
        except InterruptedError:
            continue
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code


def wait_ignoring_interrupts(pid: int) -> int:
    """Like `wait`, for a child on the same terminal: Ctrl-C is the child's to answer."""

    def ignore(_number: int, _frame: object) -> None:
        """Do nothing; SIG_IGN would be inherited by children, a handler is not."""

    previous = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        return wait(pid)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_alive(pid: int, started: int) -> bool:
    """Tell whether the process that had `pid` and began at `started` (clock ticks since boot) still runs."""
    return start_time(pid) == started


def start_time(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None where it does not exist or is a zombie.

    Together with the pid this names a process for good: pids are used again.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def kill_and_wait(pid: int, started: int, *, timeout: float) -> None:
    """Kill a process that need not be a child, and wait until it is gone or `timeout` seconds are over."""
    deadline = time.monotonic() + timeout
    while is_alive(pid, started) and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
