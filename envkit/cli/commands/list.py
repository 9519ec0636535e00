"""`envkit list`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.model.version import Newest
from envkit.services import environments


@click.command("list", epilog="Example: envkit list --json")
@json_option
@pass_app
def command(app: App, /, *, as_json: bool) -> None:
    """List environments, with their latest version and the tags that mean it; `envkit log` shows the others."""
    found = environments.newest(app.context)
    if as_json:
        app.console.json([environments.newest_json(item) for item in found])
        return
    rows = [_row(item) for item in found]
    header = ("ENVIRONMENT", "VERSION", "TAGS", "BASE", "SIZE", "CREATED", "AUTHOR", "DESCRIPTION", "MESSAGE")
    app.console.table(header, rows)


def _row(item: Newest) -> tuple[str, ...]:
    version = item.version
    return (
        str(version.env),
        str(version.number),
        ", ".join(item.tags),
        version.base or "-",
        human_bytes(version.size),
        version.created,
        version.author,
        item.description,
        version.message,
    )
