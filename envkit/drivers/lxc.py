"""Owns LXC's command line and configuration text; knows nothing of environments.

The configuration is one fixed template. No value of an environment chooses a host path, a hook or a key: names,
variables and directories are checked here against the characters that LXC's line-based format cannot hold.
"""

import os
import re
import time
from collections.abc import Callable, Sequence

from envkit.drivers import cgroup, seccomp
from envkit.drivers.errors import ProgramFailed
from envkit.drivers.files import read_bounded
from envkit.drivers.process import require_program, run
from envkit.errors import InvalidInput
from envkit.model.idmap import IdMap
from envkit.model.record import Record

_SESSION_CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap setfcap net_bind_service net_raw"
    " sys_chroot audit_write mknod ipc_lock sys_nice"
)
_ROOT_JOB_CAPABILITIES = "chown dac_override fowner fsetid kill setgid setuid net_bind_service"
_MASKED = ("proc/kcore", "proc/keys", "proc/timer_list", "proc/sched_debug", "proc/sysrq-trigger")
_MASKED_DIRECTORIES = ("proc/acpi", "proc/scsi", "sys/firmware", "sys/kernel/debug", "sys/devices/virtual/powercap")

MAX_PIDS = 32_768

APPARMOR_PROFILE = "lxc-container-default-cgns"
"""The AppArmor profile of containers: LXC's own, which its package loads at boot. "generated" compiles one at every
start, which takes five times as long as all the rest, and needs apparmor_parser(8) on LXC's PATH.
"""
_APPARMOR_PROFILES = "/sys/kernel/security/apparmor/profiles"
_DEVICE = re.compile(r"/dev/[A-Za-z0-9._:+@/-]+")


class Veth(Record):
    """A container's network interface: bridge, the host end's name, the container end's MAC, address with prefix
    length, gateway, MTU.
    """

    bridge: str
    pair: str
    hardware_address: str
    address: str
    gateway: str
    mtu: int


class Limits(Record):
    """What a container may use: bytes of memory, number of CPUs; None means no limit."""

    memory: int | None = None
    cpus: int | None = None


class Device(Record):
    """A device node of the host, and where the container has it; both below /dev."""

    source: str
    target: str


class ContainerConfig(Record):
    """What varies between containers. `network` is a Veth, "none" or "host"; `groups` are supplementary gids.

    `nested`: its control groups are made below those of this process, whose limits and end are then its own, too.
    """

    name: str
    hostname: str
    rootfs: str
    ids: IdMap
    network: "Veth | str" = "none"
    environment: tuple[tuple[str, str], ...] = ()
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    directory: str = "/"
    terminal: bool = False
    session: bool = False
    limits: Limits = Limits()
    nested: bool = False
    devices: tuple[Device, ...] = ()


class Files(Record):
    """The files of one container that LXC reads and writes."""

    config: str
    log: str


def apparmor_enabled() -> bool:
    """Tell whether the kernel confines programs with AppArmor."""
    return (read_bounded("/sys/module/apparmor/parameters/enabled", 16) or b"").startswith(b"Y")


def apparmor_confines() -> bool:
    """Tell whether containers get their AppArmor profile: the kernel has AppArmor, and the profile is loaded."""
    if not apparmor_enabled():
        return False
    loaded = read_bounded(_APPARMOR_PROFILES, 1 << 20) or b""
    return any(line.split()[:1] == [APPARMOR_PROFILE.encode()] for line in loaded.splitlines())


def write_config(config: ContainerConfig, directory: str) -> Files:
    """Write a container's configuration and its system call filter into a directory."""
    files = Files(config=f"{directory}/lxc.conf", log=f"{directory}/lxc.log")
    filter_path = f"{directory}/seccomp"
    text = config_text(config, filter_path=filter_path, unified=cgroup.is_unified(), apparmor=_apparmor_profile())
    for path, content in ((files.config, text), (filter_path, seccomp.profile())):
        # surrogateescape: values of variables may be any bytes. No fsync: worthless after a reboot.
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(content)
    return files


def _apparmor_profile() -> str | None:
    """Return the profile to name: None without AppArmor, "unconfined" where LXC's is not loaded (`doctor` says so)."""
    if not apparmor_enabled():
        return None
    return APPARMOR_PROFILE if apparmor_confines() else "unconfined"


def has_errors(files: Files) -> bool:
    """Tell whether LXC logged an error: then an exit code is its own, not the command's."""
    return bool((read_bounded(files.log, 1 << 20) or b"").strip())


