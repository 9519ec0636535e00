"""Owns what a request to end does to work under way: it unwinds as Ctrl-C does, and says what it leaves behind."""

import contextlib
from collections.abc import Callable, Iterator

_achievements: list[str] | None = None


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def remains(tell: Callable[[], str]) -> Iterator[None]:
    """Do work whose interruption leaves something to tell: one sentence, lower case, no final period.

    `tell` is asked when it happens; "" says nothing. Of several around one another the outermost is told first.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        text = tell()
        if text:
            stop.add_note(text)
        raise


def note_achievements() -> None:
    """Begin to note what this process achieves: for who tells of its interruption at its end."""
    global _achievements  # as signals are, it is the process's
    _achievements = []


def achieved(text: str) -> None:
    """Have whatever interrupts this process from now on tell what it has done by then: a sentence as in `remains`."""
    if _achievements is not None:
        _achievements.append(text)


def achievements() -> tuple[str, ...]:
    """Return what this process has done so far that an interruption does not undo."""
    return tuple(_achievements or ())
