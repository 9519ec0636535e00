"""Building roots with mmdebstrap; what its result lacks and has is tested without it in tests/unit."""

import os
import signal
import subprocess
import sys
import time

import pytest

from envkit.drivers import aptsources, bootstrap, resolver
from envkit.drivers.aptsources import Source
from envkit.errors import Conflict
from envkit.model.recipe import Recipe, RecipeFile

pytestmark = pytest.mark.root

SMALL = Recipe(
    name="small",
    description="x",
    distribution="debian",
    suite="bookworm",
    variant="apt",
    files=(RecipeFile(path="/sbin/policy-rc.d", content=b"#!/bin/sh\nexit 101\n", mode=0o755),),
)
SECONDS = 100_000 + os.getpid()  # tells this run's sleep from others
# Runs in a mount namespace of its own, with the build's directory as $1, the host's resolv.conf as $2.
IN_ROOT = """
set -eu
mount --bind "$2" "$1/etc/resolv.conf"
mount -t proc proc "$1/proc"
for node in null urandom; do touch "$1/dev/$node"; mount --bind "/dev/$node" "$1/dev/$node"; done
mount -t tmpfs tmpfs "$1/var/lib/apt/lists"
chroot "$1" dpkg --audit
chroot "$1" apt-get update --print-uris
chroot "$1" /usr/sbin/policy-rc.d || echo "policy: $?"
"""


@pytest.mark.network
def test_a_small_root_is_built_and_works(tmp_path):
    steps = []
    target = tmp_path / "root"
    bootstrap.build_root(SMALL, str(target), steps.append)
    assert "installing essential packages" in steps
    assert (target / "usr/sbin/policy-rc.d").stat().st_mode & 0o7777 == 0o755
    assert os.listdir(target / "dev") == os.listdir(target / "run") == os.listdir(target / "var/lib/apt/lists") == []
    for name in ("etc/resolv.conf", "etc/hostname", "etc/machine-id"):
        assert (target / name).read_bytes() == b""
    assert not list(target.rglob("99mmdebstrap"))
    expected = aptsources.debian_sources(aptsources.read_host(), "bookworm")
    stored = (target / "etc/apt/sources.list.d/debian.sources").read_text()
    assert stored == aptsources.deb822(expected)

    (tmp_path / "resolv.conf").write_bytes(resolver.resolv_conf())
    command = ["unshare", "--mount", "sh", "-c", IN_ROOT, "sh", str(target), str(tmp_path / "resolv.conf")]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    for source in expected:
        assert f"{aptsources.without_credentials(source.uri)}/dists/{source.suite}/" in done.stdout
    assert done.stdout.endswith("policy: 101\n")
    with pytest.raises(Conflict, match=r"it is not an empty directory"):
        bootstrap.build_root(SMALL, str(target))


def test_an_archive_that_cannot_be_reached_is_told_with_what_apt_says(tmp_path):
    nowhere = Source(
        uri="http://user:secret@mirror.invalid/debian",
        suite="bookworm",
        components=("main",),
        signed_by=aptsources.KEYRING,
    )
    own = tmp_path / "apt.conf"
    own.write_text('Acquire::Retries "0";\n')  # by itself APT tries for 7 s
    with pytest.raises(bootstrap.BuildFailed) as caught:
        bootstrap.build_root(SMALL, str(tmp_path / "root"), environ={"APT_CONFIG": str(own)}, sources=[nowhere])
    assert caught.value.brief.startswith("building the base small: mmdebstrap failed with exit code ")
    assert "mirror.invalid" in caught.value.details
    assert "secret" not in caught.value.details
    assert str(tmp_path) not in mounts()


def test_a_build_leaves_no_process_and_no_mount_when_its_caller_is_killed(tmp_path):
    program = f"""
from envkit.drivers import bootstrap
from envkit.model.recipe import Recipe

whole = bootstrap.argv
def with_sleep(recipe, target, scratch):
    words = whole(recipe, target, scratch)
    return words[: words.index("mmdebstrap")] + ["sh", "-c", "mount -t tmpfs x {tmp_path}; sleep {SECONDS}; true"]

bootstrap.argv = with_sleep
recipe = Recipe(name="x", description="x", distribution="debian", suite="bookworm")
bootstrap.build_root(recipe, {str(tmp_path / "root")!r}, sources=[])
"""
    caller = subprocess.Popen([sys.executable, "-c", program])
    try:
        assert wait_for(lambda: sleepers() != [])
        assert str(tmp_path) not in mounts()
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    assert wait_for(lambda: sleepers() == [])


def mounts():
    """Return what is mounted in this mount namespace."""
    with open("/proc/self/mountinfo") as file:
        return file.read()


def sleepers():
    """Return the pids of the sleeping stand-in for mmdebstrap."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read() == f"sleep\0{SECONDS}\0".encode():
                    found.append(int(pid))
        except OSError:
            continue
    return found


def wait_for(condition, seconds=10):
    """Return whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
