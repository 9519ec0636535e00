"""`envkit base`: build, import, list, delete."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.services import amending, bases, environments


@click.group("base")
def command() -> None:
    """Build, import, list and delete bases: the read-only roots that environments start from."""


@command.command("build", epilog="Example: envkit base build debian-12")
@click.argument("recipe")
@click.option("--name", metavar="NAME", help="The base's name; default: the recipe's.")
@pass_app
def build(app: App, /, *, recipe: str, name: str | None) -> None:
    """Build a base from a recipe, with the package mirrors of this machine."""
    version = bases.build(app.context, recipe, name=name, say=app.console.say)
    app.console.data(str(version))


@command.command("import", epilog="Example: envkit base import rocky-9 rootfs.tar.zst")
@click.argument("name")
@click.argument("source", type=click.Path(exists=True))
@click.option("-d", "--description", default="", metavar="TEXT", help="What it is.")
@pass_app
def import_(app: App, /, *, name: str, source: str, description: str) -> None:
    """Import a base from a directory that holds a root file system, or from a tar archive of one."""
    version = bases.import_base(app.context, name, source, message=description)
    app.console.data(str(version))


@command.command("list")
@json_option
@pass_app
def list_(app: App, /, *, as_json: bool) -> None:
    """List bases, and the recipes that more can be built from."""
    found = bases.newest(app.context)
    if as_json:
        app.console.json([environments.newest_json(item) for item in found])
        return
    rows = []
    for item in found:
        version = item.version
        rows.append(
            (version.env.name, str(version.number), human_bytes(version.size), version.created, item.description)
        )
    app.console.table(("BASE", "VERSION", "SIZE", "CREATED", "DESCRIPTION"), rows)
    recipes = ", ".join(bases.recipe_names())
    app.console.say(f"recipes for `envkit base build`: {recipes}")


@command.command("delete", epilog="Example: envkit base delete debian-12@1")
@click.argument("name", metavar="NAME[@V]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_app
def delete(app: App, /, *, name: str, yes: bool) -> None:
    """Delete a base or one version of it; environments that were saved on it go on working."""
    doomed = bases.to_delete(app.context, name)
    if not yes:
        click.confirm(f"delete base {doomed.env.name} ({len(doomed.numbers)} versions)?", abort=True, err=True)
    amending.delete(app.context, doomed)
    app.console.say(amending.deleted_text(doomed))
