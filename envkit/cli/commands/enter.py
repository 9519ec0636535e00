"""`envkit enter`: what a queue starts on a node for `envkit ssh` and `wait-port`. Hidden: nobody types it."""

import json

import click

from envkit.cli.app import App, pass_app
from envkit.cli.jobs import behind_dashes
from envkit.errors import InvalidInput
from envkit.model.ids import check_owner
from envkit.model.order import TOKEN
from envkit.services.jobs.joining import enter, listening


@click.command("enter", hidden=True, context_settings={"allow_interspersed_args": False})
@click.option("--port", type=click.IntRange(1, 65_535), help="Wait until this port is open instead, and say where.")
@click.option("--timeout", type=float, help="Wait so many seconds at most.")
@click.argument("owner")
@click.argument("token")
@click.argument("index", type=click.IntRange(0))
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@pass_app
def command(
    app: App,
    /,
    *,
    port: int | None,
    timeout: float | None,
    owner: str,
    token: str,
    index: int,
    command: tuple[str, ...],
) -> int:
    """Run a command in the container of a task on this node."""
    check_owner(owner)
    if not TOKEN.fullmatch(token):
        raise InvalidInput("this is no task", resolution="use envkit ssh")
    if port is None:
        return enter(app.context, owner, token, index, behind_dashes(command))
    found = listening(app.context, owner, token, index, port, timeout)
    app.console.data(json.dumps({"host": found.host, "note": found.note}))
    return 0
