"""`envkit store`: make a store."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import stores


@click.group("store")
def command() -> None:
    """Make a store. The default one makes itself."""


@command.command("init", epilog="Example: envkit store init /mnt/shared/envkit")
@click.argument("directory")
@pass_app
def init(app: App, /, *, directory: str) -> None:
    """Make a store in a directory that is empty or does not exist yet.

    Use it with --store DIR, ENVKIT_STORE, or `store` in the configuration.
    """
    app.console.say(f"{stores.init(directory)} is a store")
