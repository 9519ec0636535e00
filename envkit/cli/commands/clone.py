"""`envkit clone`."""

import click

from envkit.cli.app import App, pass_app
from envkit.services import cloning


@click.command(
    "clone",
    epilog="""\b
Examples:
  envkit clone sci sci-gpu -d "sci with CUDA"
  envkit clone alice/sci@3 sci
  envkit clone base/debian-12 plain""",
)
@click.argument("source", metavar="ENV[@V]")
@click.argument("name")
@click.option("-d", "--description", default="", metavar="TEXT", help="What it is for; default: that of the source.")
@pass_app
def command(app: App, /, *, source: str, name: str, description: str) -> None:
    """Make an environment of another one, of anybody's, or of a base, to go on with it under a name of your own.

    It begins with that version and shares its data; from then on the two have nothing to do with one another.
    """
    version = cloning.clone(app.context, source, name, description=description)
    app.console.say(f"{version} is a clone of {version.origin}")
    app.console.data(str(version))
