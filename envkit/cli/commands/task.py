"""`envkit task`: what batch scripts call on the nodes. Hidden: nobody types it."""

import sys

import click

from envkit.cli.app import App, pass_app
from envkit.cli.job import run_failures
from envkit.errors import InvalidInput

_KEY = 32
_MAX_KEY_TEXT = 2 * _KEY + 2


@click.command("task", hidden=True)
@click.option("--rank", is_flag=True, help="Run one rank of a parallel job, on these standard descriptors.")
@click.argument("owner")
@click.argument("token")
@click.argument("digest")
@pass_app
def command(app: App, /, owner: str, token: str, digest: str, rank: bool) -> int:  # noqa: FBT001  # click's
    """Run a task of a submitted job; its key comes on standard input."""
    with run_failures():
        from envkit.services.jobs.taskwork import here

        where = here()
        if rank:
            from envkit.services.jobs.ranks import become_root, run_rank

            become_root(app.context, ["task", "--rank", "--", owner, token, digest])
            return run_rank(app.context, owner, token, digest, where)
        from envkit.services.jobs.tasks import run_task

        return run_task(app.context, owner, token, digest, _key(), where)


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
