"""Owns which queue a machine uses: Slurm where it is there, or this machine by itself; the configuration may say."""

import os
from typing import Protocol

from envkit.drivers.process import find_program
from envkit.model.paths import Paths
from envkit.queues.queue import Queue

_SLURM_CONFS = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")
"""The one of this machine, or the copy that a machine without one gets from the head."""


class Settings(Protocol):
    """What is read of the configuration: `queue` is auto, slurm or local; `slots` a number, or empty for one a CPU."""

    @property
    def queue(self) -> str: ...
    @property
    def slots(self) -> str: ...


def open_queue(config: Settings, paths: Paths) -> Queue:
    """Return the queue that jobs wait in."""
    if config.queue == "slurm" or (config.queue == "auto" and has_slurm()):
        from envkit.queues.slurm import SlurmQueue

        return SlurmQueue()
    from envkit.queues.local import LocalQueue

    return LocalQueue(paths, int(config.slots) if config.slots else len(os.sched_getaffinity(0)))


def has_slurm() -> bool:
    """Tell whether this machine can submit to Slurm: the program is there, and its configuration.

    Without one, Slurm's programs would look for it for a minute.
    """
    named = os.environ.get("SLURM_CONF")
    return find_program("sbatch") is not None and any(map(os.path.isfile, [named] if named else _SLURM_CONFS))
