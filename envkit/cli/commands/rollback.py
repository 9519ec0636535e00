"""`envkit rollback`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import cloning


@click.command("rollback", epilog='Example: envkit rollback sci@2 -m "the new solver diverges"')
@click.argument("env", metavar="ENV@V")
@click.option("-m", "--message", default="", metavar="TEXT", help="Why; default: rollback to @V.")
@pass_app
def command(app: App, /, *, env: str, message: str) -> None:
    """Go back to an earlier version: it becomes the latest, under a new number.

    Nothing is lost: the versions in between stay, and going back again is one more rollback.
    """
    version = cloning.rollback(app.context, env, message=message)
    app.console.say(f"{version} is the same as {version.parent}")
    if note := cloning.open_session_note(app.context, version.env):
        app.console.say(f"note: {note}")
    app.console.data(str(version))
