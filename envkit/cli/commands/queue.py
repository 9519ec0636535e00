"""`envkit queue`: what a service manager calls on a machine without Slurm. Hidden: whoever submits starts the queue."""

import click

from envkit.cli.app import App, pass_app
from envkit.services.jobs.queueing import serve_queue


@click.group("queue", hidden=True)
def command() -> None:
    """Look after the queue of a machine without Slurm."""


@command.command("serve", epilog="Example: see scripts/systemd/envkit-queue.service")
@pass_app
def serve(app: App, /) -> None:
    """Run the jobs of this machine, in the foreground, until SIGTERM.

    That is for service managers, so that jobs start again after a reboot before somebody asks for them; commands start
    what runs the queue themselves. Tasks that run at the end go on, and belong to the next one.
    """
    serve_queue(app.context)