def config_text(config: ContainerConfig, *, filter_path: str, unified: bool, apparmor: str | None) -> str:
    """Return LXC's configuration of a container (lxc.container.conf(5)).

    :param filter_path: path of the system call filter.
    :param unified: the machine has cgroup v2 only.
    :param apparmor: the name of an AppArmor profile, or None where the kernel has no AppArmor.
    :raises InvalidInput: a variable or directory holds a character that the format cannot.
    """
    lines = [
        f"lxc.uts.name = {_checked('host name', config.hostname)}",
        f"lxc.rootfs.path = dir:{_checked('root', config.rootfs)}",
        *(f"lxc.idmap = u {r.inside} {r.outside} {r.count}" for r in config.ids.uids),
        *(f"lxc.idmap = g {r.inside} {r.outside} {r.count}" for r in config.ids.gids),
        # A sysfs belongs to a network namespace: on the host's network the caller binds the host's, read-only.
        f"lxc.mount.auto = proc:mixed {'' if config.network == 'host' else 'sys:ro '}cgroup:ro",
        "lxc.autodev = 1",
        "lxc.mount.entry = tmpfs dev/shm tmpfs nosuid,nodev,mode=1777,create=dir 0 0",
        *(f"lxc.mount.entry = /dev/null {path} none bind,ro,optional 0 0" for path in _MASKED),
        *(f"lxc.mount.entry = tmpfs {path} tmpfs ro,size=0,optional 0 0" for path in _MASKED_DIRECTORIES),
        f"lxc.seccomp.profile = {_checked('filter path', filter_path)}",
        f"lxc.init.uid = {config.uid}",
        f"lxc.init.gid = {config.gid}",
        f"lxc.init.cwd = {_checked('directory', config.directory)}",
        "lxc.pty.max = 256",
        "lxc.tty.max = 0",
        *_privilege_lines(config),
        *_network_lines(config.network),
        *_limit_lines(config.limits, unified=unified, nested=config.nested),
        *_device_lines(config.devices),
        *(_variable_line(name, value) for name, value in config.environment),
    ]
    if config.uid and not config.session:
        # Who becomes another user loses the death signal, and LXC sets it again only if it is not the usual SIGKILL.
        # On SIGTERM its init asks all processes to end, and kills them a second later.
        lines.append("lxc.monitor.signal.pdeath = SIGTERM")
    if config.groups:
        lines.append("lxc.init.groups = " + ",".join(map(str, config.groups)))
    if not config.terminal:
        # Without a console LXC hands its own standard descriptors through: pipes and files stay what they are.
        lines.append("lxc.console.path = none")
    if apparmor is not None:
        lines.append(f"lxc.apparmor.profile = {apparmor}")
    return "\n".join(lines) + "\n"


def _checked(what: str, value: str) -> str:
    if not value or value != value.strip() or any(ord(c) < 32 for c in value) or value[0] in "\"'":
        raise InvalidInput(f"the {what} {value!r:.80} holds a character that cannot be passed to the container")
    return value


def _variable_line(name: str, value: str) -> str:
    if not name or "=" in name or any(ord(c) < 33 for c in name):
        raise InvalidInput(f"invalid variable name {name!r:.80}")
    if any(c in value for c in "\n\r\0"):
        raise InvalidInput(
            f"the value of variable {name} holds a line break", resolution="put the value into a file and bind it"
        )
    # LXC strips one pair of quotes around the whole value and nothing inside it.
    return f'lxc.environment = "{name}={value}"'


def _privilege_lines(config: ContainerConfig) -> list[str]:
    if config.session:
        return [f"lxc.cap.keep = {_SESSION_CAPABILITIES}"]
    capabilities = _ROOT_JOB_CAPABILITIES if config.uid == 0 else "none"
    return [f"lxc.cap.keep = {capabilities}", "lxc.no_new_privs = 1"]


def _network_lines(network: "Veth | str") -> list[str]:
    if isinstance(network, Veth):
        return [
            "lxc.net.0.type = veth",
            f"lxc.net.0.link = {network.bridge}",
            "lxc.net.0.flags = up",
            "lxc.net.0.name = eth0",
            f"lxc.net.0.veth.pair = {network.pair}",
            f"lxc.net.0.hwaddr = {network.hardware_address}",
            f"lxc.net.0.mtu = {network.mtu}",
            f"lxc.net.0.ipv4.address = {network.address}",
            f"lxc.net.0.ipv4.gateway = {network.gateway}",
        ]
    return ["lxc.net.0.type = none" if network == "host" else "lxc.net.0.type = empty"]


