"""Owns what the commands do that queues call, once for each of thousands of tasks: `task`, and `sweep` at its end.

Whichever reader has read the command line comes here: `cli/argv.py` without click, or click where it is not plain.
"""

import sys
from collections.abc import Mapping, Sequence

from envkit.cli.boundary import clean, machine_failures
from envkit.cli.job import run_failures
from envkit.cli.progress import progress
from envkit.config.load import load
from envkit.errors import InvalidInput
from envkit.services.context import Context

_KEY = 32
_MAX_KEY_TEXT = 2 * _KEY + 2


def run_called(settings: Mapping[str, str | None], name: str, words: Sequence[str]) -> int:
    """Do what a command line says that `cli/argv.py` has read; return the exit code."""
    with run_failures() if name == "task" else machine_failures():
        context = Context(load(settings), progress())
        if name == "task":
            owner, token, digest = words
            return run_task_command(context, owner, token, digest)
        run_sweep_command(context, int(words[0]))
    return 0


def run_task_command(context: Context, owner: str, token: str, digest: str) -> int:
    """Run a task of a submitted job, whose key comes on standard input; return its exit code.

    :raises EnvkitError: with exit code 125, 126 or 127.
    """
    with run_failures():
        from envkit.services.jobs.tasks import run_task
        from envkit.services.jobs.taskwork import here

        where = here()
        return run_task(context, owner, token, digest, _key(), where)


def run_sweep_command(context: Context, job: int | None) -> None:
    """End what a job of Slurm still runs here, and say what was removed of dead ones."""
    from envkit.services.sweeping import sweep_job

    for line in sweep_job(context, job):
        sys.stderr.write(f"{clean(line)}\n")


def _key() -> bytes:
    """Read the key of the submission.

    :raises InvalidInput: there is none.
    """
    text = sys.stdin.buffer.read(_MAX_KEY_TEXT + 1).strip()
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != _KEY:
        raise InvalidInput("there is no key on standard input", resolution="tasks are started by the queue")
    return key
