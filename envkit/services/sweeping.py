"""Owns the use case `sweep`: what a job of Slurm leaves on a node after its end, for Slurm's epilog.

Nothing is found by its name: what runs is known from the records of this root, what is dead from locks that nobody
holds.
"""

from envkit.drivers import process
from envkit.node.instance import live_jobs, prepare, sweep
from envkit.services.context import Context, require_root

_NUMBER = b"SLURM_JOB_ID="
_MAX_ENVIRONMENT = 4 << 20
_PATIENCE = 20.0


def sweep_job(context: Context, job: int | None) -> list[str]:
    """End the containers that a job still has here, and remove what dead ones left; return what was done.

    :param job: its number in Slurm, that of a task of an array being its own; None ends nothing that runs.
    """
    require_root("removing what jobs left behind")
    prepare(context.paths)
    done = []
    if job is not None:
        for holder in live_jobs(context.paths):
            if _job_of(holder.pid) == job:
                process.kill_and_wait(holder.pid, holder.started, timeout=_PATIENCE)
                done.append(f"ended process {holder.pid}, a container of job {job}")
    return [*done, *(f"removed what the dead container {name} left behind" for name in sweep(context.paths))]


def _job_of(pid: int) -> int | None:
    """Return which job of Slurm a process was started in."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read(_MAX_ENVIRONMENT).split(b"\0")
    except OSError:  # it has just ended
        return None
    found = [variable.removeprefix(_NUMBER) for variable in variables if variable.startswith(_NUMBER)]
    return int(found[0]) if found and found[0].isdigit() else None
