"""Owns MPI: Slurm's srun starts the ranks of a task, and each runs in a container of its own on its node.

The way is srun -> `envkit task --rank` as the user -> the same as root -> container. Ranks find one another through
the PMI server that srun has on each node: PMIx by a socket of the node and files, PMI-1 and PMI-2 by a descriptor.
sudo(8) and LXC hand on standard descriptors only, so that one becomes standard input.
"""

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase

from envkit.drivers import process
from envkit.drivers.caller import find_caller
from envkit.errors import InvalidInput
from envkit.model.job import Job, Volume
from envkit.model.order import Kind, Order
from envkit.queues.script import INDEX, KEPT, Place
from envkit.services.context import Context
from envkit.services.jobs.nodeflags import store_flags
from envkit.services.jobs.taskwork import job_of, task_variables, version_of
from envkit.services.run import Additions, run_version
from envkit.store import orders

_PMI = ("PMI_", "PMI2_", "PMIX_", "SLURM_")
_PMI_FD = "PMI_FD"
_MAX_VARIABLES = 400
_MAX_VARIABLE = 64 << 10
_DIRECTORIES = ("PMIX_SERVER_TMPDIR",)
# Ranks of one node have no memory and no process ids in common: they talk through the loopback interface.
_NO_SHARED_MEMORY = {
    "OMPI_MCA_btl": "^vader,sm,smcuda",
    "OMPI_MCA_btl_base_warn_component_unused": "0",
    "MPIR_CVAR_NOLOCAL": "1",
    "I_MPI_SHM": "off",
}
_KINDS = ("pmix", "pmi2", "pmix_v3", "pmix_v4", "pmix_v5", "none")


def has_ranks(order: Order, environment: Mapping[str, str]) -> bool:
    """Tell whether a task of this order is several processes, or one that wants the PMI server of srun."""
    wants = order.resources.mpi is not None and "SLURM_JOB_ID" in environment
    return order.kind is Kind.COMMAND and (order.resources.tasks > 1 or wants)


def launch(context: Context, order: Order, digest: str, place: Place) -> tuple[list[str], dict[str, str]]:
    """Return the srun command line that starts the ranks of a task, and its environment.

    :raises InvalidInput: the task is not in Slurm, or is to use a kind of PMI that nobody knows.
    :raises ProgramMissing: this node has no srun.
    """
    if not os.environ.get("SLURM_JOB_ID"):
        raise InvalidInput(
            "several processes of one job need Slurm", resolution="use an array, or start them yourself with mpirun"
        )
    kind = order.resources.mpi
    if kind is not None and kind not in _KINDS:
        raise InvalidInput(f"--mpi {kind!r:.40} is not known", resolution=f"use one of {', '.join(_KINDS)}")
    argv = [process.require_program("srun"), f"--ntasks={order.resources.tasks}"]
    if kind is not None:
        argv.append(f"--mpi={kind}")
    if order.resources.cpus is not None:
        argv.append(f"--cpus-per-task={order.resources.cpus}")
    argv += ["--kill-on-bad-exit=1", "--chdir=/", "--", *_program(context)]
    argv += ["task", "--rank", order.owner, order.token, digest]
    environment = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "ENVKIT_"))}
    home = find_caller(os.environ).home or "/"
    return argv, process.minimal_environment() | environment | {INDEX: str(place.index), "HOME": home}


def become_root(context: Context, words: list[str]) -> None:
    """Start this rank again through sudo(8), with what of its variables counts; returns only where it is root.

    :param words: of the command line, after the global options.
    """
    if os.geteuid() == 0:
        return
    environment = dict(os.environ)
    if environment.get(_PMI_FD, "").isdigit():
        os.dup2(int(environment[_PMI_FD]), 0)
        environment[_PMI_FD] = "0"
    names = [name for name in environment if any(fnmatchcase(name, pattern) for pattern in KEPT)]
    sudo = process.require_program("sudo")
    argv = [sudo, "-n", f"--preserve-env={','.join(sorted(names)[:_MAX_VARIABLES])}", *_program(context), *words]
    process.become(argv, environment)


def run_rank(context: Context, owner: str, token: str, digest: str, place: Place) -> int:
    """Run one rank of a task on this process's standard descriptors; return its exit code.

    :raises EnvkitError: it never ran.
    """
    order = orders.get_order(context.store, owner, token, digest=digest)
    job = rank_job(job_of(order, place.index, os.environ), os.environ)
    variables = task_variables(order, place, os.environ) | pmi_variables(os.environ)
    added = Additions(variables=tuple(variables.items()), hostname=_node())
    return run_version(context, job, version_of(order), added).code


def rank_job(job: Job, environment: Mapping[str, str]) -> Job:
    """Return the job of a rank: on the host's network, with the directories of its PMI server.

    Those are bound with the rights of the user, who could have written these variables.
    """
    found = [environment[name] for name in _DIRECTORIES if environment.get(name, "").startswith("/")]
    volumes = tuple(Volume(source=path, target=path) for path in dict.fromkeys(found))
    return job.replace(net="host", volumes=(*job.volumes, *volumes))


def pmi_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which a rank finds its PMI server and the others, and how to talk with these."""
    found = [name for name in sorted(environment) if name.startswith(_PMI)][:_MAX_VARIABLES]
    variables = {name: environment[name] for name in found if len(environment[name]) <= _MAX_VARIABLE}
    return _NO_SHARED_MEMORY | {name: value for name, value in variables.items() if value.isprintable()}


def _program(context: Context) -> list[str]:
    """Return envkit's words on another node; where it keeps its state there is that node's to say."""
    config = context.config
    words = [config.node_program, *store_flags(config)]
    if config.profile:
        words += ["--profile", config.profile]
    return words


def _node() -> str:
    """Return the name of this node, by which ranks tell who is beside them."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename
