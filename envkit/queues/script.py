"""Owns the batch script of an order: what a queue runs on a node, and how a task learns there which one it is."""

import os
from collections.abc import Mapping
from types import MappingProxyType

from envkit.errors import InvalidInput
from envkit.model.record import Record

INDEX = "ENVKIT_TASK_INDEX"
ATTEMPT = "ENVKIT_TASK_ATTEMPT"
NUMBER = "ENVKIT_JOB"
QUEUE = "ENVKIT_QUEUE"
_KEY_BYTES = 64
# `test -O /proc` asks whether this is root, as id(1) would, without starting another program.
_SCRIPT = """#!/bin/sh
# Made by envkit: runs one task of the order below in its environment.
{exports}command={program}
test -O /proc || command="sudo -n --preserve-env={passed} $command"
exec $command {globals} task {owner} {token} {digest} <<'END'
{key}
END
"""


class Place(Record):
    """Where a task is: job number and index in its queue, how often it was started before, and the queue's name."""

    number: int
    index: int
    attempt: int
    queue: str


def batch_script(
    *,
    program: str,
    flags: str,
    owner: str,
    token: str,
    digest: str,
    key: str,
    exports: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the script of an order.

    :param program: path of envkit on the nodes.
    :param flags: global options for it, quoted for a shell.
    :param digest: of the stored order; the task refuses another one.
    :param key: secret of the submission, in hexadecimal: what a task leaves in the store is sealed with it.
    :param exports: variables for envkit itself, which may be secret, too; a script that sudo(8) has to pass has none.
    """
    import shlex  # late: tasks import this module, and only who submits quotes

    if len(key) != _KEY_BYTES:
        raise ValueError("a key has 32 bytes")
    passed = ",".join((INDEX, ATTEMPT, NUMBER, QUEUE, *SLURM_VARIABLES))
    return _SCRIPT.format(
        exports="".join(f"export {name}={shlex.quote(value)}\n" for name, value in exports.items()),
        program=shlex.quote(program),
        passed=passed,
        globals=flags,
        owner=owner,
        token=token,
        digest=digest,
        key=key,
    )


SLURM_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_CLUSTER_NAME",
    "SLURMD_NODENAME",
    "SLURM_ARRAY_TASK_COUNT",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_STEP",
    "SLURM_CPUS_ON_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_JOB_ACCOUNT",
    "SLURM_JOB_CPUS_PER_NODE",
    "SLURM_JOB_END_TIME",
    "SLURM_JOB_GPUS",
    "SLURM_JOB_NAME",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_NUM_NODES",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_QOS",
    "SLURM_JOB_START_TIME",
    "SLURM_MEM_PER_CPU",
    "SLURM_MEM_PER_NODE",
    "SLURM_NNODES",
    "SLURM_NODEID",
    "SLURM_NODELIST",
    "SLURM_NPROCS",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_PROCID",
    "SLURM_SUBMIT_DIR",
    "SLURM_SUBMIT_HOST",
    "SLURM_TASKS_PER_NODE",
    "SLURM_TMPDIR",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)
"""What a task, its srun and its user's scripts need of Slurm's variables, and what sudo(8) has to let through.

Never SLURM_CONF: with that a user would have root's Slurm programs load plugins of theirs.
"""
KEPT = (
    *(INDEX, ATTEMPT, NUMBER, QUEUE),
    *("SLURM_ARRAY_*", "SLURM_CLUSTER_NAME", "SLURM_CPUS_*", "SLURM_GPUS*", "SLURM_GTIDS", "SLURM_JOBID"),
    *("SLURM_JOB_*",),
    *("SLURM_LAUNCH_NODE_IPADDR", "SLURM_LOCALID", "SLURM_MEM_*", "SLURM_NNODES", "SLURM_NODEID", "SLURM_NODELIST"),
    *("SLURM_NPROCS", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PMI*", "SLURM_PROCID", "SLURM_RESTART_COUNT"),
    *("SLURM_SRUN_COMM_*", "SLURM_STEPID", "SLURM_STEP_*", "SLURM_SUBMIT_*", "SLURM_TASKS_PER_NODE", "SLURM_TASK_PID"),
    *("SLURM_TMPDIR", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "PMI_*", "PMI2_*", "PMIX_*"),
)
"""The same and what srun gives to its tasks, as sudoers(5) has it: see scripts/slurm/sudoers."""


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return where this process is, from the variables that its queue has set.

    :raises InvalidInput: it is in no job.
    """
    number = environment.get(NUMBER) or environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID")
    index = environment.get(INDEX) or environment.get("SLURM_ARRAY_TASK_ID") or "0"
    attempt = environment.get(ATTEMPT) or environment.get("SLURM_RESTART_COUNT") or "0"
    cluster = environment.get("SLURM_CLUSTER_NAME") or "cluster"
    queue = environment.get(QUEUE) or f"slurm-{cluster}"
    if number is None or not all(text.isascii() and text.isdigit() for text in (number, index, attempt)):
        raise InvalidInput("this is no task of a job", resolution="use envkit submit, or envkit run")
    return Place(number=int(number), index=int(index), attempt=int(attempt), queue=queue)
