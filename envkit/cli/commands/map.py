"""`envkit map`."""

import shlex
from collections.abc import Sequence

import click

from envkit.cli.app import App, pass_app
from envkit.cli.params import json_option
from envkit.cli.submission import request_from, split_words, submission_options, tell
from envkit.errors import InvalidInput
from envkit.model.order import MAX_ORDER_BYTES
from envkit.model.sbatch import Sbatch
from envkit.model.sweep import parse_lists, rows_of
from envkit.model.template import parse_template
from envkit.services.jobs.callerfiles import read_callers
from envkit.services.jobs.submitting import submit


@click.command(
    "map",
    epilog="""\b
Examples:
  envkit map -e sci 'solve {alpha} {file}' -d alpha=0.1,0.2,0.3 -d file=@list.txt
  envkit map -e sci -d a=1,2,3 -d b=x,y --product -c 2 -- ./solve --a={a} --b={b}
  envkit result 12 --json    afterwards: a row for each task, with its parameters""",
)
@submission_options
@click.option(
    "-d",
    "--data",
    "lists",
    metavar="NAME=V1,V2,...|NAME=@FILE",
    multiple=True,
    required=True,
    help="The values of a parameter; of a file each line is one.",
)
@click.option("--product", is_flag=True, help="Combine every value with every other.")
@click.option("--at-once", metavar="N", help="Run so many of the tasks at the same time at most.")
@json_option
@click.argument("words", nargs=-1, metavar="COMMAND...", type=click.UNPROCESSED)
@pass_app
def command(
    app: App,
    /,
    words: tuple[str, ...],
    *,
    lists: tuple[str, ...],
    product: bool,
    at_once: str | None,
    as_json: bool,
    **values: object,
) -> None:
    """Run a command once for each value of its parameters, as the tasks of one job. Prints the job's number.

    {name} in the command stands for a value; {{ and }} are braces. Lists of the same length go together, one value goes
    with all. A value stays within its word, whatever is in it.
    """
    extra, template = split_words(words)
    template = _split(template)
    if not template:
        raise InvalidInput("there is no command", resolution="as in envkit map -e sci 'solve {x}' -d x=1,2,3")
    found = parse_lists(lists, lambda path: read_callers(path, limit=MAX_ORDER_BYTES))
    parse_template(template, found)
    rows = rows_of(found, product=product)
    request = request_from(values, template, extra=extra, script=Sbatch())
    if request.array:
        raise InvalidInput("--array and map contradict each other", resolution="leave --array out")
    if at_once is not None:
        if not (at_once.isascii() and at_once.isdigit() and int(at_once)):
            raise InvalidInput(f"--at-once {at_once!r:.40} must be a whole number above zero")
        request = request.replace(resources=request.resources.replace(at_once=int(at_once)))
    request = request.replace(count=len(rows), array=True, names=tuple(found), rows=rows)
    tell(app, submit(app.context, request), request, as_json=as_json)


def _split(words: Sequence[str]) -> list[str]:
    """Split a command that came as one word as a shell would; values are put in later, and are not split."""
    if len(words) != 1:
        return list(words)
    try:
        return shlex.split(words[0])
    except ValueError as error:
        raise InvalidInput(f"the command cannot be split into words: {str(error).lower()}") from error
