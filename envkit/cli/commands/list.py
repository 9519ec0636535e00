"""`envkit list`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.services import environments


@click.command("list", epilog="Example: envkit list --json")
@json_option
@pass_app
def command(app: App, /, *, as_json: bool) -> None:
    """List environments, with their latest version."""
    latest = environments.latest(app.context)
    if as_json:
        app.console.json([environments.version_json(version) for version in latest])
        return
    rows = [
        (str(v.env), str(v.number), v.base or "-", human_bytes(v.size), v.created, v.author, v.message) for v in latest
    ]
    app.console.table(("ENVIRONMENT", "VERSION", "BASE", "SIZE", "CREATED", "AUTHOR", "MESSAGE"), rows)
