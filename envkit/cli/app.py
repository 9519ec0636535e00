"""Owns what commands get: the configuration, the services' context, and where to print."""

import click

from envkit.cli.console import Console
from envkit.cli.progress import progress
from envkit.config.model import Config
from envkit.services.context import Context


class App:
    """The composition root: built once a command line, passed to every command."""

    def __init__(self, config: Config) -> None:
        self.context = Context(config, progress())
        self.console = Console()


pass_app = click.make_pass_decorator(App)
