"""Owns printing: data on standard output, talk and progress bars on standard error."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from envkit.cli.boundary import clean
from envkit.model.progress import Progress, Step

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Console:
    """Prints for one command line."""

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print aligned columns with a header; nothing but the header where there are no rows."""
        cells = [list(header), *([clean(cell) for cell in row] for row in rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for row in cells:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def json(self, value: object) -> None:
        """Print a value as JSON."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))

    def data(self, text: str) -> None:
        """Print one line of data."""
        click.echo(clean(text))

    def say(self, text: str) -> None:
        """Tell the user something."""
        click.echo(clean(text), err=True)

    def progress(self) -> Progress:
        """Return where a service reports its progress: bars on a terminal, nowhere else."""
        return BarProgress() if sys.stderr.isatty() else Progress()


class BarProgress(Progress):
    """Draws one bar a step."""

    def step(self, text: str, *, total: int | None = None, unit: str = "files") -> Step:
        """Draw a bar until the context ends."""
        from rich import progress as rich_progress

        columns: list[rich_progress.ProgressColumn] = [
            rich_progress.TextColumn("{task.description:<22}"),
            rich_progress.BarColumn(bar_width=30),
        ]
        if unit == "bytes":
            columns += [rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()]
        else:
            columns += [rich_progress.MofNCompleteColumn(), rich_progress.TextColumn(unit)]
        columns.append(rich_progress.TimeElapsedColumn())
        from rich.console import Console as RichConsole

        bars = rich_progress.Progress(*columns, console=RichConsole(stderr=True), transient=True)
        return BarStep(bars, bars.add_task(text, total=total))


class BarStep(Step):
    """One bar."""

    def __init__(self, bars: "Bars", task: "TaskID") -> None:
        self._bars = bars
        self._task = task

    def __enter__(self) -> "BarStep":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def advance(self, amount: int) -> None:
        """Move the bar."""
        self._bars.advance(self._task, amount)


def human_bytes(count: int) -> str:
    """Return a size for people, in powers of 1000 as file managers and `ls --si` show it."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
