"""`envkit kill`."""

import sys

import click

from envkit.cli.app import App, pass_app
from envkit.cli.jobs import ids_argument, owner_option
from envkit.cli.params import json_option
from envkit.model.jobid import parse_ids
from envkit.services.jobs import ending

_MANY = 20


@click.command(
    "kill",
    epilog="""\b
Examples:
  envkit kill 12
  envkit kill 12_3 14-17 --yes""",
)
@ids_argument
@click.option("--yes", is_flag=True, help="Do not ask, however many they are.")
@owner_option
@json_option
@pass_app
def command(app: App, /, ids: tuple[str, ...], *, yes: bool, owner: str | None, as_json: bool) -> None:
    """End jobs, or tasks of them, whether they wait or run.

    More than 20 at a time are asked about on a terminal. What is over already is no error.
    """
    wanted = parse_ids(ids)
    if len(wanted) > _MANY and not yes and sys.stdin.isatty():
        click.confirm(f"end {len(wanted)} jobs and tasks?", abort=True, err=True)
    ended, late = ending.kill(app.context, wanted, owner=owner)
    if as_json:
        app.console.json({"killed": [str(one) for one in ended], "over": [str(one) for one in late]})
        return
    if late:
        app.console.say(f"over already: {', '.join(map(str, late[:_MANY]))}{' ...' if late[_MANY:] else ''}")
