"""`envkit rename`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import renaming


@click.command("rename", epilog="Example: envkit rename sci solver")
@click.argument("old")
@click.argument("new")
@pass_app
def command(app: App, /, *, old: str, new: str) -> None:
    """Give an environment another name, with all its versions, their numbers, tags and messages.

    Whoever uses the old name is told the new one. After an interruption the same command finishes it.
    """
    renamed = renaming.rename(app.context, old, new)
    app.console.say(f"{renamed.old} {'is' if renamed.already else 'was'} renamed to {renamed.new}")
    app.console.data(str(renamed.new))
