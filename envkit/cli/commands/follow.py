"""`envkit follow`: what the Python API learns from what becomes of its jobs. Not for people, who have `envkit wait`."""

import json
import os
import select
import sys
import time
from collections.abc import Iterable

import click

from envkit.cli.app import App, pass_app
from envkit.errors import InvalidInput
from envkit.model.jobid import parse_ids
from envkit.services.jobs.watching import Event, Watch

_IDLE = 10.0
"""Seconds without anything to look at after which it ends: the next job starts another one."""
_LINE = 1 << 20


@click.command("follow", hidden=True)
@pass_app
def command(app: App, /) -> None:
    """Read numbers of jobs and ranges of them on standard input, in lines, and print a line of JSON whenever one of
    their tasks changes.

    With `sent` in it, the line is followed by so many bytes: the value that the task left. It ends with its input.
    """
    app.as_json = True
    watch = Watch(app.context)
    numbers = _Numbers()
    busy = time.monotonic()
    while not numbers.ended:
        for number in numbers.read(watch.pause):
            _print(watch.add(number))
        _print(watch.look())
        now = time.monotonic()
        busy = busy if watch.idle else now
        if now - busy > _IDLE:
            return


class _Numbers:
    """The numbers that come on standard input."""

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""

    def read(self, patience: float) -> list[int]:
        """Return those that have come, waiting so many seconds for the first.

        :raises InvalidInput: something else has come.
        """
        if not select.select([0], [], [], patience)[0]:
            return []
        data = os.read(0, 65536)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE:
            raise InvalidInput("a line of standard input is no number of a job")
        return [one.job for one in parse_ids(line.decode("ascii", "replace") for line in lines)]


def _print(events: Iterable[Event]) -> None:
    out = sys.stdout.buffer
    for event in events:
        out.write(json.dumps(event.row).encode() + b"\n" + (event.data or b""))
    out.flush()
