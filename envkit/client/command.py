"""Owns starting `envkit` from Python, and turning its errors into exceptions.

The Python API does everything through the command line, as the user would: it has no other way to what envkit keeps,
which belongs to root. `ENVKIT_COMMAND` is the command, if it is set; else it is the `envkit` on the PATH or the module
beside this one, behind `sudo -n` where the user is not root.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from typing import Any, BinaryIO

from envkit.client.errors import CommandMissing
from envkit.errors import Conflict, Damaged, EnvkitError, InvalidInput, NotFound, Unavailable

_ERRORS: dict[int, type[EnvkitError]] = {
    error.exit_code: error for error in (InvalidInput, NotFound, Conflict, Unavailable, Damaged)
}
_MAX_SHOWN = 4000
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def command() -> list[str]:
    """Return the words that start envkit."""
    given = os.environ.get("ENVKIT_COMMAND")
    if given:
        return shlex.split(given)
    # The machine's comes first, which sudo lets users start: that of a virtual environment may be this package alone.
    found = shutil.which("envkit", path=_SYSTEM_PATH) or shutil.which("envkit")
    words = [found] if found else [sys.executable, "-m", "envkit"]
    return words if os.geteuid() == 0 else ["sudo", "-n", *words]


def start(
    *words: str, stdin: BinaryIO | int | None = None, stdout: int, stderr: int, apart: bool = False
) -> "subprocess.Popen[bytes]":
    """Start envkit; the streams are as for `subprocess.Popen`.

    :param apart: Ctrl-C is not for it. In the same session, or sudo(8) would not know the user's terminal.
    :raises CommandMissing: it cannot be started.
    """
    argv = [*command(), *words]
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
            process_group=0 if apart else None,
        )
    except OSError as error:
        raise CommandMissing(
            f"cannot start {argv[0]}: {error.strerror}",
            resolution="install envkit on this machine, or set ENVKIT_COMMAND to what starts it",
        ) from None


def finished(*words: str, stdin: BinaryIO | None = None) -> tuple[int, bytes, bytes]:
    """Run envkit to its end; return its exit code, output, and errors."""
    with start(*words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        output, errors = child.communicate()
        return child.returncode, output, errors


def ask(*words: str, stdin: BinaryIO | None = None) -> Any:
    """Run a command that prints JSON and return what it printed, None for nothing.

    :raises EnvkitError: it failed.
    """
    code, output, errors = finished(*words, stdin=stdin)
    if code:
        raise failure(code, errors) from None
    try:
        return json.loads(output) if output.strip() else None
    except ValueError:
        raise EnvkitError(f"envkit {words[0]} printed no JSON: {output[:200]!r}") from None


def failure(code: int, errors: bytes) -> EnvkitError:
    """Return what a command that failed has said, as an exception of the class that its exit code stands for."""
    text = errors.decode("utf-8", "replace")
    told = _told(text)
    if told is None:
        return _untold(code, text)
    brief, details, hint = told
    error = _ERRORS.get(code, EnvkitError)(brief, details=details, resolution=hint)
    error.exit_code = code
    if hint:
        error.add_note(f"hint: {hint}")
    return error


def _untold(code: int, text: str) -> EnvkitError:
    """Return an exception for what is no error of envkit's: its exit code has another meaning, if any."""
    last = next(iter(text.rstrip().splitlines()[-1:]), "")[:_MAX_SHOWN]
    if last.startswith("sudo: "):
        hint = "it needs root: a rule in sudoers(5) as in `alice ALL=(root) NOPASSWD: /usr/local/bin/envkit`"
        refused = Unavailable(f"envkit cannot be started: {last}", resolution=hint)
        refused.add_note(f"hint: {hint}")
        return refused
    return EnvkitError(last or f"envkit ended with exit code {code}")


def _told(text: str) -> tuple[str, str | None, str | None] | None:
    """Return the error, its details and the hint in what a command wrote to standard error; None if there is none."""
    other = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            other.append(line)
        elif event.get("event") == "error":
            return str(event.get("message")), event.get("details"), event.get("hint")
    errors = [line.removeprefix("error: ") for line in other if line.startswith("error: ")]
    hints = [line.removeprefix("hint: ") for line in other if line.startswith("hint: ")]
    return (errors[0], None, hints[0] if hints else None) if errors else None
