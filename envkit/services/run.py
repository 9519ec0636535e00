"""Owns the use case `run`: from a name to the exit code of a command, with nothing left behind whatever happens."""

import contextlib
import os

from envkit.drivers import cgroup, lxc, lxc_command, process
from envkit.drivers.caller import find_caller, open_path
from envkit.drivers.mount import enter_private_namespace
from envkit.drivers.subids import container_range
from envkit.errors import (
    EXIT_CANNOT_EXECUTE,
    EXIT_COMMAND_NOT_FOUND,
    EXIT_RUN_FAILED,
    EXIT_TIMEOUT,
    EnvkitError,
    NotFound,
    Unavailable,
)
from envkit.model.idmap import CONTAINER_IDS, IdMap, for_user, shifted
from envkit.model.job import Job, Outcome, Volume
from envkit.model.record import Record
from envkit.model.version import Version
from envkit.node import account as accounts
from envkit.node.account import Account
from envkit.node.devices import LIBRARY_PATH, Devices
from envkit.node.instance import Instance, TaskNote, prepare, sweep
from envkit.node.rootfs import Rootfs
from envkit.node.stack import unmount_stack
from envkit.services.container import (
    base_variables,
    container_files,
    network_for,
    on_terminal,
    open_stack,
)
from envkit.services.context import Context, require_root
from envkit.services.fitting import check_fits
from envkit.services.layers import Images, expect_demand, layer_images
from envkit.services.signals import Forwarder, held
from envkit.store import versions

_GRACE = 10.0
"""Seconds between asking a job to end and killing it, after its time is up."""


class RunFailed(EnvkitError):
    """envkit itself failed, not the command."""

    exit_code = EXIT_RUN_FAILED


class CommandNotFound(NotFound):
    """The environment does not have the command."""

    exit_code = EXIT_COMMAND_NOT_FOUND

    def __init__(self, command: str, version: Version) -> None:
        super().__init__(f"{version} has no command {command!r}", resolution="is it installed there, and saved?")


class CommandNotExecutable(Unavailable):
    """The command is there but cannot be executed."""

    exit_code = EXIT_CANNOT_EXECUTE

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"cannot execute {command!r}: {reason}")


def run(context: Context, job: Job) -> Outcome:
    """Run a job to its end on this process's standard descriptors.

    :returns: with the command's exit code; 128 + N where signal N ended it; 124 where its time was up.
    :raises EnvkitError: the command never ran; CommandNotFound and CommandNotExecutable where it could not.
    """
    require_root("running a job")
    wanted = context.ref(job.environment)
    expect_demand(context, wanted.env)
    return run_version(context, job, versions.resolve(context.store, wanted))


