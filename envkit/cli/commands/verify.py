"""`envkit verify`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import Console, human_bytes
from envkit.cli.params import json_option
from envkit.errors import EXIT_DAMAGED
from envkit.model.amounts import parse_share
from envkit.services import verifying
from envkit.services.damage import Damage


@click.command(
    "verify",
    epilog="""\b
Examples:
  envkit verify
  envkit verify sci@3 --data
  envkit verify --sample 5%""",
)
@click.argument("env", metavar="[ENV[@V]]", required=False)
@click.option("--data", is_flag=True, help="Read every chunk and compare it with its digest.")
@click.option("--sample", metavar="SHARE", help="Read a random share of the chunks, as in 5%.")
@json_option
@pass_app
def command(app: App, /, *, env: str | None, data: bool, sample: str | None, as_json: bool) -> int:
    """Check that everything is there that the versions in the store need.

    Without --data or --sample no file content is read: records, trees and the sizes of packs are checked. Names each
    damaged object, and the versions and files that it affects; the exit code is 6 then.
    """
    share = None if sample is None else parse_share(sample)
    found = verifying.verify(app.context, env, data=data, sample=share)
    if as_json:
        app.console.json(verifying.verified_json(found))
    else:
        for damage in found.damages:
            show_damage(app.console, damage)
        read = f"; read {found.checked_chunks} chunks, {human_bytes(found.read)}" if data or share else ""
        app.console.say(
            f"checked {found.versions} versions, {found.trees} trees, {found.packs} packs, {found.chunks} chunks{read}"
        )
        wrong = len(found.damages)
        app.console.say(f"{wrong} damaged objects; see `envkit repair`" if wrong else "everything is there")
    return EXIT_DAMAGED if found.damages else 0


def show_damage(console: Console, damage: Damage) -> None:
    """Print a damaged object, and what needs it."""
    console.data(f"{damage.key}: {damage.problem}")
    if damage.versions:
        console.data(f"  needed by {', '.join(damage.versions)}")
    elif damage.kind == "pack":
        console.data("  no file that a version needs is affected")
    for path in damage.paths:
        console.data(f"  {path}")
    if damage.files > len(damage.paths):
        console.data(f"  and {damage.files - len(damage.paths)} more files")
