"""Owns what an order means for one of its tasks on a node: the job to run, and what its container has besides."""

import os
from collections.abc import Mapping

from envkit.config.model import NETWORKS
from envkit.drivers.cgroup import is_unified
from envkit.drivers.files import io_error, make_directory
from envkit.drivers.subids import container_range
from envkit.errors import InvalidInput
from envkit.model.job import Job, Volume
from envkit.model.order import TASK_NUMBER, Kind, Order
from envkit.model.payload import CALL, PLACE
from envkit.model.template import filled
from envkit.model.version import Version, VersionKind
from envkit.node.account import invoking_user
from envkit.node.instance import TaskNote
from envkit.queues.script import Place, place
from envkit.services.context import Context
from envkit.services.run import Additions
from envkit.store import orders

SCRIPT = f"{PLACE}/script"
_MAX_SCRIPT = 4 << 20
_MAX_VARIABLES = 200
_MAX_VARIABLE = 16 << 10
_GPU_VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "GPU_DEVICE_ORDINAL", "CUDA_VISIBLE_DEVICES")


def here() -> Place:
    """Return which task this process is.

    :raises InvalidInput: it is in no job.
    """
    return place(os.environ)


def version_of(order: Order) -> Version:
    """Return the version that an order pins; only what running it needs is filled in."""
    return Version(
        env=order.env, number=order.version, kind=VersionKind.ENVIRONMENT, layers=order.layers, arch=order.arch
    )


def job_of(order: Order, index: int, environment: Mapping[str, str]) -> Job:
    """Return the job of a task, with its parameters filled in.

    :param environment: the variables of the batch script, which say which GPUs Slurm gave.
    :raises InvalidInput: the order has no such task, or its command cannot be filled in.
    """
    if index >= order.count:
        raise InvalidInput(f"the order {order.token} has {order.count} tasks, and no task {index}")
    command = order.job.command
    values = {name: value for name, value in order.parameters(index).items() if name != TASK_NUMBER}
    if order.kind is Kind.COMMAND and values:
        command = filled(command, values)
    if order.kind is Kind.SCRIPT:
        command = (SCRIPT, *command[1:])  # the first word is what the user called it
    if not command or any("\0" in word for word in command):
        raise InvalidInput(f"the order {order.token} has no command that can be run")
    if order.job.net not in (None, *NETWORKS):
        raise InvalidInput(f"the order {order.token} asks for a network {order.job.net!r:.80} that there is not")
    job = order.job.replace(environment=order.reference, command=command)
    if environment.get("SLURM_JOB_ID") and is_unified():
        job = job.replace(cpus=None, memory=None)  # Slurm's own limits hold, and there can be no others below them
    if order.resources.gpus and job.gpus is None:
        job = job.replace(gpus=_given_gpus(environment))
    return job


def _given_gpus(environment: Mapping[str, str]) -> str:
    """Return the GPUs that Slurm gave to the job; all where no queue divides them up.

    :raises InvalidInput: Slurm gave none.
    """
    for name in _GPU_VARIABLES:
        if environment.get(name):
            return environment[name]
    if environment.get("SLURM_JOB_ID"):
        raise InvalidInput("Slurm gave this job no GPU", resolution="does the node have `Gres=gpu` in slurm.conf?")
    return "all"


def additions(context: Context, order: Order, place: Place, directory: str) -> Additions:
    """Return what a task's container has besides what its job asks for; files of it go into `directory`.

    :raises EnvkitError: the order's input cannot be had.
    """
    try:
        binds = _binds(context, order, place, directory)
    except OSError as error:
        raise io_error("write what the task needs", error) from error
    return Additions(
        binds=binds,
        variables=tuple(task_variables(order, place, os.environ).items()),
        note=TaskNote(owner=order.owner, token=order.token, index=place.index, attempt=place.attempt),
    )


def _binds(context: Context, order: Order, place: Place, directory: str) -> tuple[Volume, ...]:
    """Write the files of a script or call, and return what the container sees of them."""
    if order.kind is Kind.SCRIPT:
        return (Volume(source=_script(context, order, directory), target=SCRIPT, read_only=True),)
    if order.kind is Kind.COMMAND:
        return ()
    from envkit.services.jobs.calls import write_call

    shared = f"{directory}/shared"
    make_directory(shared, mode=0o755)
    os.chown(shared, *_ids_of(order))  # the task leaves its value there
    make_directory(f"{directory}/{CALL}", mode=0o755)
    write_call(context, order, place.index, f"{directory}/{CALL}")
    return (
        Volume(source=shared, target=PLACE),
        Volume(source=f"{directory}/{CALL}", target=f"{PLACE}/{CALL}", read_only=True),
    )


def task_variables(order: Order, place: Place, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that tell a command which task it is: envkit's, and Slurm's own or the same by hand."""
    variables = {"SLURM_JOB_ID": str(place.number), "SLURM_NTASKS": str(order.resources.tasks)}
    if order.resources.cpus is not None:
        variables["SLURM_CPUS_PER_TASK"] = str(order.resources.cpus)
    if order.array:
        variables |= {
            "SLURM_ARRAY_JOB_ID": str(place.number),
            "SLURM_ARRAY_TASK_ID": str(place.index),
            "SLURM_ARRAY_TASK_COUNT": str(order.count),
        }
    slurm = [name for name in sorted(environment) if name.startswith("SLURM_")][:_MAX_VARIABLES]
    for name in slurm:
        if len(environment[name]) <= _MAX_VARIABLE and environment[name].isprintable():
            variables[name] = environment[name]
    number = str(place.index)
    if TASK_NUMBER in order.names:
        variables[TASK_NUMBER] = number = order.parameters(place.index)[TASK_NUMBER]
    return variables | {
        "ENVKIT_JOB": str(place.number),
        "ENVKIT_TASK_INDEX": number,
        "ENVKIT_TASK_COUNT": str(order.count),
    }


def _script(context: Context, order: Order, directory: str) -> str:
    """Write a batch script as an executable file; one that does not say what reads it is read by bash."""
    if order.input is None:
        raise InvalidInput(f"the order {order.token} has no script")
    text = orders.get_input(context.store, order, order.input, limit=_MAX_SCRIPT)
    path = f"{directory}/script"
    with open(path, "xb") as file:
        os.fchmod(file.fileno(), 0o555)
        file.write(text if text.startswith(b"#!") else b"#!/bin/bash\n" + text)
    return path


def _ids_of(order: Order) -> tuple[int, int]:
    """Return the host's ids of the user that the command of a task runs as."""
    account = invoking_user()
    if order.job.as_root or account.uid == 0:
        return container_range(), container_range()
    return account.uid, account.gid
