"""`envkit store`: make a store."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import stores


@click.group("store")
def command() -> None:
    """Make a store. The default one makes itself."""


@command.command("init", epilog="Examples: envkit store init /mnt/shared/envkit; envkit store init s3://bucket/envkit")
@click.argument("url")
@pass_app
def init(app: App, /, *, url: str) -> None:
    """Make a store in a directory or bucket that has nothing in it yet.

    First it is tried whether the place keeps the promises that a store needs, for example that of two writers at once
    one wins. Use the store with --store URL, ENVKIT_STORE, or `store` in the configuration.
    """
    app.console.say(f"{stores.init(app.context, url)} is a store")
