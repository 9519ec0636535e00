"""`envkit repair`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.commands.verify import show_damage
from envkit.cli.params import json_option
from envkit.errors import EXIT_DAMAGED
from envkit.services import repairing


@click.command("repair", epilog="Example: envkit repair --from /mnt/mirror/envkit")
@click.option("--from", "source", metavar="STORE", help="Another store that may have what is damaged here.")
@json_option
@pass_app
def command(app: App, /, *, source: str | None, as_json: bool) -> int:
    """Verify the store with all its data, and put damaged or missing objects back.

    Sources are the other store, what this machine has cached, and other parts of the store. Nothing is put back that
    does not have exactly the digest that it should have. Exit code 6 if something stays damaged.
    """
    done = repairing.repair(app.context, source)
    if as_json:
        app.console.json(repairing.repaired_json(done))
    else:
        for damage in done.mended:
            app.console.say(f"mended {damage.key}, which {damage.problem}" if damage.digest else f"mended {damage.key}")
        for left in done.left:
            show_damage(app.console, left.damage)
            app.console.data(f"  {left.resolution}")
        app.console.say(f"mended {len(done.mended)} objects, {len(done.left)} stay damaged")
    return EXIT_DAMAGED if done.left else 0
