"""`envkit task`: what batch scripts call on the nodes. Hidden: nobody types it."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.called import run_task_command
from envkit.cli.job import run_failures


@click.command("task", hidden=True)
@click.option("--rank", is_flag=True, help="Run one rank of a parallel job, on these standard descriptors.")
@click.argument("owner")
@click.argument("token")
@click.argument("digest")
@pass_app
def command(app: App, /, owner: str, token: str, digest: str, rank: bool) -> int:  # noqa: FBT001  # click's
    """Run a task of a submitted job; its key comes on standard input."""
    if not rank:
        return run_task_command(app.context, owner, token, digest)
    with run_failures():
        from envkit.services.jobs.ranks import become_root, run_rank
        from envkit.services.jobs.taskwork import here

        where = here()
        become_root(app.context, ["task", "--rank", "--", owner, token, digest])
        return run_rank(app.context, owner, token, digest, where)
