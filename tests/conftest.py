"""Which privileged tests this machine can run, found out by trying; and no test sees the caller's own settings.

A test that cannot run here is skipped with the reason. Under CI (or with --no-skip-gated) that is a failure, unless
it is the kernel that cannot do it: a program that is not installed or a missing privilege can be put right.
"""

import functools
import glob
import os
import shutil
import subprocess
import tempfile
from typing import NamedTuple

import pytest
from gates import skip_or_fail
from hypothesis import HealthCheck, settings
from s3_support import racy_s3, s3  # noqa: F401  # here, so that all tests share one server
from slurm_cluster import lack_of_slurm
from slurm_support import cluster, slurm  # noqa: F401  # and one cluster

from envkit.config.load import SYSTEM_FILE
from envkit.drivers import cgroup, probes
from envkit.drivers.aptsources import debian_sources, read_host
from envkit.drivers.process import SYSTEM_PATH
from envkit.errors import EnvkitError
from envkit.image import erofs
from envkit.model.tree import TREE_FORMAT, Entry, Kind, Tree

DISK = os.environ.get("ENVKIT_TEST_DIR", "/var/tmp")
"""A directory on a real disk file system: overlayfs on a tmpfs or on another overlay behaves differently."""


_PROGRAMS = ("lxc-execute", "lxc-attach", "nft", "busybox", "mount", "losetup", "ip", "mkfs.ext4", "setpriv", "tar")
"""What envkit calls, and what its tests call beside that."""


class Lack(NamedTuple):
    """Why a kind of test cannot run; `kernel` where no package and no privilege would help."""

    reason: str
    kernel: bool = False


@functools.cache
def lack(marker: str) -> Lack | None:
    """Return what the tests of a marker lack on this machine, or None where they can run."""
    ways = {"root": _root, "lxc": _lxc, "network": _network, "systemd": _systemd}
    ways |= {"slurm": _slurm, "mpi": _mpi, "qemu": _qemu}
    return ways.get(marker, lambda: None)()


def _root() -> Lack | None:
    if os.geteuid() != 0:
        return Lack("needs root")
    for name in ("overlay", "erofs"):
        if not probes.has_filesystem(name):
            return Lack(f"the kernel has no {name}", kernel=True)
    problem = probes.overlay_upper(DISK)
    if problem is not None:
        return Lack(f"no overlay with its upper in {DISK} (set ENVKIT_TEST_DIR): {problem}")
    image = bytes(erofs.build(Tree(TREE_FORMAT, [Entry(b"", Kind.DIRECTORY, mode=0o755)], [])).metadata)
    problems = [probes.erofs_mount(image, DISK, through_loop=loop) for loop in (False, True)]
    return None if None in problems else Lack(f"the kernel mounts no EROFS image: {problems[0]}", kernel=True)


def _lxc() -> Lack | None:
    if (missing := lack("root")) is not None:
        return missing
    for program in _PROGRAMS:
        if shutil.which(program, path=SYSTEM_PATH) is None:
            return Lack(f"{program} is not installed")
    if not os.path.exists("/proc/self/ns/user"):
        return Lack("the kernel has no user namespaces", kernel=True)
    return None if os.listdir(cgroup.ROOT) else Lack(f"no control groups are mounted on {cgroup.ROOT}")


def _systemd() -> Lack | None:
    """As sd_booted(3) does."""
    return None if os.path.isdir("/run/systemd/system") else Lack("systemd does not run this machine", kernel=True)


def _slurm() -> Lack | None:
    missing = lack_of_slurm()
    return None if missing is None else Lack(missing)


def _mpi() -> Lack | None:
    there = glob.glob("/usr/lib/*/libmpi.so.40") and shutil.which("cc")
    return None if there else Lack("Debian's Open MPI or a compiler is not installed")


def _qemu() -> Lack | None:
    missing = [name for name in ("qemu-system-x86_64", "qemu-io") if shutil.which(name) is None]
    return Lack(f"{', '.join(missing)}: not installed") if missing else None


def _network() -> Lack | None:
    """Fetch what a build fetches first, with apt's own settings for proxies and certificates."""
    helper = "/usr/lib/apt/apt-helper"
    if not os.path.exists(helper):
        return Lack("apt is not installed")
    try:
        source = debian_sources(read_host(), "bookworm")[0]
    except EnvkitError as error:
        return Lack(error.brief)
    url = f"{source.uri.rstrip('/')}/dists/bookworm/InRelease"
    with tempfile.TemporaryDirectory() as directory:
        words = [helper, "download-file", url, f"{directory}/InRelease"]
        try:
            done = subprocess.run(words, capture_output=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            return Lack(f"{url} does not answer")
    return None if done.returncode == 0 else Lack(f"{url} cannot be fetched")


# How long an example takes says how busy the machine is, and nothing else.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure(config):
    if os.path.exists(SYSTEM_FILE):
        pytest.exit(f"tests would use the store that {SYSTEM_FILE} names: run them where it is not", returncode=4)
    if config.pluginmanager.hasplugin("xdist"):
        import lanes  # late: only whole runs need pytest-xdist

        config.pluginmanager.register(lanes, "lanes")


def pytest_addoption(parser):
    parser.addoption("--no-skip-gated", action="store_true", help="fail where a test would be skipped for a lack")


def pytest_report_header():
    release = f"kernel {probes.kernel_release()}, control groups {'v2' if cgroup.is_unified() else 'v1'}"
    states = [f"{marker}: {'yes' if lack(marker) is None else lack(marker).reason}" for marker in ("root", "lxc")]
    return ", ".join([release, *states])


def pytest_runtest_setup(item):
    for marker in item.iter_markers():
        missing = lack(marker.name)
        if missing is None:
            continue
        if missing.kernel:
            pytest.skip(missing.reason)
        skip_or_fail(item.config, missing.reason)


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch):
    """Home, configuration and sudo's traces of whoever runs the tests say nothing in them."""
    for name in [*os.environ]:
        if name.startswith(("ENVKIT_", "SUDO_", "XDG_", "AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
