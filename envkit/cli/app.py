"""Owns what commands get: the configuration, the services' context, and where to print."""

import functools
import logging
import sys
from collections.abc import Mapping

import click

from envkit.cli.console import Console
from envkit.cli.progress import progress
from envkit.config.load import load
from envkit.model.progress import Progress
from envkit.services.context import Context


class App:
    """The composition root: built once a command line, passed to every command.

    :ivar as_json: the command was asked for JSON.
    """

    def __init__(self, flags: Mapping[str, str | None]) -> None:
        self._flags = flags
        self.as_json = False

    @property
    def events(self) -> bool:
        """Whether a program reads standard error."""
        return self.as_json and not sys.stderr.isatty()

    @functools.cached_property
    def progress(self) -> Progress:
        return progress(events=self.events)

    @functools.cached_property
    def console(self) -> Console:
        return Console(self.progress, events=self.events)

    @functools.cached_property
    def context(self) -> Context:
        logging.getLogger("envkit").addHandler(_Notes(self.console))
        return Context(load(self._flags), self.progress)


class _Notes(logging.Handler):
    """Tells what services note beside their work."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one note."""
        self._console.say(f"note: {record.getMessage()}")


pass_app = click.make_pass_decorator(App)
