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
        app.console.json(environments.history_json(history))
        return
    if history.description:
        app.console.say(history.description)
    rows = [
        (
            f"@{number}",
            version.created,
            version.author,
            human_bytes(version.layers[-1].size),
            ", ".join(history.tags_of(number)),
            version.message if history.tombstone_of(number) is None else "deleted",
        )
        for number, version in reversed(history.versions.items())
    ]
    app.console.table(("VERSION", "CREATED", "AUTHOR", "TOP LAYER", "TAGS", "MESSAGE"), rows)
