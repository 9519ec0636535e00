"""`envkit describe`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import amending


@click.command("describe", epilog='Example: envkit describe sci "numpy, scipy and our solver"')
@click.argument("env")
@click.argument("text")
@pass_app
def command(app: App, /, *, env: str, text: str) -> None:
    """Say what an environment is for; `list`, `log` and `info` show it. An empty text removes it.

    No version is made or changed.
    """
    described = amending.describe(app.context, env, text)
    app.console.say(f"{described}: {text}" if text else f"{described} has no description")
