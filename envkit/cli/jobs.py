"""Owns what commands about jobs share: how jobs are named on the command line, and how they are shown."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import click

from envkit.cli.app import App
from envkit.errors import EnvkitError, InvalidInput
from envkit.model.jobid import TaskId, parse_ids
from envkit.model.task import State
from envkit.services.jobs.following import Filter, Followed, Task, jobs

HEADER = ("ID", "STATE", "ENVIRONMENT", "LABEL", "CREATED", "TIME", "NODE/REASON", "COMMAND")
_MAX_COMMAND = 60
_COMPLETED = 200
_ORDER = (State.DONE, State.FAILED, State.TIMEOUT, State.KILLED, State.LOST, State.RUNNING, State.QUEUED, State.WAITING)

Command = TypeVar("Command", bound=Callable[..., Any])


def _complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the numbers of recent jobs that begin like this; nothing where they cannot be had."""
    app = context.find_object(App) or App({})
    try:
        found = jobs(app.context, Filter(limit=_COMPLETED))
    except (EnvkitError, OSError):
        return []
    return [str(job.ticket.number) for job in found if str(job.ticket.number).startswith(incomplete)]


ids_argument = click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=_complete)
id_argument = click.argument("name", metavar="ID", shell_complete=_complete)
owner_option = click.option("--owner", metavar="NAME", help="Jobs of somebody else; for root.")


def one_task(text: str) -> TaskId:
    """Read the name of one job or task."""
    found = parse_ids([text])
    if len(found) != 1:
        raise InvalidInput(f"{text!r:.80} means several tasks", resolution="name one of them")
    return found[0]


def behind_dashes(words: Sequence[str]) -> list[str]:
    """Return a command that follows a name: click leaves the -- between them where it is."""
    return list(words[1:] if words[:1] == ("--",) else words)


def job_rows(found: Iterable[Followed]) -> Iterator[tuple[str, ...]]:
    """Yield the lines of a table of jobs; an array is one line."""
    for job in found:
        if not job.ticket.array:
            yield _row(job, job.tasks[0])
            continue
        ticket = job.ticket
        began = min((task.began for task in job.tasks if task.began), default=0.0)
        ended = max((task.ended for task in job.tasks), default=0.0) if job.over else 0.0
        reasons = [task.reason for task in job.tasks if task.reason and not task.state.over]
        yield (
            str(ticket.number),
            state_counts(job.tasks),
            ticket.reference,
            ticket.label or "-",
            short_moment(ticket.created),
            elapsed(began, ended),
            reasons[0] if reasons else "-",
            shortened(ticket.command),
        )


def task_rows(found: Iterable[Followed]) -> Iterator[tuple[str, ...]]:
    """Yield a line for each task."""
    for job in found:
        for task in job.tasks:
            yield _row(job, task)


def state_counts(tasks: Iterable[Task]) -> str:
    """Say how many tasks are in which state, as in "done 37, running 4, queued 59"."""
    counts = Counter(task.state for task in tasks)
    return ", ".join(f"{state.value} {counts[state]}" for state in _ORDER if counts[state])


def state_of(task: Task) -> str:
    """Say how a task is, with its exit code where that says something."""
    return f"{task.state.value} {task.code}" if task.state is State.FAILED and task.code else task.state.value


def short_moment(created: str) -> str:
    """Return a UTC time as this machine's clock shows it, to the minute."""
    import calendar

    try:
        seconds = calendar.timegm(time.strptime(created, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def shortened(text: str) -> str:
    """Return a command as far as a table has room for it."""
    return text if len(text) <= _MAX_COMMAND else text[: _MAX_COMMAND - 3] + "..."


def _row(job: Followed, task: Task) -> tuple[str, ...]:
    ticket = job.ticket
    why = task.node if task.state is State.RUNNING or not (task.reason or task.error) else task.error or task.reason
    return (
        str(task.id),
        state_of(task),
        ticket.reference,
        ticket.label or "-",
        short_moment(ticket.created),
        elapsed(task.began, task.ended if task.state.over else 0.0),
        shortened(why or "-"),
        shortened(ticket.command),
    )


def elapsed(began: float, ended: float) -> str:
    """Return how long something took, or takes so far, as H:MM:SS."""
    if not began:
        return "-"
    seconds = max(0, int((ended or time.time()) - began))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
