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
_SLOWNESS = "20"
"""How many times as long as on a machine of its own things may take."""

_IN = ("envkit", "tests", "benchmarks", "docs", "images", "scripts", ".ci", "README.md", "pyproject.toml")

_ESSENTIAL = {
    "AppArmor and the kernel confine containers": (
        "run.py::test_apparmor_confines_jobs_and_sessions",
        "run.py::test_attacks_on_the_host_fail",
        "sessions.py::test_a_session_is_confined_like_a_job",
    ),
    "limits and places in control groups v2": (
        "run.py::test_memory_beyond_the_limit_kills_the_job",
        "control_groups.py::test_in_version_2_a_container_lies_below_a_group_with_processes",
        "control_groups.py::test_in_version_2_the_end_of_the_group_is_that_of_the_container",
    ),
    "sessions outlive terminals, logins, services and crashes": (
        "sessions.py::test_a_session_outlives_the_terminal_that_made_it",
        "sessions.py::test_after_a_reboot_the_session_resumes",
        "systemd.py::test_a_session_outlives_the_login_that_opened_it",
        "systemd.py::test_a_session_outlives_the_service_that_opened_it",
    ),
    "the image server is a service of systemd": (
        "systemd.py::test_the_service_serves_jobs_and_ends_when_it_is_stopped",
    ),
    "environments on demand: FUSE, EROFS from files (6.12) and through loop devices (6.1)": (
        "on_demand.py::test_a_run_fetches_what_it_reads_and_no_more",
        "on_demand.py::test_it_works_through_loop_devices",
        "leftovers.py::test_a_loop_device_is_gone_after_the_run",
    ),
    "overlayfs and EROFS mean what envkit takes them to mean": (
        "overlay_mount.py::test_four_hundred_layers_can_be_stacked",
        "overlay_mount.py::test_a_redirect_that_was_smuggled_into_a_layer_is_not_followed",
        "erofs_image.py::test_overlayfs_obeys_whiteouts_and_opaque_directories_of_images",
        "erofs_image.py::test_access_control_lists_and_capabilities_mean_what_they_did",
    ),
    "LXC's network with nftables, and what a killed job leaves": (
        "run.py::test_the_nat_network_has_an_address_a_route_and_a_resolver",
        "leftovers.py::test_a_killed_envkit_takes_its_container_along_and_the_next_run_cleans_up",
    ),
}
"""By what they show, the tests that depend on kernel, LXC, AppArmor, systemd or control groups. A name that is none any
more is an error of pytest's."""

SELECTIONS = {
    "unit": ["tests/unit"],
    "contract": ["tests/contract"],
    "integration": ["tests/integration"],
    "user": ["tests/unit", "tests/contract"],
    "ci": [
        *("-p", "no:hypothesispytest"),  # pytest would rewrite all of Hypothesis first, a minute where it is emulated
        *(f"tests/integration/test_{name}" for names in _ESSENTIAL.values() for name in names),
    ],
}
"""What `--select` takes: words for pytest. `ci` takes some minutes where the processor is emulated."""

AFTERWARDS = {"ci": ("reboot",)}
"""The scenarios that follow a selection, in the same guest."""

WHY = {
    "unit": ["every unit test, with the interpreter and the C library of the release"],
    "contract": ["what all stores promise"],
    "integration": ["envkit as a whole"],
    "user": ["what needs no privileges, in the login of an ordinary user"],
    "ci": [
        "what depends on kernel, LXC, AppArmor, systemd or control groups; all else is tested without a guest",
        *(f"{why}: {len(names)} tests" for why, names in _ESSENTIAL.items()),
        "open sessions and a shutdown: the scenario `reboot`",
    ],
}
"""What a selection is there for, in lines."""

_NOT_HERE = ("-m", "not network", "--ignore-glob=*/test_slurm_*", "--ignore=tests/vm")
"""A guest has no network, none of Slurm's packages and no QEMU."""


TINY = """
mkdir -p /root/tiny && cd /root/tiny && mkdir -p bin dev etc opt proc root run sys tmp var
test -e bin/sh || { cp /bin/busybox bin && bin/busybox --install bin; }
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
    env = {"ENVKIT_TEST_SLOWNESS": _SLOWNESS, "PYTHONUNBUFFERED": "1"}
    env["HYPOTHESIS_STORAGE_DIRECTORY"] = "/tmp/hypothesis"
    if user:
        settings = [f"{name}={value}" for name, value in env.items()]
        # A login of its own, as sshd makes one: a session's scope and its own control group.
        login = ["runuser", "--login", "--session-command", f'cd {INSIDE} && exec "$@"', "--", USER, "sh"]
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
