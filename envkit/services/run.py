"""Owns the use case `run`: from a name to the exit code of a command, with nothing left behind whatever happens."""

import contextlib
import os

from envkit.drivers import lxc, lxc_command, process
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
from envkit.model.job import Job, Outcome
from envkit.model.version import Version
from envkit.node import account as accounts
from envkit.node.account import Account
from envkit.node.instance import Instance, prepare, sweep
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
from envkit.services.layers import Images, expect_demand, layer_images
from envkit.services.signals import Forwarder
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


def run_version(context: Context, job: Job, version: Version) -> Outcome:
    """Do what `run` does, in a version that is known."""
    require_root("running a job")
    prepare(context.paths)
    sweep(context.paths)
    images = layer_images(
        context,
        version.layers,
        environment=str(version.env),
        command=job.command,
        start_pack=job.start_pack,
        trace=job.trace,
    )
    code = None
    try:
        with Forwarder() as signals:
            instance = Instance.create(context.paths)
            try:
                code = _run_instance(context, job, version, images, instance, signals)
            finally:
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
) -> int:
    account = accounts.ROOT if job.as_root else accounts.invoking_user()
    ids = _ids(account)
    sources = [_source(volume.source) for volume in job.volumes]
    enter_private_namespace()
    with contextlib.ExitStack() as cleanup:
        root = open_stack(context, images, instance.directory, ids, session=False)
        cleanup.callback(unmount_stack, context.paths)
        network = network_for(context, job.net or context.config.net)
        with Rootfs(root, ids) as rootfs:
            rootfs.mount_tmpfs("/run")
            if network.interface == "host":
                rootfs.bind("/sys", "/sys", read_only=True, recursive=False)
            container_files(rootfs, hostname=version.env.name, network=network)
            account = accounts.settle(account, rootfs)
            for volume, source in zip(job.volumes, sources, strict=True):
                rootfs.bind(source, volume.target, read_only=volume.read_only)
            directory = job.directory or (account.home if rootfs.exists(account.home) else "/")
            if not rootfs.exists(directory):
                raise NotFound(f"{version} has no directory {directory}", resolution="bind one with -v, or save one")
            variables = base_variables(user=account.name, home=account.home)
            variables |= {"ENVKIT_ENVIRONMENT": str(version)} | dict(job.variables)
            _check_command(rootfs, job.command[0], variables["PATH"], directory, version)
        config = lxc.ContainerConfig(
            name=instance.name,
            hostname=version.env.name,
            rootfs=root,
            ids=ids,
            network=network.interface,
            environment=tuple(variables.items()),
            uid=account.uid,
            gid=account.gid,
            groups=account.groups,
            directory=directory,
            terminal=on_terminal(),
            limits=lxc.Limits(memory=job.memory, cpus=job.cpus),
        )
        return _execute(context, config, job, instance, signals)


def _execute(context: Context, config: lxc.ContainerConfig, job: Job, instance: Instance, signals: Forwarder) -> int:
    files = lxc.write_config(config, instance.directory)
    argv = lxc.execute_argv(config.name, lxc_path=context.paths.lxc, files=files, command=job.command)
    pid = process.spawn(argv[0], argv, env=lxc.environment(), own_group=not config.terminal)
    signals.forward_to(pid, lambda: lxc_command.command_pid(config.name))
    if job.timeout is not None:
        signals.limit(job.timeout, grace=_GRACE)
    code = lxc_command.wait(pid, config.name)
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


def _source(path: str) -> str:
    """Return a volume's source as an absolute path."""
    if not os.path.exists(path):
        raise NotFound(f"the volume's source {path} does not exist")
    return os.path.realpath(path)


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
