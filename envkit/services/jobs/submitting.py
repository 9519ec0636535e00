"""Owns the use case `submit`: from what a user asks for to a queued job whose environment cannot change any more."""

import logging
import os
import secrets
import shlex
import sys
import sysconfig
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress

import envkit
from envkit.drivers.crash import crash_point
from envkit.errors import Conflict, EnvkitError, InvalidInput
from envkit.model.ids import check_owner
from envkit.model.job import Job
from envkit.model.jobid import TaskId
from envkit.model.order import MAX_ORDER_BYTES, Input, Kind, Order, Resources, order_to_json
from envkit.model.record import Record
from envkit.model.task import State
from envkit.node.account import Account, invoking_user
from envkit.queues.choose import open_queue
from envkit.queues.queue import Queue, Submission
from envkit.queues.script import batch_script
from envkit.services.context import Context, require_root
from envkit.services.jobs import preflight
from envkit.services.jobs.following import Book
from envkit.services.jobs.nodeflags import store_flags
from envkit.services.jobs.sealing import submission_key
from envkit.services.jobs.ticketing import comment_of, order_stack, pin, ticket_of, write_ticket
from envkit.store import orders, versions
from envkit.store.settings import key_variables

MAX_SCRIPT = 4 << 20


class Request(Record):
    """What a user asks for; `job.environment` is the environment as the user named it.

    `rows` are the values of the parameters `names`, a row for each of `count` tasks. `script` is a batch script's
    text, whose name and arguments `job.command` has; `call` the path of a payload (see `services/jobs/calls.py`), which
    says itself how many tasks it has and what they run.
    """

    job: Job
    count: int = 1
    array: bool = False
    names: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    script: bytes | None = None
    call: str | None = None
    resources: Resources = Resources()
    label: str = ""
    depends_on: tuple[int, ...] = ()
    requeue: bool = True


class Submitted(Record):
    """A job that is queued: its number, tasks, the environment's version and the digest of its stack, token, queue.

    `notes` are what its submitter should know.
    """

    number: int
    count: int
    array: bool
    reference: str
    digest: str
    token: str
    queue: str
    notes: tuple[str, ...] = ()


