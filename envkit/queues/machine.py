"""Owns what this machine is as the only node of its own queue: CPUs, memory, GPUs."""

import os
import re

from envkit.drivers import cdi
from envkit.drivers.files import read_text
from envkit.errors import EnvkitError
from envkit.model.task import NodeFacts

_MAX_CPUINFO = 64 << 10
_FLAGS = re.compile(r"^(?:flags|Features)\s*: (.*)$", re.MULTILINE)
_MEMORY = re.compile(r"^MemTotal:\s*([0-9]+) kB$", re.MULTILINE)


def facts() -> NodeFacts:
    """Return what this machine has; its features are the flags of its CPU."""
    flags = _FLAGS.search(read_text("/proc/cpuinfo", _MAX_CPUINFO))
    name = os.uname()
    return NodeFacts(
        name=name.nodename,
        arch=name.machine,
        features=tuple(sorted(flags[1].split())) if flags else (),
        cpus=len(os.sched_getaffinity(0)),
        memory=memory(),
        gpus=len(usable_gpus()),
    )


def memory() -> int:
    """Return the bytes of memory."""
    found = _MEMORY.search(read_text("/proc/meminfo", _MAX_CPUINFO))
    return int(found[1]) << 10 if found else 0


def gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that the CDI files of this machine describe.

    :raises EnvkitError: these files cannot be used.
    """
    kinds = [kind for kind in cdi.read_kinds() if kind.name.endswith("/gpu")]
    found = []
    for kind in kinds:
        names = [name for name in kind.devices if name != "all"]
        # A device may be there by its number and by its UUID.
        numbers = [name for name in names if name.isdecimal()]
        found += [name if len(kinds) == 1 else f"{kind.name}={name}" for name in numbers or names]
    return tuple(found)


def usable_gpus() -> tuple[str, ...]:
    """Return the same; none where the files cannot be used, of which a job that asks for a GPU is told."""
    try:
        return gpus()
    except EnvkitError:
        return ()