def _device_lines(devices: Sequence[Device]) -> list[str]:
    """Bind nodes into the container's own /dev, which LXC makes; mknod(2) is not possible in a user namespace."""
    for device in devices:
        for path in (device.source, device.target):
            if not _DEVICE.fullmatch(path) or ".." in path.split("/"):
                raise InvalidInput(f"{path!r:.80} cannot be a device", resolution="give a path below /dev")
    return [f"lxc.mount.entry = {d.source} {d.target[1:]} none bind,create=file 0 0" for d in devices]


def _limit_lines(limits: Limits, *, unified: bool, nested: bool) -> list[str]:
    prefix = "lxc.cgroup2" if unified else "lxc.cgroup"
    if nested:
        lines = ["lxc.cgroup.relative = 1"]
        if unified:  # no controller is to be had there, see `cgroup.nest`
            return lines
    else:
        lines = []
    lines.append(f"{prefix}.pids.max = {MAX_PIDS}")
    if limits.memory is not None:
        if unified:
            lines += [f"{prefix}.memory.max = {limits.memory}", f"{prefix}.memory.swap.max = 0"]
        else:
            lines.append(f"{prefix}.memory.limit_in_bytes = {limits.memory}")
    if limits.cpus is not None:
        period = 100_000
        if unified:
            lines.append(f"{prefix}.cpu.max = {limits.cpus * period} {period}")
        else:
            lines.append(f"{prefix}.cpu.cfs_period_us = {period}")
            lines.append(f"{prefix}.cpu.cfs_quota_us = {limits.cpus * period}")
    return lines


def environment() -> dict[str, str]:
    """Return the environment for LXC's programs.

    PATH leads nowhere on purpose: where LXC finds newuidmap(1) it demands a line in /etc/subuid for every id, the
    invoking user's own included; as real root it can write the map itself.
    """
    return {"PATH": "/nonexistent", "HOME": "/root", "TERM": os.environ.get("TERM") or "dumb"}


def execute_argv(name: str, *, lxc_path: str, files: Files, command: Sequence[str], daemon: bool = False) -> list[str]:
    """Return the argv that runs `command` under a small init in a new container; the first item is the program."""
    argv = [
        require_program("lxc-execute"),
        "-n",
        name,
        "-P",
        lxc_path,
        "-f",
        files.config,
        "-o",
        files.log,
        "-l",
        "ERROR",
        "-q",
    ]
    return [*argv, *(["-d"] if daemon else []), "--", *command]


def attach_argv(
    name: str,
    *,
    lxc_path: str,
    variables: dict[str, str],
    log: str,
    command: Sequence[str],
    user: tuple[int, int] = (0, 0),
) -> list[str]:
    """Return the argv that runs `command` in a running container as `user`, uid and gid, with just these variables."""
    argv = [require_program("lxc-attach"), "-n", name, "-P", lxc_path, "-o", log, "-l", "ERROR", "--clear-env"]
    if user != (0, 0):
        argv += ["-u", str(user[0]), "-g", str(user[1])]
    for key, value in variables.items():
        argv += ["-v", f"{key}={value}"]
    return [*argv, "--", *command]


def init_pid(name: str, *, lxc_path: str) -> int | None:
    """Return the host pid of a container's first process, or None where it does not run."""
    result = run(["lxc-info", "-n", name, "-P", lxc_path, "-p", "-H"], env=environment(), timeout=30, check=False)
    text = result.stdout.strip()
    return int(text) if text.isdigit() else None


def wait_until_running(name: str, *, lxc_path: str, timeout: float, alive: Callable[[], bool]) -> bool:
    """Wait until a container runs; False where its monitor ended (`alive` says so) or the time is over."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        result = run(["lxc-info", "-n", name, "-P", lxc_path, "-s", "-H"], env=environment(), timeout=30, check=False)
        if result.stdout.strip() == b"RUNNING":
            return True
        if not alive():
            return False
        time.sleep(0.02)
    return False


def stop(name: str, *, lxc_path: str) -> None:
    """Kill a container; no error if it does not run."""
    try:
        run(["lxc-stop", "-n", name, "-P", lxc_path, "-k"], env=environment(), timeout=60)
    except ProgramFailed as error:
        if init_pid(name, lxc_path=lxc_path) is not None:
            raise error
