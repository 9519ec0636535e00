"""`envkit jobs`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.jobs import HEADER, job_rows, owner_option, task_rows
from envkit.cli.params import json_option
from envkit.errors import InvalidInput
from envkit.model.jobid import parse_ids
from envkit.model.task import State
from envkit.services.jobs import forgetting
from envkit.services.jobs.following import LIMIT, Filter, Followed, jobs, look, rows_json


@click.command(
    "jobs",
    epilog="""\b
Examples:
  envkit jobs
  envkit jobs --label 'night*' --state failed --state timeout
  envkit jobs 12-15 --tasks
  envkit jobs -e sci@3 --all --json""",
)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("-l", "--label", metavar="PATTERN", help="Only those whose label fits, as in 'night*'.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in State]),
    help="Only tasks in this state; may be given several times.",
)
@click.option("-e", "--env-name", "env", metavar="ENV[@V]", help="Only those in this environment.")
@click.option("--all", "everything", is_flag=True, help="Also those that were over long ago.")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="LIMIT", help="Of those that are over so many at most.")
@click.option("--tasks", is_flag=True, help="A line for each task of an array.")
@click.option("--forget", is_flag=True, help="Delete all that the store has of these jobs; they must be over.")
@owner_option
@json_option
@pass_app
def command(
    app: App,
    /,
    *,
    ids: tuple[str, ...],
    label: str | None,
    states: tuple[str, ...],
    env: str | None,
    everything: bool,
    limit: int | None,
    tasks: bool,
    forget: bool,
    owner: str | None,
    as_json: bool,
) -> None:
    """Show jobs, the newest first: those that are not over, and up to 50 that were submitted in the last 24 hours.

    Jobs are named as in 12, 12_3 (a task of an array), 12-15, 12_0-9, with commas or spaces between. What jobs leave in
    the store is deleted a month after they are over.
    """
    wanted = parse_ids(ids)
    if forget:
        if not wanted:
            raise InvalidInput("say which jobs to forget", resolution="as in envkit jobs --forget 12-15")
        numbers = forgetting.forget(app.context, wanted, owner=owner)
        app.console.say(f"forgot {len(numbers)} jobs")
        return
    filtered = Filter(
        label=label,
        states=frozenset(map(State, states)),
        env=env,
        recent=not everything and limit is None,
        limit=None if everything else limit or LIMIT,
    )
    found: list[Followed]
    if wanted:
        if label or states or env:
            raise InvalidInput("filters and IDs contradict each other", resolution="give one of them")
        found = look(app.context, wanted, owner=owner, pinned=as_json)
    else:
        found = jobs(app.context, filtered, owner=owner, pinned=as_json)
    if as_json:
        app.console.json(rows_json(found))
        return
    app.console.table(HEADER, list(task_rows(found) if tasks else job_rows(found)))
