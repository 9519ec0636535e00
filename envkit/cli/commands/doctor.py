"""`envkit doctor`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.params import json_option
from envkit.errors import EXIT_UNAVAILABLE
from envkit.services import doctor


@click.command("doctor", epilog="Example: sudo envkit doctor --fix")
@click.option(
    "--slurm-features", is_flag=True, help="Print what the node's line in slurm.conf may say of its CPU, and no more."
)
@click.option("--fix", is_flag=True, help="Mend what can be mended: ranges of ids, what dead jobs left behind.")
@json_option
@pass_app
def command(app: App, /, *, slurm_features: bool, fix: bool, as_json: bool) -> int:
    """Check this machine: kernel, programs, ids, space, leftovers. Everything that is missing, each with its fix."""
    if slurm_features:
        app.console.data(f"Feature={','.join(doctor.slurm_features())}")
        return 0
    if fix:
        for line in doctor.fix(app.context):
            app.console.say(line)
    checks = doctor.examine(app.context)
    if as_json:
        app.console.json([doctor.check_json(check) for check in checks])
    else:
        rows = [("ok" if c.ok else "MISSING" if c.required else "note", c.name, c.found) for c in checks]
        app.console.table(("STATE", "WHAT", "FOUND"), rows)
        for check in checks:
            if not check.ok and check.remedy:
                app.console.say(f"{check.name}: {check.remedy}")
    return EXIT_UNAVAILABLE if any(check.required and not check.ok for check in checks) else 0
