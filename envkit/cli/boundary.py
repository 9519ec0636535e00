"""Owns the border to the user: errors become one line and an exit code; a bug keeps its traceback."""

import os
import sys

from envkit.errors import EXIT_FAILURE, EnvkitError


def fill_standard_streams() -> None:
    """Open /dev/null in place of standard streams that the caller closed: else the next file would become one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003  # takes no keyword
    sys.stdin = sys.stdin or open(0, closefd=False, encoding="utf-8")  # noqa: SIM115  # for as long as we live
    sys.stdout = sys.stdout or open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115


def show(error: EnvkitError) -> int:
    """Tell an error on standard error; return its exit code."""
    bold, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    lines = [f"{bold}error:{plain} {clean(error.brief)}"]
    if error.details:
        lines += [f"  {clean(line)}" for line in error.details.splitlines()]
    if error.resolution:
        lines.append(f"hint: {clean(error.resolution)}")
    sys.stderr.write("\n".join(lines) + "\n")
    return error.exit_code


def clean(text: str) -> str:
    """Escape control characters: names and messages of an environment must not drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_interrupt() -> int:
    """Tell that Ctrl-C ended the command; return its exit code."""
    sys.stderr.write("interrupted: nothing was changed that is not complete\n")
    return 128 + 2


def flush() -> int:
    """Write what is left for standard output; return an exit code, since a full disk shows up only here."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    return 0
