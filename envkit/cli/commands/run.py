"""`envkit run`; plain command lines never get here, see `cli/argv.py`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.job import run_failures, run_job
from envkit.cli.options import JOB
from envkit.cli.params import click_options


@click.command(
    "run",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  envkit run -e sci -- python3 solve.py
  envkit run -e sci@2 -v /data:/data:ro -v "$PWD:/work" -w /work -- ./solve
  envkit run -e alice/sci --net nat --memory 8G -c 4 --timeout 3600 -- make""",
)
@click_options(JOB)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_app
def command(app: App, /, command: tuple[str, ...], **values: object) -> int:
    """Run a command in an environment on this machine.

    It runs in an unprivileged container as you; what it writes outside of volumes is thrown away. The exit code is the
    command's; 125 when envkit failed, 126 when the command cannot be executed, 127 when it is not there.
    """
    with run_failures():
        config = app.context.config
    return run_job(config, values, command)
