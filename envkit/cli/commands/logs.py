"""`envkit logs`."""

import sys

import click

from envkit.cli.app import App, pass_app
from envkit.cli.boundary import output_error
from envkit.cli.jobs import ids_argument, owner_option
from envkit.errors import InvalidInput
from envkit.model.jobid import parse_ids
from envkit.services.jobs.following import Task
from envkit.services.jobs.outcomes import logs
from envkit.services.jobs.output import STREAMS


@click.command(
    "logs",
    epilog="""\b
Examples:
  envkit logs 12
  envkit logs -f 12_3
  envkit logs 12 --stderr    all tasks of an array, each line with its task's name""",
)
@ids_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the tasks are over.")
@click.option("--stdout", is_flag=True, help="Only what they printed on standard output.")
@click.option("--stderr", is_flag=True, help="Only what they printed as errors, here on standard output.")
@owner_option
@pass_app
def command(app: App, /, ids: tuple[str, ...], *, follow: bool, stdout: bool, stderr: bool, owner: str | None) -> None:
    """Show what jobs have printed so far: their output on standard output, their errors on standard error."""
    if stdout and stderr:
        raise InvalidInput("--stdout and --stderr contradict each other", resolution="leave both out to see both")
    streams = STREAMS if stdout == stderr else ("out",) if stdout else ("err",)
    writer = _Writer(one_stream=len(streams) == 1)
    logs(app.context, parse_ids(ids), writer.write, streams=streams, follow=follow, owner=owner)
    writer.end()


class _Writer:
    """Prints bytes as they come; of several tasks only whole lines, each with its task's name before it."""

    def __init__(self, *, one_stream: bool) -> None:
        self._one_stream = one_stream
        self._rests: dict[tuple[str, str], bytes] = {}

    def write(self, task: Task, stream: str, data: bytes, *, several: bool) -> None:
        """Take what a task has printed."""
        if not several:
            self._print(stream, data)
            return
        name = str(task.id)
        *lines, self._rests[name, stream] = (self._rests.get((name, stream), b"") + data).split(b"\n")
        self._print(stream, b"".join(b"%s: %s\n" % (name.encode(), line) for line in lines))

    def end(self) -> None:
        """Print lines that have no end."""
        for (name, stream), rest in self._rests.items():
            if rest:
                self._print(stream, b"%s: %s\n" % (name.encode(), rest))

    def _print(self, stream: str, data: bytes) -> None:
        target = sys.stdout if stream == "out" or self._one_stream else sys.stderr
        try:
            target.buffer.write(data)
            target.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise output_error(error) from error
