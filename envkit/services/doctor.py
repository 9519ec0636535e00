"""Owns the use case `doctor`: everything that this machine lacks, at once, each with its fix."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass

from envkit.content.machinecode import KNOWN
from envkit.drivers import cgroup, cpu, firewall, lxc, probes, process, subids
from envkit.drivers.files import make_directory
from envkit.drivers.routing import BRIDGE
from envkit.errors import EnvkitError
from envkit.image import erofs
from envkit.model.tree import TREE_FORMAT, Entry, Kind, Tree
from envkit.node import instance, session
from envkit.node.unfinished import sweep_unfinished
from envkit.services.context import Context, require_root

_LOW_SPACE = 5 * 10**9
_PROGRAMS = {
    "lxc-execute": ("lxc", "runs containers"),
    "lxc-attach": ("lxc", "enters sessions"),
    "lxc-info": ("lxc", "tells whether a session runs"),
    "tar": ("tar", "copies files and imports bases"),
}
_OPTIONAL_PROGRAMS = {
    "nft": ("nftables", "gives sessions a network"),
    "mmdebstrap": ("mmdebstrap", "builds Debian bases"),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `remedy` tells how to mend it where it is not ok."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    required: bool = True


def examine(context: Context) -> list[Check]:
    """Look at everything; never stops at the first problem."""
    checks = [_root()]
    checks += [_program(name, *about, required=True) for name, about in _PROGRAMS.items()]
    checks += [_program(name, *about, required=False) for name, about in _OPTIONAL_PROGRAMS.items()]
    checks += [_kernel(), _filesystem("overlay"), _filesystem("erofs")]
    checks.append(_subids())
    if os.geteuid() == 0:
        directory = context.paths.root
        make_directory(directory)
        checks += [_overlay(directory), _erofs(directory), _space(directory), _leftovers(context)]
        checks += _firewall()
    checks += [_cgroups(), _apparmor()]
    return checks


def fix(context: Context) -> list[str]:
    """Mend what can be mended without installing anything; return what was done."""
    require_root("mending this machine")
    done = []
    first, is_new = subids.grant_range()
    if is_new:
        done.append(f"gave root the ids {first} to {first + 65_535} in /etc/subuid and /etc/subgid")
    instance.prepare(context.paths)
    done += [f"removed what the dead container {name} left behind" for name in instance.sweep(context.paths)]
    done += [f"removed the unfinished session {path}" for path in session.sweep_sessions(context.paths)]
    done += [f"removed {path}, which a killed process was writing" for path in sweep_unfinished(context.paths)]
    return done


def slurm_features() -> list[str]:
    """Return the flags of this machine's CPU that versions may need, as names of features for Slurm."""
    return sorted(cpu.flags() & KNOWN)


def check_json(check: Check) -> dict[str, object]:
    """Return a check for `--json`."""
    return asdict(check)


def _root() -> Check:
    ok = os.geteuid() == 0
    return Check(
        "privilege", ok, "root" if ok else "an ordinary user", "run it with sudo to check everything", required=False
    )


def _program(name: str, package: str, purpose: str, *, required: bool) -> Check:
    path = process.find_program(name)
    return Check(name, path is not None, path or f"not installed; {purpose}", f"apt install {package}", required)


def _kernel() -> Check:
    release = probes.kernel_release()
    return Check("kernel", probes.kernel_at_least(5, 19), release, "idmapped overlay layers need Linux 5.19 or newer")


def _filesystem(name: str) -> Check:
    ok = probes.has_filesystem(name)
    return Check(f"{name} in the kernel", ok, "yes" if ok else "no", f"modprobe {name}, or a kernel that has it")


def _subids() -> Check:
    return _attempt(
        "ids for containers",
        lambda: f"from {subids.container_range()}",
        "run `sudo envkit doctor --fix`",
    )


def _attempt(name: str, found: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, ok=True, found=found())
    except EnvkitError as error:
        return Check(name, ok=False, found=error.brief, remedy=remedy)


def _overlay(directory: str) -> Check:
    problem = probes.overlay_upper(directory)
    return Check(
        "overlay in " + directory,
        problem is None,
        "works" if problem is None else problem,
        "put envkit's root on a local ext4, XFS or Btrfs file system: --root DIR or ENVKIT_ROOT",
    )


def _erofs(directory: str) -> Check:
    tree = Tree(TREE_FORMAT, [Entry(b"", Kind.DIRECTORY, mode=0o755)], [])
    image = bytes(erofs.build(tree).metadata)
    if probes.erofs_mount(image, directory, through_loop=False) is None:
        way = "the file itself" if probes.kernel_at_least(6, 12) else "through a loop device"
        return Check("mounting layers", ok=True, found=way)
    problem = probes.erofs_mount(image, directory, through_loop=True)
    return Check("mounting layers", problem is None, problem or "through a loop device", "modprobe erofs loop")


def _space(directory: str) -> Check:
    free = shutil.disk_usage(directory).free
    return Check(
        "space in " + directory, free > _LOW_SPACE, f"{free / 1e9:.1f} GB free", "free some space there", required=False
    )


def _leftovers(context: Context) -> Check:
    dead = instance.dead_jobs(context.paths)
    return Check(
        "leftovers",
        not dead,
        f"{len(dead)} dead jobs" if dead else "none",
        "run `sudo envkit doctor --fix`; the next run removes them too",
        required=False,
    )


def _firewall() -> list[Check]:
    """Return one note for each thing on this machine that drops what sessions send."""
    try:
        obstacles = firewall.obstacles(BRIDGE)
    except EnvkitError as error:
        return [Check("packet filter", ok=False, found=error.brief, remedy=error.resolution or "", required=False)]
    if not obstacles:
        return [Check("packet filter", ok=True, found="nothing in the way of sessions")]
    return [Check("packet filter", ok=False, found=o.problem, remedy=o.resolution, required=False) for o in obstacles]


def _cgroups() -> Check:
    version = "version 2" if cgroup.is_unified() else "version 1"
    return Check("control groups", os.path.isdir(cgroup.ROOT), version, "mount cgroup2 on /sys/fs/cgroup")


def _apparmor() -> Check:
    ok, found, remedy = lxc.apparmor_confines(), "on", "containers lack one layer of defence"
    if not lxc.apparmor_enabled():
        found = "off in this kernel"
    elif not ok:
        found = f"on, but the profile {lxc.APPARMOR_PROFILE} is not loaded"
        remedy = "run `apt install apparmor lxc`, then `systemctl restart apparmor`"
    return Check("AppArmor", ok, found, remedy, required=False)