class Additions(Record):
    """What the container of a task has besides what its job asks for.

    `binds` are files and directories of envkit's own, to be seen at a path. `variables` give way to the job's. `note`
    says which task it is. `hostname` None is the environment's name.
    """

    binds: tuple[Volume, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    note: TaskNote | None = None
    hostname: str | None = None


def run_version(context: Context, job: Job, version: Version, added: Additions = Additions()) -> Outcome:  # noqa: B008
    """Do what `run` does, in a version that is known."""
    require_root("running a job")
    check_fits(version)
    prepare(context.paths)
    sweep(context.paths)
    images = layer_images(
        context if not job.fetch else context.fetching(job.fetch),
        version.layers,
        environment=str(version.env),
        command=job.command,
        start_pack=job.start_pack,
        trace=job.trace,
    )
    code = None
    try:
        with Forwarder() as signals:
            instance = None
            try:
                with held():
                    instance = Instance.create(context.paths)
                if added.note is not None:
                    instance.note_task(added.note)
                code = _run_instance(context, job, version, images, instance, signals, added)
            finally:
                if instance is not None:
                    with held():
                        instance.remove()
    finally:
        cost = images.end(code)
    return Outcome(code=code, cost=cost)


def _run_instance(
    context: Context,
    job: Job,
    version: Version,
    images: Images,
    instance: Instance,
    signals: Forwarder,
    added: Additions,
) -> int:
    account = accounts.ROOT if job.as_root else accounts.invoking_user()
    limits = lxc.Limits(memory=job.memory, cpus=job.cpus)
    nested = cgroup.can_nest(limited=limits != lxc.Limits())
    with contextlib.ExitStack() as cleanup:
        devices = Devices()
        if job.gpus is not None or job.devices:
            from envkit.services.devices import find_devices

            devices = find_devices(job.gpus, job.devices)
            account = account.replace(groups=(*account.groups, *devices.groups(account)))
        ids = _ids(account)
        enter_private_namespace()
        sources = [_source(volume.source, cleanup) for volume in job.volumes]
        root = open_stack(context, images, instance.directory, ids, session=False)
        cleanup.callback(unmount_stack, context.paths)
        network = network_for(context, job.net or context.config.net)
        hostname = added.hostname or version.env.name
        with Rootfs(root, ids) as rootfs:
            rootfs.mount_tmpfs("/run")
            if network.interface == "host":
                rootfs.bind("/sys", "/sys", read_only=True, recursive=False)
            container_files(rootfs, hostname=hostname, network=network)
            account = accounts.settle(account, rootfs)
            for bind in added.binds:
                rootfs.bind(bind.source, bind.target, read_only=bind.read_only)
            for volume, source in zip(job.volumes, sources, strict=True):
                rootfs.bind(source, volume.target, read_only=volume.read_only)
            given = devices.put_into(rootfs)
            directory = job.directory or (account.home if rootfs.exists(account.home) else "/")
            if not rootfs.exists(directory):
                raise NotFound(f"{version} has no directory {directory}", resolution="bind one with -v, or save one")
            variables = base_variables(user=account.name, home=account.home) | given | dict(added.variables)
            variables |= {"ENVKIT_ENVIRONMENT": str(version)} | dict(job.variables)
            if (theirs := variables.get(LIBRARY_PATH, "")) != (ours := given.get(LIBRARY_PATH, "")) and ours:
                variables[LIBRARY_PATH] = f"{theirs}:{ours}"
            _check_command(rootfs, job.command[0], variables["PATH"], directory, version)
        if nested:
            instance.nest()
        config = lxc.ContainerConfig(
            name=instance.name,
            hostname=hostname,
            rootfs=root,
            ids=ids,
            network=network.interface,
            environment=tuple(variables.items()),
            uid=account.uid,
            gid=account.gid,
            groups=account.groups,
            directory=directory,
            terminal=on_terminal(),
            limits=limits,
            nested=nested,
            devices=devices.nodes,
        )
        return _execute(context, config, job, instance, signals)


def _execute(context: Context, config: lxc.ContainerConfig, job: Job, instance: Instance, signals: Forwarder) -> int:
    files = lxc.write_config(config, instance.directory)
    argv = lxc.execute_argv(config.name, lxc_path=context.paths.lxc, files=files, command=job.command)
    pid = process.spawn(argv[0], argv, env=lxc.environment(), own_group=not config.terminal)
    signals.forward_to(pid, lambda: lxc_command.command_pid(config.name, instance.places))
    if job.timeout is not None:
        signals.limit(job.timeout, grace=_GRACE)
    code = lxc_command.wait(pid, config.name, instance.places)
    signals.ended()
    if signals.timed_out:
        return EXIT_TIMEOUT
    if signals.cut_short is not None:
        return 128 + signals.cut_short
    if code and not signals.received and lxc.has_errors(files):
        raise RunFailed("the container did not start, for the reason that LXC gave above")
    return code


def _ids(account: Account) -> IdMap:
    """Return the id map of a job: the user's own ids, if it is not root, stand for themselves."""
    first = container_range()
    if account.uid == 0:
        return shifted(first)
    gids = (account.gid, *account.groups)
    for kind, numbers in (("user", (account.uid,)), ("group", gids)):
        for number in numbers:
            if first <= number < first + CONTAINER_IDS:
                raise Unavailable(
                    f"the {kind} id {number} of {account.name} lies among the ids of containers,"
                    f" {first} to {first + CONTAINER_IDS - 1}",
                    resolution="give root another range of 65,536 ids in /etc/subuid and /etc/subgid",
                )
    return for_user(first, account.uid, gids)


def _source(path: str, cleanup: contextlib.ExitStack) -> int:
    """Return a descriptor of a volume's source, opened with the rights of who called; good until `cleanup`."""
    descriptor = open_path(path, find_caller(os.environ))
    cleanup.callback(os.close, descriptor)
    return descriptor


def _check_command(rootfs: Rootfs, command: str, search: str, directory: str, version: Version) -> None:
    """Find a command as execvp(3) would, so that a missing one is told apart from one that fails.

    :raises CommandNotFound: it is nowhere.
    :raises CommandNotExecutable: it is there but no executable file, or its interpreter is missing.
    """
    if not command:
        raise CommandNotFound(command, version)
    if "/" in command:
        candidates = [os.path.join(directory, command)]
    else:
        candidates = [f"{place or directory}/{command}" for place in search.split(":")]
    found = {path: rootfs.is_executable(path) for path in candidates}
    program = next((path for path, executable in found.items() if executable), None)
    if program is None:
        if any(executable is False for executable in found.values()):
            raise CommandNotExecutable(command, "it is no executable file")
        raise CommandNotFound(command, version)
    interpreter = rootfs.interpreter(program)
    if interpreter is not None and not rootfs.is_executable(interpreter):
        raise CommandNotExecutable(command, f"its interpreter {interpreter} is not in {version}")
