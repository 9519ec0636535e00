"""Owns the options of jobs that are queued, and turning them into what is submitted; and telling what was."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from envkit.cli.app import App
from envkit.cli.job import fetch_from, job_from, positive
from envkit.cli.options import JOB, Option
from envkit.cli.params import click_options
from envkit.errors import InvalidInput
from envkit.model.jobid import parse_ids
from envkit.model.order import TASK_NUMBER, Resources
from envkit.model.sbatch import Sbatch, parse_array, parse_sbatch, parse_time
from envkit.services.jobs.submitting import Request, Submitted

_NOT_QUEUED = ("stats", "json", "gpus")
"""Options of `run` that mean something else in a queue, or speak of the end of a command that is waited for."""
ARRAY_FLAG = "*"

QUEUED = (
    Option(flags=("-n", "--ntasks"), key="tasks", metavar="TASKS", help="So many processes, as for MPI; default: 1."),
    Option(flags=("-N", "--nodes"), key="nodes", metavar="NODES", help="On so many nodes."),
    Option(flags=("--gpus",), key="gpus", metavar="N", help="So many GPUs on each node."),
    Option(
        flags=("--time",),
        key="time",
        metavar="TIME",
        help="End the job after so long: minutes, H:MM:SS, D-HH, or as in 90s, 12h, 7d.",
    ),
    Option(flags=("-p", "--partition"), key="partition", metavar="NAME", help="The partition of the cluster."),
    Option(flags=("-l", "--label"), key="label", metavar="TEXT", help="What to call it in lists, and to find it by."),
    Option(
        flags=("--depends-on",),
        key="depends_on",
        metavar="IDS",
        multiple=True,
        help="Begin when these jobs have ended with 0.",
    ),
    Option(flags=("--priority",), key="priority", metavar="N", help="Higher ones begin sooner."),
    Option(flags=("--mpi",), key="mpi", metavar="pmix|pmi2", help="How the processes of -n find one another."),
    Option(flags=("--no-requeue",), key="no_requeue", help="If its node dies, do not start it again."),
)

Command = TypeVar("Command", bound=Callable[..., Any])


def submission_options(function: Command) -> Command:
    """Give a command the options of `run` that a queued job has, and those of the queue."""
    job = [option for option in JOB if option.key not in _NOT_QUEUED]
    return click_options([*job, *QUEUED])(function)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options of sbatch and the command in what follows the first `--`; a command begins with no dash."""
    if not words or not words[0].startswith("-"):
        return [], list(words)
    if "--" not in words:
        raise InvalidInput(
            f"{words[0]!r:.80} is no command", resolution="put -- between options of sbatch and the command"
        )
    place = words.index("--")
    return list(words[:place]), list(words[place + 1 :])


def request_from(
    values: Mapping[str, object], command: Sequence[str], *, extra: Sequence[str], script: Sbatch
) -> Request:
    """Return what command line options ask for.

    :param extra: options of sbatch on the command line; they win over `script`, those of a script, and envkit's own
        over both.
    :raises InvalidInput: a value cannot be used; says which.
    """
    given = parse_sbatch(extra, "the options of sbatch")
    resources: dict[str, Any] = {**script.resources, **given.resources, **_resources(values)}
    resources["extra"] = (*script.extra, *given.extra)
    job = job_from({**values, "gpus": None}, command)
    job = job.replace(
        directory=job.directory or _directory(given) or _directory(script),
        volumes=tuple(volume.replace(source=os.path.abspath(volume.source)) for volume in job.volumes),
        variables=(*script.variables, *given.variables, *job.variables),
        cpus=job.cpus or resources.get("cpus"),
        memory=job.memory or resources.get("memory"),
        fetch=fetch_from(values),
    )
    label = values.get("label")
    depends_on = [*script.depends_on, *given.depends_on, *_jobs(values.get("depends_on"))]
    requeue = next((said for said in (given.requeue, script.requeue) if said is not None), True)
    request = Request(
        job=job,
        resources=Resources(**resources),
        label=str(label) if label is not None else given.label or script.label or "",
        depends_on=tuple(dict.fromkeys(depends_on)),
        requeue=requeue and not values.get("no_requeue"),
    )
    array = values.get("array")
    numbers = given.array if given.array is not None else script.array
    if isinstance(array, str):
        if array == ARRAY_FLAG:
            return request.replace(array=True)
        numbers, at_once = parse_array(array)
        request = request.replace(resources=request.resources.replace(at_once=at_once))
    return request if numbers is None else as_array(request, numbers)


def as_array(request: Request, numbers: Sequence[int]) -> Request:
    """Return a request as an array whose tasks see these numbers."""
    request = request.replace(count=len(numbers), array=True)
    if list(numbers) == list(range(len(numbers))):
        return request
    return request.replace(names=(TASK_NUMBER,), rows=tuple((str(number),) for number in numbers))


def tell(app: App, done: Submitted, request: Request, *, as_json: bool) -> None:
    """Print a job's number for scripts, and for people what was pinned."""
    if as_json:
        app.console.json(
            {
                "job": done.number,
                "id": str(done.number),
                "tasks": done.count,
                "array": done.array,
                "environment": done.reference,
                "digest": done.digest,
                "queue": done.queue,
                "label": request.label or None,
                "notes": list(done.notes),
            }
        )
        return
    app.console.data(str(done.number))
    tasks = f", {done.count:,} task{'s' if done.count > 1 else ''}" if done.array else ""
    app.console.remark(f"{done.reference} sha256:{done.digest[:12]}, queue {done.queue}{tasks}")
    for note in done.notes:
        app.console.say(f"note: {note}")
    extra, mpi, partition = request.resources.extra, request.resources.mpi, request.resources.partition
    ignored = [*extra, *([f"--mpi={mpi}"] if mpi else []), *([f"--partition={partition}"] if partition else [])]
    if ignored and not done.queue.startswith("slurm-"):
        app.console.say(f"note: without Slurm these say nothing: {' '.join(ignored)}")


def _resources(values: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields of `Resources` that envkit's own options give."""
    found: dict[str, Any] = {}
    for key in ("tasks", "nodes", "cpus", "gpus", "priority"):
        text = values.get(key)
        if isinstance(text, str):
            found[key] = (
                0 if text == "0" and key in ("gpus", "priority") else int(positive(f"--{key}", text, whole=True))
            )
    time, memory = values.get("time"), values.get("memory")
    if isinstance(time, str):
        found["time"] = parse_time(time)
    if isinstance(memory, str):
        from envkit.model.job import parse_size

        found["memory"] = parse_size(memory)
    for key in ("partition", "mpi"):
        if isinstance(values.get(key), str):
            found[key] = values[key]
    if found.get("mpi") not in (None, "pmix", "pmi2"):
        raise InvalidInput(f"--mpi {found['mpi']!r:.40} is not known", resolution="use pmix or pmi2")
    return found


def _directory(options: Sbatch) -> str | None:
    if options.directory is not None and not options.directory.startswith("/"):
        raise InvalidInput(f"--chdir {options.directory!r:.200} must be absolute")
    return options.directory


def _jobs(texts: object) -> list[int]:
    """Return the jobs of --depends-on: whole ones."""
    found = parse_ids([str(text) for text in texts]) if isinstance(texts, list | tuple) else []
    for one in found:
        if one.index is not None:
            raise InvalidInput(f"--depends-on {one}: a job depends on whole jobs", resolution=f"give {one.job}")
    return [one.job for one in found]
