"""`envkit sbatch`."""

import os

import click

from envkit.cli.app import App, pass_app
from envkit.cli.params import json_option
from envkit.cli.submission import request_from, split_words, submission_options, tell
from envkit.errors import InvalidInput
from envkit.model.sbatch import directives, parse_sbatch
from envkit.services.jobs.callerfiles import read_callers
from envkit.services.jobs.submitting import MAX_SCRIPT, submit


@click.command(
    "sbatch",
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Examples:
  envkit sbatch -e sci solve.sh
  envkit sbatch -e sci --time 2h -v /data:/data solve.sh input.dat
  envkit sbatch -e sci -- --qos=long -- solve.sh input.dat""",
)
@submission_options
@click.option("--array", metavar="NUMBERS", help="A task for each number, as in 0-99 or 1-9:2%4.")
@json_option
@click.argument("words", nargs=-1, metavar="[SBATCH-OPTION]... SCRIPT [ARGUMENT]...", type=click.UNPROCESSED)
@pass_app
def command(app: App, /, words: tuple[str, ...], *, as_json: bool, **values: object) -> None:
    """Run a batch script in an environment, unchanged, with what its #SBATCH lines ask for.

    Options given here win over those in the script. "-" is a script on standard input.
    """
    extra, command = split_words(words) if words[:1] != ("-",) else ([], list(words))
    if not command:
        raise InvalidInput("there is no script", resolution="as in envkit sbatch -e sci solve.sh")
    path, *arguments = command
    name = "script" if path == "-" else os.path.basename(path)
    text = read_callers(path, limit=MAX_SCRIPT)
    if b"\r\n" in text[:4096]:
        raise InvalidInput(f"{name} has line breaks of DOS", resolution=f"run `dos2unix {name}`")
    script = parse_sbatch(directives(text, name), f"{name}, #SBATCH")
    request = request_from(values, [name, *arguments], extra=extra, script=script).replace(script=text)
    tell(app, submit(app.context, request), request, as_json=as_json)
