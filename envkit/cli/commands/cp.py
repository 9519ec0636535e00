"""`envkit cp`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services.copy import copy


@click.command(
    "cp",
    epilog="""\b
Examples:
  envkit cp solver.py data/ sci:/opt/solver/
  envkit cp sci:/var/log/apt/history.log .""",
)
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.argument("destination", metavar="DEST")
@pass_app
def command(app: App, /, *, sources: tuple[str, ...], destination: str) -> None:
    """Copy files into a session (DEST is NAME:PATH) or out of it (SRC is NAME:PATH).

    As with cp -a: a destination that is a directory, or ends in a slash, gets the sources inside it. What is copied
    into a session belongs to its root; what is copied out belongs to you.
    """
    copy(app.context, sources, destination)
