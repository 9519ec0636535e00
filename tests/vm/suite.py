"""Owns the tests inside a guest: getting the checkout in, running pytest there, getting what it left out."""

import os
import tarfile

from commandline import CHECKOUT
from vm.image import USER

INSIDE = "/srv/envkit"
"""The checkout in a guest."""

_JUNIT = "/var/tmp/junit.xml"
_RESULTS = {
    "junit.xml": ("cat", _JUNIT),
    "journal.log": ("journalctl", "--no-pager", "--output=short-precise"),
    "packages": ("dpkg-query", "-W"),
}
_LAUNCHER = f"""#!/opt/envkit/bin/python -IS
import glob
import sys

sys.path[:0] = ["{INSIDE}", *glob.glob("/opt/envkit/lib/python3*/site-packages")]
from envkit.__main__ import main

main()
"""
_SLOWNESS = "10"
"""How many times as long as on a machine of its own things may take."""

_IN = ("envkit", "tests", "benchmarks", "docs", "images", "scripts", ".ci", "README.md", "pyproject.toml")

_ESSENTIAL = {
    "run": ("apparmor", "attacks_on_the_host", "memory_beyond", "the_nat_network"),
    "control_groups": ("in_version_2_a_container",),
    "systemd": ("serves_jobs", "a_session_outlives"),
    "sessions": ("after_a_reboot",),
    "leftovers": ("takes_its_container_along", "loop_device"),
    "on_demand": ("fetches_what_it_reads", "loop_devices"),
    "overlay_mount": ("four_hundred", "redirect"),
    "erofs_image": ("list_grants_access", "overlayfs"),
}
"""By file, words of the names of the tests that depend on kernel, LXC, AppArmor, systemd or control groups."""

SELECTIONS = {
    "unit": ["tests/unit"],
    "contract": ["tests/contract"],
    "integration": ["tests/integration"],
    "user": ["tests/unit", "tests/contract"],
    "ci": [
        *(f"tests/integration/test_{name}.py" for name in _ESSENTIAL),
        "-k",
        " or ".join(f"(test_{name}.py and ({' or '.join(words)}))" for name, words in _ESSENTIAL.items()),
    ],
}
"""What `--select` takes: words for pytest. `ci` takes some minutes where the processor is emulated."""

WHY = {
    "unit": "every unit test, with the interpreter and the C library of the release",
    "contract": "what all stores promise",
    "integration": "envkit as a whole",
    "user": "what needs no privileges, in the login of an ordinary user",
    "ci": "what depends on kernel, LXC, AppArmor, systemd or control groups; every word of envkit is tested elsewhere",
}
"""What a selection is there for."""

_NOT_HERE = ("-m", "not network", "--ignore-glob=*/test_slurm_*", "--ignore=tests/vm")
"""A guest has no network, none of Slurm's packages and no QEMU."""


TINY = """
mkdir -p /root/tiny && cd /root/tiny && mkdir -p bin dev etc opt proc root run sys tmp var
cp /bin/busybox bin && for name in $(busybox --list); do [ $name = busybox ] || ln -s busybox bin/$name; done
echo root:x:0:0:root:/root:/bin/sh >etc/passwd
envkit base import tiny /root/tiny
"""
"""A script that makes the smallest base there is, `tiny`."""


def checkout(path):
    """Write the checkout to a tar file: what the tests need, as it is now."""
    with tarfile.open(path, "w") as tar:
        for name in _IN:
            tar.add(f"{CHECKOUT}/{name}", f"envkit/{name}", filter=_owned_by_root)


def _owned_by_root(member):
    name = os.path.basename(member.name)
    if name in ("__pycache__", ".hypothesis", ".pytest_cache", ".mypy_cache", ".ruff_cache"):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def prepare(guest):
    """Unpack the checkout, the guest's first read-only disk, as its root would have it."""
    guest.sh("mkdir -p /srv && tar -x -f /dev/vdb -C /srv", timeout=300).ok()
    # As `scripts/provision` leaves a machine, but for the packages, which are there, and pip, which takes long.
    script = 'printf %s "$1" >/usr/local/bin/envkit && chmod 755 /usr/local/bin/envkit && envkit doctor --fix'
    guest.sh(script, _LAUNCHER, timeout=300).ok()


def test(guest, words, *, user, timeout, output):
    """Run pytest with these words; return its exit code. What it says goes to `output` as it comes."""
    argv = ["/opt/envkit/bin/python", "-m", "pytest", "-v", "-p", "no:cacheprovider", "--color=no", "--durations=40"]
    argv += [f"--junitxml={_JUNIT}", *_NOT_HERE, *words]
    env = {"ENVKIT_TEST_SLOWNESS": _SLOWNESS, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    env["HYPOTHESIS_STORAGE_DIRECTORY"] = "/tmp/hypothesis"
    if user:
        settings = [f"{name}={value}" for name, value in env.items()]
        # A login of its own, as sshd makes one: a session's scope and its own control group.
        login = ["runuser", "--login", USER, "--session-command", f'cd {INSIDE} && exec "$@"', "sh"]
        argv = [*login, "env", *settings, *argv]
    else:
        argv.append("--no-skip-gated")  # nothing but the kernel may keep a test from running
    return guest.run(*argv, env=env, cwd=INSIDE, timeout=timeout, output=output).code


def results(guest, directory):
    """Bring what a run left to the host: junit.xml, the journal, the kernel's messages."""
    for name, words in _RESULTS.items():
        done = guest.run(*words, timeout=300)
        if done.code == 0:  # a pytest that did not begin leaves no junit.xml
            with open(f"{directory}/{name}", "wb") as file:
                file.write(done.out)
