"""`envkit cache`: look after what this machine keeps of environments."""

import time
from collections.abc import Sequence

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import Console, human_bytes
from envkit.cli.params import json_option
from envkit.errors import EXIT_DAMAGED, InvalidInput
from envkit.model.duration import human_duration
from envkit.services import caching
from envkit.services.caching import Item, Users
from envkit.services.serving import ServerInUse, keep_server, stop_server

_DIGITS = 12


@click.group("cache")
def command() -> None:
    """Look after what this machine keeps of environments.

    All of it can be fetched again. What was used longest ago goes by itself when the cache is over its quota
    (`cache_quota`).
    """


@command.command("list", epilog="Example: envkit cache list --json")
@json_option
@pass_app
def list_(app: App, /, *, as_json: bool) -> None:
    """List the layers and trees in the cache, those that were used last first."""
    found = caching.listing(app.context)
    if as_json:
        app.console.json(caching.listing_json(found))
        return
    rows = [
        (
            entry.item.digest[:_DIGITS],
            entry.item.kind,
            human_bytes(entry.item.bytes),
            _percent(entry.share),
            _ago(entry.item),
            "yes" if entry.in_use else "no",
        )
        for entry in found.entries
    ]
    app.console.table(("DIGEST", "KIND", "ON DISK", "THERE", "LAST USED", "IN USE"), rows)
    app.console.say(f"{human_bytes(found.bytes)} of the {human_bytes(found.limit)} that the cache may have")


@command.command("why", epilog="Examples: envkit cache why sci; envkit cache why 3fb2a96c01de")
@click.argument("name", metavar="ENV[@V]|LAYER")
@json_option
@pass_app
def why(app: App, /, *, name: str, as_json: bool) -> None:
    """Show who needs a layer, or each layer of an environment: versions in the store, sessions, running jobs.

    A layer is named by the first digits of its digest, at least eight.
    """
    found = caching.why(app.context, name)
    if as_json:
        app.console.json([caching.users_json(users) for users in found])
        return
    for users in found:
        _show_users(app.console, users)


@command.command("gc", epilog="Example: envkit cache gc --dry-run")
@click.option("--dry-run", is_flag=True, help="Show what would be evicted; change nothing.")
@json_option
@pass_app
def gc(app: App, /, *, dry_run: bool, as_json: bool) -> None:
    """Evict what was used longest ago until the cache is within its quota.

    What is mounted, belongs to an open session or was used in the last minute stays. This also happens by itself.
    """
    done = caching.collect(app.context, dry_run=dry_run)
    if as_json:
        app.console.json(caching.evicted_json(done))
        return
    verb = "would evict" if dry_run else "evicted"
    app.console.say(f"{verb} {_amount(done.items)}")
    app.console.say(f"{human_bytes(done.bytes)} of the {human_bytes(done.limit)} that the cache may have")


@command.command("drop", epilog="Examples: envkit cache drop sci@2; envkit cache drop --all")
@click.argument("names", metavar="[ENV[@V]|LAYER]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Drop everything.")
@json_option
@pass_app
def drop(app: App, /, *, names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Drop layers from the cache, or all layers of environments, unless a job or session uses them now.

    Layers that other environments share go, too. Nothing is lost: what is needed again is fetched again.
    """
    if bool(names) == everything:
        raise InvalidInput("say what to drop: names, or --all", resolution="see `envkit cache list`")
    done = caching.drop_all(app.context) if everything else caching.drop_named(app.context, names)
    if as_json:
        app.console.json(caching.dropped_json(done))
        return
    app.console.say(f"dropped {_amount(done.items)}")
    if done.kept:
        app.console.say(f"kept {_amount(done.kept)}: in use")


@command.command("warm", epilog="Example: envkit cache warm sci lab/gromacs@stable")
@click.argument("names", metavar="ENV[@V]...", nargs=-1, required=True)
@json_option
@pass_app
def warm(app: App, /, *, names: tuple[str, ...], as_json: bool) -> None:
    """Fetch all of some environments now, so that later starts need no store.

    For the start of a cluster's node, or before a machine goes offline.
    """
    done = caching.warm(app.context, names)
    if as_json:
        app.console.json(caching.warmed_json(done))
        return
    for warmed in done:
        app.console.say(f"{warmed.version}: {warmed.layers} layers are there, {warmed.fetched} were fetched")


@command.command("check", epilog="Example: envkit cache check")
@json_option
@pass_app
def check(app: App, /, *, as_json: bool) -> int:
    """Compare all that is in the cache with its digests, and drop what is damaged.

    Reads all of it. The exit code is 6 if something was damaged. Containers that run keep what they have: start them
    again.
    """
    done = caching.check(app.context)
    if as_json:
        app.console.json(caching.checked_json(done))
    else:
        for item in done.damaged:
            app.console.data(f"{item.kind} {item.digest[:_DIGITS]} was damaged, and is dropped")
        for item in done.mended:
            app.console.data(f"layer {item.digest[:_DIGITS]} had damaged chunks, which will be fetched again")
        for item in done.skipped:
            app.console.say(f"layer {item.digest[:_DIGITS]} was not compared: it is being served, or has no map")
        app.console.say(f"checked {_amount([item for item, _ in done.found])}")
    return EXIT_DAMAGED if done.damaged or done.mended else 0


def _show_users(console: Console, users: Users) -> None:
    item = users.item
    if item is None:
        console.data(f"{users.digest[:_DIGITS]}  not here")
    else:
        there = f"{human_bytes(item.bytes)}, {_percent(users.share)} there, last used {_ago(item)}"
        console.data(f"{users.digest[:_DIGITS]}  {there}")
    for title, names in (
        ("versions", users.versions),
        ("sessions", users.sessions),
        ("mounted by processes", users.processes),
    ):
        if names:
            console.data(f"  {title}: {', '.join(map(str, names))}")


def _amount(items: Sequence[Item]) -> str:
    layers = sum(item.kind == "layer" for item in items)
    return f"{layers} layers and {len(items) - layers} trees: {human_bytes(sum(item.bytes for item in items))}"


def _percent(share: float) -> str:
    """Return a share for people; 100 % only where nothing is missing."""
    return "100 %" if share >= 1 else f"{min(99.0, 100 * share):.0f} %"


def _ago(item: Item) -> str:
    return f"{human_duration(time.time() - item.used)} ago"


@command.command("stop", epilog="Examples: envkit cache stop; envkit cache stop --force")
@click.option("--force", is_flag=True, help="Also if containers use it: what they read and is not in memory fails.")
@pass_app
def stop(app: App, /, *, force: bool) -> None:
    """End the image server, which serves layers that are not complete here. It ends by itself when nothing uses it."""
    if not stop_server(app.context, force=force):
        raise ServerInUse
    app.console.say("no image server is running")


@command.command("serve", epilog="Example: see scripts/systemd/envkit-images.service")
@pass_app
def serve(app: App, /) -> None:
    """Start the image server in the foreground, and keep it when nothing uses it.

    That is for service managers; commands start one themselves. `envkit cache stop` ends it.
    """
    if not keep_server(app.context):
        app.console.say("an image server is running already")
