"""`envkit delete`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import amending, environments


@click.command("delete", epilog="Example: envkit delete sci@2")
@click.argument("env", metavar="ENV[@V]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_app
def command(app: App, /, *, env: str, yes: bool) -> None:
    """Delete one version, or with no @V the whole environment.

    The name stops resolving at once; `envkit undelete` brings it back until `envkit gc` has collected the data.
    """
    doomed = environments.to_delete(app.context, env)
    if not yes:
        names = ", ".join(f"@{number}" for number in doomed.numbers)
        click.confirm(f"delete {doomed.env} {names}?", abort=True, err=True)
    amending.delete(app.context, doomed)
    app.console.say(amending.deleted_text(doomed))
