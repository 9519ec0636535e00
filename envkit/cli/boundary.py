"""Owns the border to the user: errors become one line and an exit code; a bug keeps its traceback."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator

from envkit.cli.interrupts import interrupt_code
from envkit.errors import EXIT_FAILURE, EnvkitError
from envkit.model.interruption import achievements

_NOTHING_BROKEN = "nothing was changed that is not complete"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG)
_BROKEN = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.EUCLEAN, errno.ETIMEDOUT)


class Refused(EnvkitError):
    """A question was not answered with yes."""

    def __init__(self) -> None:
        super().__init__("nothing was done", resolution="answer with y, or call it with --yes")


class MachineFailed(EnvkitError):
    """The kernel failed where no program can expect it, such as at close(2)."""

    def __init__(self, error: OSError) -> None:
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        if error.errno in _FULL:
            resolution = "free some space or raise the quota, then repeat"
        elif error.errno in _LIMITS:
            resolution = "raise the limits of this process (`ulimit -a` shows them), then repeat"
        else:
            resolution = "look at the kernel's log for what is wrong with the disk, then repeat"
        super().__init__(
            f"this machine failed: {error.strerror}{where}", details=_NOTHING_BROKEN, resolution=resolution
        )


@contextlib.contextmanager
def machine_failures() -> Iterator[None]:
    """Tell what disks and limits do to the block in one line, wherever it happens. Other errors stay what they are: a
    file that is not there, where nobody foresaw it, is a bug.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*_FULL, *_LIMITS, *_BROKEN):
            raise
        raise MachineFailed(error) from error


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


def show(error: EnvkitError, *, events: bool = False) -> int:
    """Tell an error on standard error; return its exit code.

    :param events: a program reads standard error.
    """
    if events:
        return _event(error.brief, error.details, error.resolution, error.exit_code)
    bold, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    lines = [f"{bold}error:{plain} {clean(error.brief)}"]
    if error.details:
        lines += [f"  {clean(line)}" for line in error.details.splitlines()]
    if error.resolution:
        lines.append(f"hint: {clean(error.resolution)}")
    with contextlib.suppress(OSError):  # where nobody can be told, the exit code still says it
        sys.stderr.write("\n".join(lines) + "\n")
    return error.exit_code


def _event(message: str, details: str | None, hint: str | None, code: int) -> int:
    from envkit.cli.events import write_event

    write_event("error", message=message, details=details, hint=hint, exit_code=code)
    return code


def clean(text: str) -> str:
    """Escape control characters: names and messages of an environment must not drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_interrupt(stop: KeyboardInterrupt, *, events: bool = False) -> int:
    """Tell that a signal ended the command, and what it leaves, see `model/interruption.py`; return its exit code."""
    code = interrupt_code(stop)
    what = "interrupted" if code == 128 + signal.SIGINT else f"ended by {signal.Signals(code - 128).name}"
    notes = [*reversed(getattr(stop, "__notes__", [])), *achievements()]  # from the whole to its parts
    if events:
        return _event(what, "\n".join(notes) or None, None, code)
    # A terminal shows ^C where the cursor is; the line that follows covers it.
    start = "\r" if sys.stderr.isatty() else ""
    first, *others = [clean(note) for note in notes] or [_NOTHING_BROKEN]
    sys.stderr.write(f"{start}{what}: {first}\n" + "".join(f"  {note}\n" for note in others))
    return code


def flush() -> int:
    """Write what is left for the standard streams; return an exit code, since a full disk shows up only here."""
    code = 0
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = EXIT_FAILURE
    except OSError as error:
        code = show(output_error(error))
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    return code


def output_error(error: OSError) -> EnvkitError:
    """Return what to tell where standard output cannot be written."""
    return EnvkitError(f"cannot write to standard output: {error.strerror}")
