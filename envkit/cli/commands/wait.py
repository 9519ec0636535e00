"""`envkit wait`."""

import json
import sys
from collections.abc import Callable

import click

from envkit.cli.app import App, pass_app
from envkit.cli.jobs import ids_argument, owner_option, state_counts, state_of
from envkit.cli.params import json_option
from envkit.errors import EXIT_FAILURE, EXIT_TIMEOUT
from envkit.model.jobid import parse_ids
from envkit.model.progress import Step
from envkit.model.task import State
from envkit.services.jobs.following import Followed, Task, task_json
from envkit.services.jobs.waiting import wait

_SHOWN = 20


@click.command(
    "wait",
    epilog="""\b
Examples:
  envkit wait 12 && envkit result 12
  envkit wait 12-15 --timeout 3600
  envkit wait 12 --json    a line of JSON whenever a task changes""",
)
@ids_argument
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Wait so long at most; exit code 124.")
@owner_option
@json_option
@pass_app
def command(app: App, /, ids: tuple[str, ...], *, timeout: float | None, owner: str | None, as_json: bool) -> int:
    """Wait until jobs are over. The exit code is 0 if all tasks ended with 0, 1 if not, 124 if the time was up."""
    wanted = parse_ids(ids)
    if as_json:
        found, in_time = wait(app.context, wanted, timeout=timeout, on_change=_print, owner=owner)
    else:
        with app.progress.step("waiting", total=None, unit="tasks") as step:
            found, in_time = wait(app.context, wanted, timeout=timeout, on_change=_counting(step), owner=owner)
    tasks = [task for job in found for task in job.tasks]
    wrong = [task for task in tasks if task.state is not State.DONE]
    if not in_time:
        if not as_json:
            app.console.say(f"not over in time: {state_counts(tasks)}")
        return EXIT_TIMEOUT
    if not as_json:
        for task in wrong[:_SHOWN]:
            app.console.say(f"{task.id} {state_of(task)}{f': {task.error}' if task.error else ''}")
        if wrong[_SHOWN:]:
            app.console.say(f"and {len(wrong) - _SHOWN} more; see `envkit jobs --tasks`")
    return EXIT_FAILURE if wrong else 0


def _counting(step: Step) -> Callable[[Followed, Task], None]:
    def count(_job: Followed, task: Task) -> None:
        if task.state.over:
            step.advance(1)

    return count


def _print(job: Followed, task: Task) -> None:
    sys.stdout.write(json.dumps(task_json(job, task), ensure_ascii=False) + "\n")
    sys.stdout.flush()
