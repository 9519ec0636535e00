"""`envkit sweep`: what Slurm's epilog calls on the nodes. Hidden: people have `envkit doctor --fix`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.called import run_sweep_command


@click.command("sweep", hidden=True)
@click.option("--job", type=click.IntRange(min=0), help="End what this job of Slurm still runs here.")
@pass_app
def command(app: App, /, job: int | None) -> None:
    """Remove what dead jobs left behind on this machine."""
    run_sweep_command(app.context, job)
