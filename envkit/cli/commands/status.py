"""`envkit status`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.model.session import Saved
from envkit.services import sessions


@click.command("status", epilog="Example: envkit status sci --json")
@click.argument("name", required=False)
@json_option
@pass_app
def command(app: App, /, *, name: str | None, as_json: bool) -> None:
    """Show open sessions: what they started from, whether they run, and how much has changed since."""
    states = sessions.status(app.context, name)
    if as_json:
        app.console.json([sessions.status_json(state) for state in states])
        return
    rows = [
        (
            str(state.session.env),
            "running" if state.running else "stopped",
            state.session.parent,
            f"{state.files} files, {human_bytes(state.bytes)}",
            _last_save(state.session.saved),
            "yes" if state.unsaved else "no",
        )
        for state in states
    ]
    app.console.table(("SESSION", "STATE", "ON", "CHANGED", "LAST SAVE", "UNSAVED"), rows)


def _last_save(saved: Saved | None) -> str:
    return "never saved" if saved is None else saved.under or f"version {saved.number}"
