"""`envkit shell-on`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.submission import request_from, split_words, submission_options
from envkit.model.sbatch import Sbatch
from envkit.services.jobs.interactive import shell_on
from envkit.services.jobs.submitting import Submitted


@click.command(
    "shell-on",
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Examples:
  envkit shell-on -e sci -c 4 --memory 8G
  envkit shell-on -e sci -p gpu --gpus 1 --time 2h -- python3""",
)
@submission_options
@click.argument("words", nargs=-1, metavar="[COMMAND...]", type=click.UNPROCESSED)
@pass_app
def command(app: App, /, words: tuple[str, ...], **values: object) -> int:
    """Open a shell in an environment as a job: with the options, limits and mounts that `submit` would give it.

    It waits in the queue like any other job, also on a machine without Slurm, and holds its place until the shell is
    left. The exit code is that of the shell or command.
    """
    extra, command = split_words(words)
    request = request_from(values, command, extra=extra, script=Sbatch())

    def queued(done: Submitted) -> None:
        app.console.say(f"job {done.number} waits for its turn: {done.reference}, queue {done.queue}")

    return shell_on(app.context, request, command, queued=queued)
