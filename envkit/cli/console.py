"""Owns printing: data on standard output, talk on standard error."""

import json
from collections.abc import Sequence

import click

from envkit.cli.boundary import clean


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


def human_bytes(count: int) -> str:
    """Return a size for people, in powers of 1000 as file managers and `ls --si` show it."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
