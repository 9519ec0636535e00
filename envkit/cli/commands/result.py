"""`envkit result`."""

import os
import sys

import click

from envkit.cli.app import App, pass_app
from envkit.cli.boundary import output_error
from envkit.cli.jobs import ids_argument, owner_option, state_of
from envkit.cli.params import json_option
from envkit.errors import EXIT_FAILURE, InvalidInput
from envkit.model.jobid import parse_ids
from envkit.model.task import State
from envkit.services.jobs.callerfiles import make_callers_directory, write_callers
from envkit.services.jobs.following import Followed, Task, task_json
from envkit.services.jobs.outcomes import output, results
from envkit.services.jobs.outcomes import value as value_of


@click.command(
    "result",
    epilog="""\b
Examples:
  envkit result 12
  envkit result 12 --json    a row for each task: parameters, exit code, output
  envkit result 12 --values values    of Python calls, as values/12_0, values/12_1 ...""",
)
@ids_argument
@click.option("--values", metavar="DIR", help="Write the values of Python calls into a directory, by task.")
@click.option("--value", metavar="-", help="Print the value of one Python call, as bytes.")
@owner_option
@json_option
@pass_app
def command(
    app: App,
    /,
    ids: tuple[str, ...],
    *,
    values: str | None,
    value: str | None,
    owner: str | None,
    as_json: bool,
) -> int:
    """Print what tasks have printed, as they did, when they are over.

    The exit code is that of the task; of several tasks it is 0 if all ended with 0, else 1.
    """
    found = results(app.context, parse_ids(ids), owner=owner)
    tasks = [(job, task) for job in found for task in job.tasks]
    if value is not None:
        if value != "-" or len(tasks) != 1:
            raise InvalidInput("--value takes - and one task", resolution="use --values DIR for several")
        _write_value(app, *tasks[0])
        return 0
    places = {} if values is None else _write_values(app, tasks, values)
    if as_json:
        app.console.json([_row(app, job, task, places) for job, task in tasks])
    elif values is None:
        for job, task in tasks:
            _show(app, job, task)
    if len(tasks) == 1:
        return _code(tasks[0][1])
    return 0 if all(task.state is State.DONE for _, task in tasks) else EXIT_FAILURE


def _show(app: App, job: Followed, task: Task) -> None:
    """Print what a task has printed, each stream where it belongs."""
    try:
        for stream, target in (("err", sys.stderr), ("out", sys.stdout)):
            for data in output(app.context, job, task, stream):
                target.buffer.write(data)
            target.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(error) from error
    if task.state is not State.DONE:
        app.console.say(f"{task.id} {state_of(task)}{f': {task.error}' if task.error else ''}")


def _row(app: App, job: Followed, task: Task, places: dict[str, str]) -> dict[str, object]:
    text = {name: b"".join(output(app.context, job, task, name)).decode("utf-8", "replace") for name in ("out", "err")}
    return task_json(job, task) | {
        "output": text["out"],
        "errors": text["err"],
        "value": places.get(str(task.id)),
    }


def _write_values(app: App, tasks: list[tuple[Followed, Task]], directory: str) -> dict[str, str]:
    """Write the values that there are; return the files by task."""
    make_callers_directory(directory)
    places = {}
    for job, task in tasks:
        if task.result is not None and task.result.value:
            places[str(task.id)] = path = os.path.join(directory, str(task.id))
            write_callers(path, [value_of(app.context, job, task)])
    return places


def _write_value(app: App, job: Followed, task: Task) -> None:
    try:
        sys.stdout.buffer.write(value_of(app.context, job, task))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(error) from error


def _code(task: Task) -> int:
    """Return the exit code of a task; one that was killed before it had any has 1."""
    if task.state is State.DONE:
        return 0
    return task.code or EXIT_FAILURE
