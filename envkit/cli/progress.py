"""Owns who is told of progress: people by bars on a terminal, programs that asked for JSON by lines, nobody else.

What draws and writes is imported with the first step: most runs have none.
"""

import contextlib
import sys

from envkit.model.progress import Progress, Step


def progress(*, events: bool = False) -> Progress:
    """Return where a service reports its progress; `events` where a program reads standard error."""
    if events:
        from envkit.cli.events import EventProgress

        return EventProgress()
    return TerminalProgress() if sys.stderr.isatty() else Progress()


class TerminalProgress(Progress):
    """The display on this terminal, made when there is something to show."""

    def __init__(self) -> None:
        self._bars: Progress | None = None

    def step(self, text: str, *, total: int | None = None, unit: str = "files") -> Step:
        """Begin a piece of work."""
        if self._bars is None:
            from envkit.cli.bars import BarProgress

            self._bars = BarProgress()
        return self._bars.step(text, total=total, unit=unit)

    def hidden(self) -> contextlib.AbstractContextManager[None]:
        """Keep the display away for a while."""
        return contextlib.nullcontext() if self._bars is None else self._bars.hidden()
