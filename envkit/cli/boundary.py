"""Owns the border to the user: errors become one line and an exit code; a bug keeps its traceback."""

import os
import sys

from envkit.errors import EXIT_FAILURE, EnvkitError


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
