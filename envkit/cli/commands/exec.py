"""`envkit exec`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import sessions


@click.command(
    "exec",
    epilog="Example: envkit exec sci -- pip install numpy",
)
@click.argument("name")
@click.option("-w", "--workdir", default="/root", metavar="DIR", help="Where the command starts; default: /root.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_app
def command(app: App, /, *, name: str, workdir: str, command: tuple[str, ...]) -> int:
    """Run one command in an open session, as root; the exit code is the command's."""
    return sessions.execute(app.context, name, command, directory=workdir)
