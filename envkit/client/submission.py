"""Owns `call` and `map`: from a function and its arguments to futures of one job."""

import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

from envkit.client.command import ask
from envkit.client.follower import follow
from envkit.client.future import Future, Futures
from envkit.client.options import Options, split
from envkit.client.payload import Function, Task, name_of, write_payload


def call(function: Function, /, *args: Any, **kwargs: Any) -> Future:
    """Call a function in an environment, as a job; return its future at once.

    Keyword arguments that begin with `_` are options of the job, all others the function's: `_env` (the environment,
    required), `_cores`, `_memory` ("4G"), `_time` ("2h"), `_gpus`, `_label`, `_partition`, `_nodes`, `_net`,
    `_workdir`, `_priority`, `_depends_on` (futures or numbers of jobs), `_volumes` (a list of "SRC:DST[:ro]"),
    `_variables` (a mapping) and `_python` (the path of another Python in the environment).

    :raises EnvkitError: it was not submitted: no such environment, another version of Python there, and so on.
    """
    own, options = split(kwargs)
    future = Future()
    submit(function, [(None, args, own)], [future], options, name=name_of(function))
    return future


def map(function: Function, /, *iterables: Iterable[Any], **options: Any) -> Futures:
    """Call a function for each row of arguments, as `map` does; all of them are tasks of one job.

    Options are those of `call`.

    :raises EnvkitError: nothing was submitted.
    """
    own, chosen = split(options)
    if own:
        raise TypeError(f"map() has no argument {next(iter(own))!r}; options begin with an underscore")
    if not iterables:
        raise TypeError("map() needs something to go through")
    tasks: list[Task] = [(None, row, {}) for row in zip(*iterables)]  # noqa: B905  # as map() does
    futures = [Future() for _ in tasks]
    if tasks:
        submit(function, tasks, futures, chosen, name=name_of(function), array=True)
    return Futures(futures)


def submit(
    function: Function | None,
    tasks: Sequence[Task],
    futures: Sequence[Future],
    options: Options,
    *,
    name: str,
    array: bool = False,
) -> None:
    """Submit one job with a task for each future, and follow it.

    :raises EnvkitError: nothing was submitted.
    """
    # No name: what the user's function has enclosed is nobody else's to read, and nothing is left of it.
    with tempfile.TemporaryFile() as payload:
        write_payload(payload, function, tasks, name=name, interpreter=options.python)
        payload.seek(0)
        words = ["submit", "--json", "--call", "-", *options.words()]
        answer = ask(*words, *(["--array"] if array else []), stdin=payload)
    job = int(answer["job"])
    alone = len(futures) == 1 and not array
    for index, future in enumerate(futures):
        future._submitted(str(job) if alone else f"{job}_{index}")
    follow(job, futures)
