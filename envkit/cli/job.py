"""Owns turning the options of a job, as text, into a `Job`; and running it."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from envkit.cli.boundary import machine_failures
from envkit.cli.progress import progress
from envkit.config.model import NETWORKS, Config
from envkit.errors import EXIT_RUN_FAILED, EXIT_TIMEOUT, EnvkitError, InvalidInput
from envkit.model.job import Job, Volume, parse_size, parse_variable


def job_from(values: Mapping[str, object], command: Sequence[str]) -> Job:
    """Return the job that option values (see `cli/options.py`) and a command describe.

    :raises InvalidInput: a value cannot be used; says which.
    """
    net = _text(values, "net")
    if net is not None and net not in NETWORKS:
        raise InvalidInput(f"--net {net!r} is no network", resolution=f"use one of {', '.join(NETWORKS)}")
    user = _text(values, "user")
    if user not in (None, "root"):
        raise InvalidInput(f"--user {user!r}: only root can be asked for", resolution="leave it out to run as yourself")
    directory = _text(values, "directory")
    if directory is not None and not directory.startswith("/"):
        raise InvalidInput(f"--workdir {directory!r} must be absolute")
    memory = _text(values, "memory")
    cpus = _text(values, "cpus")
    timeout = _text(values, "timeout")
    return Job(
        environment=_text(values, "environment") or "",
        command=tuple(command),
        volumes=tuple(Volume.parse(text) for text in _texts(values, "volumes")),
        variables=tuple(parse_variable(text, os.environ) for text in _texts(values, "variables")),
        directory=directory,
        net=net,
        cpus=None if cpus is None else int(positive("--cpus", cpus, whole=True)),
        memory=None if memory is None else parse_size(memory),
        timeout=None if timeout is None else positive("--timeout", timeout),
        as_root=user == "root",
        start_pack=not values.get("no_start_pack"),
        gpus=_text(values, "gpus"),
        devices=tuple(_texts(values, "devices")),
    )


def fetch_from(values: Mapping[str, object]) -> str:
    """Return when the content of layers is to be fetched, "" where nothing is said.

    :raises InvalidInput: --eager and --offline are there both.
    """
    if values.get("eager") and values.get("offline"):
        raise InvalidInput("--eager and --offline contradict each other", resolution="give one of them")
    return "eager" if values.get("eager") else "offline" if values.get("offline") else ""


def _text(values: Mapping[str, object], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) else None


def _texts(values: Mapping[str, object], key: str) -> list[str]:
    value = values.get(key)
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def positive(flag: str, text: str, *, whole: bool = False) -> float:
    """Return the number above zero that an option gives.

    :raises InvalidInput: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9 or (whole and number != int(number)):
        raise InvalidInput(f"{flag} {text!r} must be a {'whole ' if whole else ''}number above zero")
    return number


def run_job(config: Config, values: Mapping[str, object], command: Sequence[str]) -> int:
    """Run the job that a command line describes; return its exit code.

    :raises EnvkitError: with exit code 125, 126 or 127; the command never ran.
    """
    from envkit.services.context import Context
    from envkit.services.run import run

    with run_failures():
        config = config.replace(fetch=fetch_from(values) or config.fetch)
        outcome = run(Context(config, progress()), job_from(values, command))
    if outcome.cost.get("refused_because"):
        from envkit.cli.costs import show_refusals

        show_refusals(outcome.cost, str(values.get("environment")))
    if values.get("stats"):
        from envkit.cli.costs import show_costs

        show_costs(outcome.cost, as_json=bool(values.get("json")))
    return outcome.code


@contextlib.contextmanager
def run_failures() -> Iterator[None]:
    """Give the code of env(1) to errors in the block: `run` answers for another command, so its own are all alike."""
    try:
        with machine_failures():
            yield
    except EnvkitError as error:
        if error.exit_code < EXIT_TIMEOUT:
            error.exit_code = EXIT_RUN_FAILED
        raise
