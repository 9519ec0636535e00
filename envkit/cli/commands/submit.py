"""`envkit submit`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.params import json_option
from envkit.cli.submission import ARRAY_FLAG, request_from, split_words, submission_options, tell
from envkit.errors import InvalidInput
from envkit.model.sbatch import Sbatch
from envkit.services.jobs.submitting import submit


@click.command(
    "submit",
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Examples:
  envkit submit -e sci -- python3 solve.py
  envkit submit -e sci@2 -c 4 --memory 8G --time 12h -v /data:/data -l night -- ./solve
  ID=$(envkit submit -e sci --depends-on 12,13 -- ./collect); envkit wait $ID
  envkit submit -e sci --array 0-99%10 -- sh -c './solve $ENVKIT_TASK_INDEX'
  envkit submit -e sci -n 4 -- --exclusive --qos=long -- python3 solve.py""",
)
@submission_options
@click.option(
    "--array",
    metavar="NUMBERS",
    is_flag=False,
    flag_value=ARRAY_FLAG,
    help="A task for each number, as in 0-99, 1-9:2 or 1,5,8; %4 behind it: four at once.",
)
@click.option("--call", metavar="FILE", hidden=True, help="A Python call, see the Python API.")
@json_option
@click.argument("words", nargs=-1, metavar="[SBATCH-OPTION]... -- COMMAND...", type=click.UNPROCESSED)
@pass_app
def command(app: App, /, words: tuple[str, ...], *, call: str | None, as_json: bool, **values: object) -> None:
    """Run a command in an environment as a job: of Slurm where there is one, else of this machine's own queue.

    Prints the job's number. The environment's version is settled now, whatever is saved later. Options between a first
    and a second "--" are sbatch's.
    """
    extra, command = split_words(words)
    if call is None and not command:
        raise InvalidInput("there is no command", resolution="give it behind --, as in envkit submit -e sci -- ./solve")
    if call is not None and command:
        raise InvalidInput("a Python call has no command")
    if values.get("array") == ARRAY_FLAG and call is None:
        raise InvalidInput("--array needs the numbers of its tasks", resolution="as in --array 0-99")
    request = request_from(values, command, extra=extra, script=Sbatch()).replace(call=call)
    tell(app, submit(app.context, request), request, as_json=as_json)
