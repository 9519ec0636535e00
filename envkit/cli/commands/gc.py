"""`envkit gc`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.model.duration import human_duration, parse_duration
from envkit.services import collecting
from envkit.services.collecting import Collected, Totals

_WET = ("deleted", "condemned", "removed")
_DRY = ("would delete", "would condemn", "would remove")


@click.command("gc", epilog="Example: envkit gc --dry-run")
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@click.option(
    "--grace",
    default="7d",
    show_default=True,
    metavar="TIME",
    help="Keep what belongs to versions that were deleted less than this ago, as in 12h or 30d.",
)
@json_option
@pass_app
def command(app: App, /, *, dry_run: bool, grace: str, as_json: bool) -> None:
    """Delete from the store what no version needs any more.

    This takes two calls at least four hours apart: the first condemns what nothing needs, the second looks again and
    deletes it. Run it once a day. Saving and running go on meanwhile.
    """
    done = collecting.collect(app.context, grace=parse_duration(grace), dry_run=dry_run)
    if as_json:
        app.console.json(collecting.collected_json(done))
        return
    for line in _lines(done):
        app.console.say(line)


def _lines(done: Collected) -> list[str]:
    deleted, condemned, removed = _DRY if done.dry_run else _WET
    lines = list(done.notes)
    if done.deleted is not None:
        lines.append(f"{deleted} {_text(done.deleted)}")
    if done.spared:
        lines.append(f"spared {done.spared} objects that are needed again")
    if done.condemned is not None and done.condemned.objects:
        lines.append(f"{condemned} {_text(done.condemned)}")
    elif done.condemned is not None:
        lines.append("everything else in the store is needed, or too young to be condemned")
    for writer in done.writers:
        lines.append(f"what is condemned waits for a writer that began before: {writer}")
    if done.ripe_in is not None:
        when = f"in {human_duration(done.ripe_in)} or later" if done.ripe_in > 0 else "when they have ended"
        lines.append(f"run `envkit gc` again {when} to delete what is condemned")
    if done.jobs:
        lines.append(f"{deleted} what {done.jobs} jobs left that ended more than a month ago")
    if done.expired_leases or done.leftovers:
        lines.append(f"{removed} {done.expired_leases + done.leftovers} leftovers of processes that died")
    return lines


def _text(totals: Totals) -> str:
    return f"{totals.versions} versions, {totals.trees} trees and {totals.packs} packs: {human_bytes(totals.bytes)}"
