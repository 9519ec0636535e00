"""`envkit shell`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import sessions


@click.command("shell", epilog="Example: envkit shell sci")
@click.argument("name")
@pass_app
def command(app: App, /, *, name: str) -> int:
    """Enter an open session again.

    Leaving the shell does not end the session. After a reboot its container is started again over the same changes.
    """
    return sessions.shell(app.context, name)
