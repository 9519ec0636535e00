"""`envkit close`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import sessions


@click.command("close", epilog="Example: envkit close sci")
@click.argument("name")
@click.option("--discard", is_flag=True, help="Throw unsaved changes away.")
@pass_app
def command(app: App, /, *, name: str, discard: bool) -> None:
    """End a session: its container and its changes on this machine. Saved versions stay."""
    env = sessions.close(app.context, name, discard=discard)
    app.console.say(f"closed the session on {env}")
