"""Running envkit's real command line in a process of its own, and saying what is expected of it."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import NamedTuple

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SLOWNESS = float(os.environ.get("ENVKIT_TEST_SLOWNESS", "1"))
"""How many times as long as usual things may take: emulated machines are slow."""
_PATIENCE = 60.0
PATIENCE = _PATIENCE * SLOWNESS
"""Seconds after which anything is taken to hang; generous, since test machines are busy."""


class User(NamedTuple):
    """Somebody who calls envkit through sudo."""

    uid: int
    gid: int
    name: str


# No line in any passwd file: as with people who come from a directory service.
ALICE = User(54_321, 54_321, "alice")
NOBODY = User(65_534, 65_534, "nobody")


class Outcome(NamedTuple):
    """What a command line did."""

    code: int
    out: bytes
    err: bytes

    @property
    def stdout(self):
        return self.out.decode("utf-8", "surrogateescape")

    @property
    def stderr(self):
        return self.err.decode("utf-8", "surrogateescape")

    def ok(self):
        """It went well; return standard output without its last line break."""
        assert self.code == 0, f"exit code {self.code}\n{self.stdout[-2000:]}\n{self.stderr[-4000:]}"
        return self.stdout.removesuffix("\n")

    def fails(self, code, *texts):
        """envkit refused: one line with these texts, then facts and a hint at most; nothing on standard output."""
        assert self.code == code, f"exit code {self.code} instead of {code}\n{self.stdout[-2000:]}\n{self.stderr}"
        lines = self.stderr.splitlines()
        assert "Traceback" not in self.stderr, self.stderr
        assert lines and lines[0].startswith("error: "), self.stderr
        assert all(line.startswith(("  ", "hint: ")) for line in lines[1:]), self.stderr
        for text in texts:
            assert text in self.stderr, f"{text!r} is not in:\n{self.stderr}"
        assert self.out == b""
        return self


class Envkit:
    """The command line with a root of its own. `owner` completes names, whoever calls."""

    def __init__(self, root, *, store=None, owner="lab"):
        self.root = str(root)
        self.run_directory = "/run/envkit" + self.root.replace("-", "--").replace("/", "-")
        self._settings = {"ENVKIT_ROOT": self.root, "ENVKIT_OWNER": owner}
        if store is not None:
            self._settings["ENVKIT_STORE"] = str(store)

    def __call__(self, *words, input=b"", patience=_PATIENCE, **options):
        """Run to the end; return an Outcome. `input` None gives it no standard input at all.

        Options: `user` (through sudo), `env` (more variables; None removes one), and those of Popen.
        """
        if isinstance(input, str):
            input = input.encode()
        process = self.start(*words, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, **options)
        try:
            out, err = process.communicate(input, patience * SLOWNESS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"envkit {' '.join(words)} hangs\n{out[-2000:]!r}\n{err[-2000:]!r}") from None
        return Outcome(process.returncode, out or b"", err or b"")

    def start(self, *words, user=None, env=None, **options):
        """Start it and return the Popen, with pipes for its standard output and errors."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen(self.argv(*words), env=self.environment(user, env), **options)

    def argv(self, *words):
        return [sys.executable, "-m", "envkit", *words]

    def environment(self, user=None, more=None):
        caller = ("ENVKIT_", "SUDO_", "XDG_")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(caller)}
        variables |= self._settings | {"PYTHONPATH": CHECKOUT, "HOME": "/nonexistent"}
        if user is not None:
            variables |= {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.gid), "SUDO_USER": user.name}
        variables |= more or {}
        return {name: value for name, value in variables.items() if value is not None}

    def json(self, *words, **options):
        """Return what a command with --json prints."""
        return json.loads(self(*words, "--json", **options).ok())

    def sh(self, environment, script, *words, options=(), **more):
        """Run a shell script in an environment."""
        return self("run", "-e", environment, *options, "--", "/bin/sh", "-c", script, "sh", *words, **more)

    def inside(self, name, script, *words, **more):
        """Run a shell script in a session."""
        return self("exec", name, "--", "/bin/sh", "-c", script, "sh", *words, **more)

    @contextlib.contextmanager
    def session(self, name, *, base="tiny", origin=None, script=None):
        """Open a session, with its first changes made, and discard it in the end."""
        source = ["--from", origin] if origin else ["--base", base]
        self("create", name, *source, "--no-shell").ok()
        try:
            if script is not None:
                self.inside(name, script).ok()
            yield name
        finally:
            self("close", name, "--discard")

    def saved(self, name, script, **how):
        """Make an environment of what a script does, and return its name."""
        with self.session(name, script=script, **how):
            self("save", name).ok()
        return name

    def directory(self, name, owner="lab"):
        """Where a session is kept."""
        return f"{self.root}/sessions/{owner}/{name}"

    def identity(self, name):
        """The name of a session's container."""
        with open(f"{self.directory(name)}/session.json", encoding="utf-8") as file:
            return f"envkit-{json.load(file)['identity']}"

    def monitor(self, name):
        """The pid of a session's holder: LXC's monitor."""
        with open(f"{self.directory(name)}/holder", encoding="ascii") as file:
            return int(file.readline())


def wait_until(condition, what, *, patience=_PATIENCE, pause=0.02):
    """Wait until a condition holds, and return its value; fail saying what did not happen."""
    deadline = time.monotonic() + patience * SLOWNESS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        time.sleep(pause)
    return value


def read_until(stream, marker, *, patience=_PATIENCE):
    """Read a pipe until a marker (bytes) has come; return all that came."""
    deadline = time.monotonic() + patience * SLOWNESS
    seen = b""
    while marker not in seen:
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{marker!r} did not come; there was {seen[-2000:]!r}"
        data = os.read(stream.fileno() if hasattr(stream, "fileno") else stream, 65_536)
        assert data, f"ended before {marker!r} came; there was {seen[-2000:]!r}"
        seen += data
    return seen


class Terminal:
    """envkit on a terminal of its own, as in a window: a context manager that leaves no process behind."""

    def __init__(self, envkit, *words, rows=33, columns=101, user=None, env=None):
        self._argv = envkit.argv(*words)
        self._environment = envkit.environment(user, {"TERM": "xterm", **(env or {})})
        self._size = (rows, columns)
        self.seen = b""

    def __enter__(self):
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            try:
                os.execve(self._argv[0], self._argv, self._environment)
            finally:
                os._exit(99)
        self.resize(*self._size)
        return self

    def __exit__(self, *_):
        os.close(self.screen)
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def resize(self, rows, columns):
        fcntl.ioctl(self.screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.screen, text.encode())

    def expect(self, text, *, patience=_PATIENCE):
        """Wait until a text has been shown since the last one that was waited for; return what came before it."""
        wanted = text.encode()
        deadline = time.monotonic() + patience * SLOWNESS
        while wanted not in self.seen:
            ready, _, _ = select.select([self.screen], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} was not shown; there was {self.seen[-2000:]!r}"
            try:
                data = os.read(self.screen, 65_536)
            except OSError:  # EIO: the other end is closed
                data = b""
            assert data, f"ended before {text!r} was shown; there was {self.seen[-2000:]!r}"
            self.seen += data
        before, _, self.seen = self.seen.partition(wanted)
        return before.decode("utf-8", "replace")

    def end(self, *, patience=_PATIENCE):
        """Wait for the end; return the exit code."""
        deadline = time.monotonic() + patience * SLOWNESS
        while True:
            # What is still written has to be read, or the writer waits for ever.
            if select.select([self.screen], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.screen, 65_536)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"does not end; there was {self.seen[-2000:]!r}"
