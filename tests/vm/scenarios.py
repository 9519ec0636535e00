"""Owns what is tried with a guest from outside: what a shutdown or a power cut does to open sessions.

A scenario is a function that gets a guest with the checkout in it, and a `Stage` where it asks for more than that. It
raises AssertionError where a promise is broken, and may return what it has to tell.
"""

import json
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
    """A session is opened, the machine shut down; after the boot the session goes on and is saved."""
    _session(guest)
    guest.power_off()
    guest.boot()
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
