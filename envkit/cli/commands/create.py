"""`envkit create`."""

import sys

import click

from envkit.cli.app import App, pass_app
from envkit.services import script as script_service
from envkit.services import sessions


@click.command(
    "create",
    epilog="""\b
Examples:
  envkit create sci --base debian-12
  envkit create sci2 --from sci@3 -d "with the new solver"
  envkit create sci --base debian-12 --script install.sh
  envkit create sci --base debian-12 -- apt-get install -y gcc""",
)
@click.argument("name")
@click.option("--base", metavar="BASE[@V]", help="Start from a base.")
@click.option("--from", "origin", metavar="ENV[@V]", help="Start from an environment; the same name goes on with it.")
@click.option("-d", "--description", default="", metavar="TEXT", help="What it is for.")
@click.option(
    "--script", type=click.Path(exists=True, dir_okay=False), help="Run this script in the session instead of a shell."
)
@click.option("--no-shell", is_flag=True, help="Only open the session.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@pass_app
def command(
    app: App,
    /,
    *,
    name: str,
    base: str | None,
    origin: str | None,
    description: str,
    script: str | None,
    no_shell: bool,
    command: tuple[str, ...],
) -> int:
    """Open a session: a root shell over a base, to install things in.

    The session stays open, and its changes stay on this machine, until you close it; `envkit save` stores them.
    """
    if sum((bool(script), no_shell, bool(command))) > 1:
        raise click.UsageError("give one of --script, --no-shell and a command")
    session = sessions.create(app.context, name, base=base, origin=origin, description=description)
    app.console.say(f"opened {session.env} on {session.parent}; save it with: envkit save {session.env.name}")
    for warning in sessions.borrowed().warnings:
        app.console.say(f"note: {warning}")
    if script:
        return script_service.run_script(app.context, name, script)
    if command:
        return sessions.execute(app.context, name, command)
    if no_shell or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return 0
    return sessions.shell(app.context, name)
