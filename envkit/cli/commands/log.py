"""`envkit log`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.services import environments


@click.command("log", epilog="Example: envkit log sci")
@click.argument("env", metavar="ENV")
@json_option
@pass_app
def command(app: App, /, *, env: str, as_json: bool) -> None:
    """Show the versions of an environment, the newest first."""
    history = environments.history(app.context, env)
    if as_json:
        rows_json = [environments.version_json(entry.version) | {"deleted": entry.deleted} for entry in history]
        app.console.json(rows_json)
        return
    rows = [
        (
            f"@{entry.version.number}",
            entry.version.created,
            entry.version.author,
            human_bytes(entry.version.layers[-1].size),
            "deleted" if entry.deleted else entry.version.message,
        )
        for entry in history
    ]
    app.console.table(("VERSION", "CREATED", "AUTHOR", "TOP LAYER", "MESSAGE"), rows)
