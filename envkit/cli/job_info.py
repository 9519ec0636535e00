"""Owns `envkit info ID`: one job, or one task of it, with all that is known."""

from collections.abc import Iterator

from envkit.cli.app import App
from envkit.cli.console import human_bytes
from envkit.cli.costs import told_costs
from envkit.cli.jobs import elapsed, short_moment, state_counts, state_of
from envkit.errors import NotFound
from envkit.model.duration import human_duration
from envkit.model.jobid import is_job, parse_id
from envkit.model.order import Order
from envkit.services.environments import exists
from envkit.services.jobs.following import Followed, Task, look, rows_json
from envkit.services.jobs.ticketing import order_stack

_SHOWN = 20


def means_job(app: App, text: str) -> bool:
    """Tell whether a text names a job: it looks like one, and no environment has that name."""
    if not is_job(text):
        return False
    if "_" in text or not exists(app.context, text):
        return True
    app.console.say(f"note: this is the environment {text}; for the job, `envkit info {text}_0`")
    return False


def show_job(app: App, text: str, *, as_json: bool) -> None:
    """Print what is known of a job."""
    found = look(app.context, [parse_id(text)], results=True, pinned=True)
    if as_json:
        app.console.json(rows_json(found))
        return
    job = found[0]
    if not job.tasks:
        raise NotFound(f"job {text} has no tasks")
    lines = _job_lines(job) if len(job.tasks) > 1 else _task_lines(job, job.tasks[0])
    for name, value in lines:
        app.console.data(f"{name + ':':<13} {value}")
    wrong = [task for task in job.tasks if task.state.over and task.error] if len(job.tasks) > 1 else []
    for task in wrong[:_SHOWN]:
        app.console.data(f"{task.id} {state_of(task)}: {task.error}")
    if wrong[_SHOWN:]:
        app.console.say(f"and {len(wrong) - _SHOWN} more: `envkit jobs {text} --tasks`")


def _job_lines(job: Followed) -> Iterator[tuple[str, str]]:
    yield "job", str(job.ticket.number)
    yield "tasks", f"{len(job.tasks):,}: {state_counts(job.tasks)}"
    yield from _order_lines(job)


def _task_lines(job: Followed, task: Task) -> Iterator[tuple[str, str]]:
    yield "job", str(task.id)
    yield "state", state_of(task)
    if task.error or task.reason:
        yield "reason", task.error or task.reason
    if task.code is not None:
        yield "exit code", str(task.code)
    yield "node", task.node or "-"
    if task.began:
        yield "time", elapsed(task.began, task.ended if task.state.over else 0.0)
    if task.attempt:
        yield "started", f"{task.attempt + 1} times"
    if task.result is not None:
        yield "printed", f"{human_bytes(task.result.out)}, and {human_bytes(task.result.err)} as errors"
        if task.result.cost:
            yield "fetched", told_costs(task.result.cost).removeprefix("fetched ")
    if job.order is not None:
        yield from job.order.parameters(task.index).items()
    yield from _order_lines(job)


def _order_lines(job: Followed) -> Iterator[tuple[str, str]]:
    ticket, order = job.ticket, job.order
    yield "environment", ticket.reference
    if order is not None:
        yield "digest", f"sha256:{order_stack(order)}"
    yield "owner", job.owner
    yield "label", ticket.label or "-"
    yield "created", short_moment(ticket.created)
    yield "command", ticket.command
    if order is not None:
        asked = ", ".join(_asked(order))
        if asked:
            yield "asked for", asked
        if order.job.fetch:
            yield "fetch", order.job.fetch
        for volume in order.job.volumes:
            yield "volume", f"{volume.source}:{volume.target}{':ro' if volume.read_only else ''}"
        if order.depends_on:
            yield "depends on", ", ".join(map(str, order.depends_on))


def _asked(order: Order) -> Iterator[str]:
    wanted = order.resources
    for count, what in (
        (wanted.tasks if wanted.tasks > 1 else None, "processes"),
        (wanted.nodes, "nodes"),
        (wanted.cpus, "CPUs"),
        (wanted.gpus or None, "GPUs"),
    ):
        if count is not None:
            yield f"{count} {what}"
    if wanted.memory is not None:
        yield f"{human_bytes(wanted.memory)} of memory"
    if wanted.time is not None:
        yield human_duration(wanted.time)
    if wanted.partition is not None:
        yield f"partition {wanted.partition}"
    if wanted.extra:
        yield " ".join(wanted.extra)
