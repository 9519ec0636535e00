"""Owns keeping the queue of this machine in the foreground, for service managers."""

from envkit.errors import Conflict
from envkit.queues.choose import open_queue
from envkit.queues.local import LocalQueue
from envkit.services.context import Context, require_root


def serve_queue(context: Context) -> None:
    """Run the jobs of this machine until somebody ends this process; what runs then goes on.

    :raises Conflict: this machine's jobs are Slurm's to run.
    """
    require_root("running the queue")
    queue = open_queue(context.config, context.paths)
    if not isinstance(queue, LocalQueue):
        raise Conflict(
            "jobs of this machine wait in Slurm, which runs them itself", resolution="or set `queue` to local"
        )
    queue.serve()
