"""Owns progress bars: one line on standard error a step, gone when the step ends. rich is imported with the first."""

import sys

from envkit.model.progress import Progress, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn, TaskID


def progress() -> Progress:
    """Return where a service reports its progress: bars on a terminal, nowhere else."""
    return BarProgress() if sys.stderr.isatty() else Progress()


class BarProgress(Progress):
    """Draws one bar a step."""

    def step(self, text: str, *, total: int | None = None, unit: str = "files") -> Step:
        """Draw a bar until the context ends."""
        from rich import progress as bars
        from rich.console import Console

        columns: list[ProgressColumn] = [bars.TextColumn("{task.description:<24}"), bars.BarColumn(bar_width=30)]
        if unit == "bytes":
            columns += [bars.DownloadColumn(), bars.TransferSpeedColumn()]
        else:
            columns += [bars.MofNCompleteColumn(), bars.TextColumn(unit)]
        columns.append(bars.TimeElapsedColumn())
        drawing = bars.Progress(*columns, console=Console(stderr=True), transient=True)
        return BarStep(drawing, drawing.add_task(text, total=total))


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