def submit(context: Context, request: Request) -> Submitted:
    """Pin the environment, look whether the job can begin, and queue it.

    :raises EnvkitError: nothing was queued.
    """
    require_root("submitting a job")
    account, owner = job_owner()
    queue = open_queue(context.config, context.paths)
    version = versions.resolve(context.store, context.ref(request.job.environment))
    found = preflight.check(context, version, request.resources, queue.nodes())
    kind, job, count, array = Kind.COMMAND, request.job, request.count, request.array
    given: Input | None = None
    pieces: Iterable[bytes] = ()
    with ExitStack() as opened:
        if request.call is not None:
            from envkit.services.jobs.calls import prepare_call

            call = opened.enter_context(prepare_call(context, version, request.call))
            kind, job, given, pieces = Kind.CALL, job.replace(command=call.command), call.input, call.pieces()
            count, array = call.count, array or call.count > 1
        elif request.script is not None:
            kind, given, pieces = Kind.SCRIPT, _whole(request.script), (request.script,)
        elif request.resources.tasks > 1 and is_local(queue):
            raise InvalidInput(
                "several processes of one job need Slurm", resolution="use --array, or start them with mpirun"
            )
        order = Order(
            token=secrets.token_hex(16),
            owner=owner,
            uid=account.uid,
            gid=account.gid,
            env=version.env,
            version=version.number,
            arch=version.arch,
            layers=version.layers,
            kind=kind,
            job=job.replace(environment=str(version)),
            count=count,
            array=array,
            names=request.names,
            rows=request.rows,
            input=given,
            label=request.label,
            resources=request.resources,
            depends_on=_open_dependencies(context, queue, owner, request.depends_on),
            requeue=request.requeue,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        return enqueue(context, queue, order, pieces, found)


def enqueue(
    context: Context, queue: Queue, order: Order, pieces: Iterable[bytes], found: preflight.Findings
) -> Submitted:
    """Store an order and its input, and queue it; where that fails, nothing of it is left."""
    if len(order_to_json(order)) > MAX_ORDER_BYTES:
        raise InvalidInput(
            f"the parameters of {order.count:,} tasks take more than {MAX_ORDER_BYTES >> 20} MiB",
            resolution="put them into files, or submit several jobs",
        )
    try:
        if order.input is not None:
            orders.put_input(context.store, order.owner, order.token, pieces, order.input.digest)
            crash_point("submit:input")
        digest = orders.put_order(context.store, order)
        crash_point("submit:order")
        pin(context, order, digest)
        crash_point("submit:pinned")
        number = queue.submit(_submission(context, queue, order, digest, found))
    except EnvkitError:
        with suppress(EnvkitError):
            orders.forget(context.store, order.owner, order.token)
        raise
    crash_point("submit:queued")
    try:
        write_ticket(context.store, order.owner, queue.name, ticket_of(order, number))
        crash_point("submit:noted")
    except EnvkitError as error:  # its task writes it, and `jobs` does
        logging.getLogger("envkit").warning("job %d is queued, but was not noted: %s", number, error.brief)
    return Submitted(
        number=number,
        count=order.count,
        array=order.array,
        reference=order.reference,
        digest=order_stack(order),
        token=order.token,
        queue=queue.name,
        notes=(*found.notes, *_key_notes(context, queue)),
    )


def job_owner() -> tuple[Account, str]:
    """Return who submits, and the name that their jobs are kept under."""
    account = invoking_user()
    return account, check_owner(account.name)


def _whole(data: bytes) -> Input:
    import hashlib

    return Input(digest=hashlib.sha256(data).hexdigest(), size=len(data))


def _open_dependencies(context: Context, queue: Queue, owner: str, numbers: Sequence[int]) -> tuple[int, ...]:
    """Return which of some jobs have to be waited for: those that have ended well need not be.

    :raises JobUnknown: there is no such job.
    :raises Conflict: one has ended otherwise, so that the new job would never begin.
    """
    if not numbers:
        return ()
    waited = []
    for job in Book(context, owner=owner, queue=queue).jobs([TaskId(job=number) for number in numbers]):
        number = job.ticket.number
        wrong = next((task for task in job.tasks if task.state.over and task.state is not State.DONE), None)
        if wrong is not None:
            raise Conflict(
                f"job {number} is {wrong.state.value}: a job that depends on it would never begin",
                resolution=f"`envkit rerun {number}`, and depend on the new one",
            )
        if not job.over:
            waited.append(number)
    return tuple(waited)


def _submission(context: Context, queue: Queue, order: Order, digest: str, found: preflight.Findings) -> Submission:
    local = is_local(queue)
    script = batch_script(
        program=this_program() if local else context.config.node_program,
        flags=shlex.join(node_flags(context, local=local)),
        owner=order.owner,
        token=order.token,
        digest=digest,
        key=submission_key(context.paths, order.owner, order.token).hex(),
        # This machine's queue keeps the script where only root can read it, until the job is over.
        exports=key_variables(context.config.store, os.environ) if local else {},
    )
    return Submission(
        script=script,
        uid=order.uid,
        gid=order.gid,
        name=order.label or order.env.name,
        comment=comment_of(order),
        count=order.count if order.array else None,
        resources=found.asked(order.resources),
        depends_on=order.depends_on,
        requeue=order.requeue,
    )


def _key_notes(context: Context, queue: Queue) -> list[str]:
    """Return what to say of keys that only this process has: nodes have to have their own."""
    names = () if is_local(queue) else tuple(key_variables(context.config.store, os.environ))
    return [f"the nodes do not get this shell's {', '.join(names)}: they need keys of their own"] if names else []


def is_local(queue: Queue) -> bool:
    """Tell whether a queue runs its jobs on this machine, with this machine's envkit."""
    return not queue.name.startswith("slurm-")


def node_flags(context: Context, *, local: bool) -> list[str]:
    """Return the global options that a task needs to find this store: nodes of a cluster have a root of their own."""
    config, flags = context.config, []
    if local:
        flags += ["--root", context.paths.root]
        if config.profile:
            flags += ["--profile", config.profile]
    return [*flags, *store_flags(config)]


def this_program() -> str:
    """Return how this installation of envkit is started again, as words for a shell."""
    home = os.path.dirname(os.path.abspath(envkit.__path__[0]))
    settings = []
    launcher = f"{os.path.dirname(sys.executable)}/envkit"
    words = [sys.executable, "-P", "-m", "envkit"]
    if home not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):  # from a checkout
        settings.append(f"PYTHONPATH={home}")
    elif os.access(launcher, os.X_OK):
        words = [launcher]
    words = ["env", *settings, *words] if settings else words
    if any(set(word) & set(" \t\n'\"$`\\*?[") for word in words):
        raise InvalidInput("the path of envkit has spaces or quotes in it", resolution="install it somewhere else")
    return " ".join(words)
