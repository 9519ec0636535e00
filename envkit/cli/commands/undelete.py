"""`envkit undelete`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import amending


@click.command("undelete", epilog="Example: envkit undelete sci@2")
@click.argument("env", metavar="ENV[@V]")
@pass_app
def command(app: App, /, *, env: str) -> None:
    """Bring a deleted version back, or with no @V all that the last `delete` took.

    That works until `envkit gc` has collected their data.
    """
    restored = amending.undelete(app.context, env)
    for number in restored.numbers:
        app.console.say(f"{restored.env}@{number} is there again")
    for problem in restored.refused:
        app.console.say(f"note: {problem.brief}")
    for number in restored.numbers:
        app.console.data(f"{restored.env}@{number}")
