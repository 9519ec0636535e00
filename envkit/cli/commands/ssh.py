"""`envkit ssh`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.jobs import behind_dashes, id_argument, one_task
from envkit.services.jobs.joining import ssh


@click.command(
    "ssh",
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Examples:
  envkit ssh 12
  envkit ssh 12_3 -- ps aux""",
)
@id_argument
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
@pass_app
def command(app: App, /, name: str, command: tuple[str, ...]) -> int:
    """Open a shell in the container of a running task, or run a command there; the exit code is the command's.

    It has the task's mounts, network, variables and limits, on the task's node, and ends with the task.
    """
    return ssh(app.context, one_task(name), behind_dashes(command))
