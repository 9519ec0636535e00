"""`envkit copy`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.services import copying


@click.command(
    "copy",
    epilog="""\b
Examples:
  envkit copy sci --to /mnt/shared/envkit
  envkit copy sci@3 --to s3://bucket/envkit --as sci-paper
  envkit --store /mnt/shared/envkit copy sci --to /var/lib/envkit/store --history""",
)
@click.argument("env", metavar="ENV[@V]")
@click.option("--to", required=True, metavar="STORE", help="The store that it goes to: a directory or URL.")
@click.option("--as", "name", metavar="NAME", help="What it is called there; by default as here.")
@click.option("--history", is_flag=True, help="Copy all versions that are not deleted, the oldest first.")
@json_option
@pass_app
def command(app: App, /, *, env: str, to: str, name: str | None, history: bool, as_json: bool) -> None:
    """Copy a version to another store; only what that one lacks is sent.

    All layers go along, those of the base included. The copy takes the next free version number there and remembers
    where it is from, so that copying it again does nothing. To copy from another store, name that with --store.
    """
    result = copying.copy(app.context, env, to, name=name, history=history)
    if as_json:
        app.console.json(copying.copied_json(result))
        return
    for one in result.versions:
        if one.already:
            app.console.say(f"{one.source} is already there: {one.copy} in {result.url}")
        else:
            app.console.say(f"copied {one.source} to {one.copy} in {result.url}")
        app.console.data(str(one.copy))
    app.console.say(f"sent {human_bytes(result.sent)}")
