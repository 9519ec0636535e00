"""Owns what is tried with a guest from outside: what a shutdown or a power cut does to open sessions.

A scenario is a function that gets a guest with the checkout in it, and a `Stage` where it asks for more than that. It
raises AssertionError where a promise is broken, and may return what it has to tell.
"""

import json
import os
import random
import shlex
from collections.abc import Callable
from typing import NamedTuple

from vm import suite
from vm.cluster import cluster
from vm.cutdisk import Disk
from vm.image import USER
from vm.network import Hub
from vm.power_campaign import PowerCampaign

_BEGUN = "/var/tmp/jobs/begun"
_CUTS = 2
_MOMENTS = 9
"""Moments before each cut that are judged as well."""


class Stage(NamedTuple):
    """What there is beside a guest: a disk with a cache, while its own has none; the hub of its network card; and a
    function that gives, by name, one more guest at this hub, as a context manager."""

    disk: Disk
    hub: Hub
    another: Callable


def reboot(guest, _):
    """A session is opened and a job begun, the machine shut down; after the boot both go on, the job by itself."""
    _session(guest)
    number = _job(guest)
    guest.power_off()
    guest.boot()
    _begins_again(guest, number)
    _goes_on(guest)


def power_cut(guest, stage):
    """The power goes in the middle of saves: what was confirmed is there, and so is the session."""
    campaign = PowerCampaign(guest, stage.disk, seed=random.randrange(1 << 32))
    for _ in range(_CUTS):
        campaign.cut(_MOMENTS)
    campaign.control()
    told = campaign.told()
    if broken := campaign.violations():
        raise AssertionError("".join(f"\n{violation} ({violation.fault})" for violation in broken) + f"\n{told}")
    return told


def user(guest, _):
    """Somebody who may use sudo makes an environment, and runs a job as themselves over their own files."""
    guest.sh(suite.TINY).ok()

    def login(script):
        return guest.run("runuser", "--login", USER, "--session-command", script).ok()

    login("sudo envkit create mine --base tiny --no-shell && sudo envkit exec mine -- sh -c 'echo x >/opt/file'")
    assert login("sudo envkit save mine --close") == f"{USER}/mine@1"
    job = "id -u; cat /opt/file; cat /proc/self/attr/current; echo made >~/made"
    said = login(f"sudo envkit run -e mine -v ~:/home/{USER} --env HOME=/home/{USER} -- sh -c {shlex.quote(job)}")
    assert said.split("\n")[:2] == ["1000", "x"]
    assert said.split("\n")[2].startswith("lxc-container-default"), f"not confined by AppArmor: {said}"
    assert login("stat -c '%U %s' made") == f"{USER} 5"
    refused = guest.run("runuser", "--login", USER, "-c", "envkit run -e mine -- true")
    assert refused.code == 125, refused
    assert b"root" in refused.err, refused


SCENARIOS = {"reboot": reboot, "power-cut": power_cut, "user": user, "cluster": cluster}


def _session(guest):
    guest.sh(suite.TINY).ok()
    guest.run("envkit", "create", "work", "--base", "tiny", "--no-shell").ok()
    guest.run("envkit", "exec", "work", "--", "sh", "-c", "echo before >/opt/file; rm /etc/passwd").ok()


def _job(guest):
    """Have the service run a job, which would end only after a second start; return its number."""
    unit = f"{suite.INSIDE}/scripts/systemd/envkit-queue.service"
    guest.sh('install -d -m 1777 "$1"', os.path.dirname(_BEGUN)).ok()
    guest.sh('install -m 644 "$1" /etc/systemd/system/ && systemctl enable --now envkit-queue', unit).ok()
    script = f"echo begun >>{_BEGUN}; test $(wc -l <{_BEGUN}) = 2 || sleep 10000; echo ended"
    options = ("-e", "base/tiny", "-v", os.path.dirname(_BEGUN))
    number = guest.run("envkit", "submit", *options, "--", "sh", "-c", script).ok()
    _wait_for_starts(guest, 1)
    guest.sh("systemctl restart envkit-queue && systemctl is-active envkit-queue").ok()
    (task,) = json.loads(guest.run("envkit", "jobs", number, "--json").ok())
    assert task["state"] == "running", task
    return number


def _begins_again(guest, number):
    _wait_for_starts(guest, 2)
    guest.run("envkit", "wait", number).ok()
    assert guest.run("envkit", "result", number).ok() == "ended"


def _wait_for_starts(guest, count):
    """Wait for the job without a command of envkit's, each of which would run the queue itself."""
    script = 'for i in $(seq 120); do test "$(cat "$1" | wc -l)" = "$2" && exit; sleep 1; done; exit 1'
    guest.sh(script, _BEGUN, str(count), timeout=300).ok()


def _goes_on(guest):
    (session,) = json.loads(guest.run("envkit", "status", "--json").ok())
    assert session["session"].endswith("/work"), session
    assert guest.run("envkit", "exec", "work", "--", "cat", "/opt/file").ok() == "before"
    guest.run("envkit", "exec", "work", "--", "sh", "-c", "echo after >>/opt/file").ok()
    guest.run("envkit", "save", "work", "--close").ok()
    script = "cat /opt/file; test -e /etc/passwd || echo gone"
    assert guest.run("envkit", "run", "-e", "work", "--", "sh", "-c", script).text == "before\nafter\ngone"
    checks = json.loads(guest.run("envkit", "doctor", "--json").ok())
    assert [check for check in checks if not check["ok"]] == []
    assert json.loads(guest.run("envkit", "status", "--json").ok()) == []
