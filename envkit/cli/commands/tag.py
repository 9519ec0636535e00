"""`envkit tag`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.params import json_option
from envkit.services import amending


@click.command(
    "tag",
    epilog="""\b
Examples:
  envkit tag sci@3 stable
  envkit run -e sci@stable -- ./solve
  envkit tag sci stable --remove""",
)
@click.argument("env", metavar="ENV[@V]")
@click.argument("name")
@click.option("--remove", is_flag=True, help="Remove the tag; the version stays.")
@json_option
@pass_app
def command(app: App, /, *, env: str, name: str, remove: bool, as_json: bool) -> None:
    """Give a version a name that stands where its number can, as in sci@stable. Without @V: the latest.

    A tag that is given again moves; what runs or is queued goes on with the version that it meant then.
    """
    done = amending.untag(app.context, env, name) if remove else amending.tag(app.context, env, name)
    if as_json:
        app.console.json(amending.tagged_json(done))
        return
    version = f"{done.env}@{done.number}"
    if remove:
        app.console.say(f"removed the tag {name}; {done.env}@{done.before} stays")
    elif not done.changed:
        app.console.say(f"{done.env}@{name} means {version} already")
    else:
        before = "" if done.before is None else f", no longer {done.env}@{done.before}"
        app.console.say(f"{done.env}@{name} means {version}{before}")
