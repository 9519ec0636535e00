"""`envkit rerun`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.jobs import id_argument
from envkit.cli.params import json_option
from envkit.cli.submission import tell
from envkit.model.jobid import parse_id
from envkit.services.jobs.rerunning import rerun
from envkit.services.jobs.submitting import Request


@click.command("rerun", epilog="Examples: envkit rerun 12; envkit rerun 12 --failed; envkit rerun 12_3")
@id_argument
@click.option("--failed", is_flag=True, help="Only the tasks that did not end with 0.")
@json_option
@pass_app
def command(app: App, /, name: str, *, failed: bool, as_json: bool) -> None:
    """Run a job again, as a new one: the same version, layer by layer, the same command and input.

    Prints the new job's number. Tasks of an array keep the numbers and parameters that they had.
    """
    done, order = rerun(app.context, parse_id(name), failed=failed)
    request = Request(job=order.job, label=order.label, resources=order.resources)
    tell(app, done, request, as_json=as_json)
