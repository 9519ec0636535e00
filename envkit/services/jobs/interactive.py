"""Owns interactive jobs: a shell in a container that a queue has started, as it starts a batch job.

The job itself only keeps the place. The shell joins it as `envkit ssh` would, so it has what a batch job has: layers,
mounts, limits, node. The job ends with the shell, or when nobody is left in it.
"""

from collections.abc import Callable, Sequence

from envkit.errors import EnvkitError, InvalidInput
from envkit.model.jobid import TaskId
from envkit.model.task import State
from envkit.queues.queue import JobOver
from envkit.services.context import Context
from envkit.services.jobs.ending import kill
from envkit.services.jobs.following import Task
from envkit.services.jobs.joining import ssh
from envkit.services.jobs.submitting import Request, Submitted, submit
from envkit.services.jobs.ticketing import KEEPER
from envkit.services.jobs.waiting import wait

# Of processes there are LXC's init and this shell; whoever joins is another one. The first may take two minutes, as
# long as a container may take to start.
_KEEPER = b"""#!/bin/sh
trap 'exit 0' USR1
left=120
while [ $left -gt 0 ]; do
  sleep 1 & wait $!
  set -- /proc/[0-9]*
  if [ $# -gt 2 ]; then left=5; else left=$((left - 1)); fi
done"""
# The keeper is the container's command, which LXC's init starts first.
_JOINED = """if [ $# -gt 0 ]; then "$@"
elif command -v bash >/dev/null; then bash -l
else sh -l
fi
code=$?
kill -USR1 2
exit $code"""


def shell_on(context: Context, request: Request, command: Sequence[str], *, queued: Callable[[Submitted], None]) -> int:
    """Queue a job, wait until it runs, and open a shell or run a command in it on this terminal.

    :param queued: is told the job when it waits.
    :returns: the exit code of the shell or command.
    :raises JobOver: the job ended before it could be joined.
    """
    if request.array:
        raise InvalidInput("an interactive job is no array", resolution="leave --array out")
    job = request.job.replace(command=(KEEPER, *command))
    done = submit(context, request.replace(job=job, script=_KEEPER, requeue=False))
    name = TaskId(job=done.number)
    try:
        queued(done)
        found, _ = wait(context, [name], until=_begun)
        task = found[0].tasks[0]
        if task.state.over:
            raise JobOver(f"job {name} ended before it could be joined: {task.error or task.state.value}")
        return ssh(context, name, ["/bin/sh", "-c", _JOINED, "sh", *command])
    except BaseException as error:
        _end(context, name, error)
        raise


def _begun(task: Task) -> bool:
    return task.state.over or task.state is State.RUNNING


def _end(context: Context, name: TaskId, cause: BaseException) -> None:
    """End a job that nobody will join."""
    try:
        kill(context, [name])
    except EnvkitError as error:
        cause.add_note(f"job {name} may still run: {error.brief}")
