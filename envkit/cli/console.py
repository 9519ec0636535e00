"""Owns printing: data on standard output, talk on standard error."""

import json
import sys
from collections.abc import Sequence

import click

from envkit.cli.boundary import clean, output_error
from envkit.model.amounts import human_bytes
from envkit.model.progress import Progress

__all__ = ["Console", "human_bytes"]


class Console:
    """Prints for one command line, beside its display of progress.

    :param events: talk becomes events, for a program that reads standard error.
    """

    def __init__(self, progress: Progress, *, events: bool = False) -> None:
        self._progress = progress
        self._events = events

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print aligned columns with a header; nothing but the header where there are no rows."""
        cells = [list(header), *([clean(cell) for cell in row] for row in rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for row in cells:
            self._print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def json(self, value: object) -> None:
        """Print a value as JSON."""
        self._print(json.dumps(value, indent=2, ensure_ascii=False))

    def data(self, text: str) -> None:
        """Print one line of data."""
        self._print(clean(text))

    def say(self, text: str) -> None:
        """Tell the user something. May be called from any thread."""
        if self._events:
            from envkit.cli.events import write_event

            write_event("message", message=text)
        else:
            self._print(clean(text), err=True)

    def remark(self, text: str) -> None:
        """Tell something that only somebody at a terminal wants to know."""
        if sys.stderr.isatty() and not self._events:
            self.say(text)

    def _print(self, text: str, *, err: bool = False) -> None:
        try:
            with self._progress.hidden():
                click.echo(text, err=err)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise output_error(error) from error
