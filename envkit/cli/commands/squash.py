"""`envkit squash`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.services import cloning, squashing


@click.command("squash", epilog="Example: envkit squash sci")
@click.argument("env")
@click.option("-m", "--message", default="", metavar="TEXT", help="Why; default: squash of @V.")
@pass_app
def command(app: App, /, *, env: str, message: str) -> None:
    """Make a new version with the files of the latest one, and one layer on the base in place of many.

    What earlier layers had and later ones replaced or deleted is no part of it. No data is stored again, and the
    earlier versions stay; once they are deleted and collected, what only they had is gone.
    """
    done = squashing.squash(app.context, env, message=message)
    before, layer = len(done.source.layers), done.version.layers[-1]
    app.console.say(
        f"{done.version} has {len(done.version.layers)} layers, {done.source} has {before};"
        f" its own one: {layer.entries} entries, {human_bytes(layer.size)} of files"
    )
    if note := cloning.open_session_note(app.context, done.version.env):
        app.console.say(f"note: {note}")
    app.console.data(str(done.version))
