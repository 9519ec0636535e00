"""Owns what is tried with a guest from outside: what a shutdown or a power cut does to open sessions.

A scenario is a function that gets a guest with the checkout in it and the `Disk` with a cache that the guest has beside
its own, which has none. It raises AssertionError where a promise is broken, and may return what it has to tell.
"""

import json
import random
import shlex

from vm import suite
from vm.image import USER
from vm.power import PowerTrial

_CUTS = 2


def reboot(guest, _):
    """A session is opened, the machine shut down; after the boot the session goes on and is saved."""
    _session(guest)
    guest.power_off()
    _goes_on(guest, "before\n")


def power_cut(guest, disk):
    """The power goes after a sync: what was written before it is there. Then it goes in the middle of saves."""
    _session(guest)
    guest.sh("sync").ok()
    guest.kill()
    _goes_on(guest, "before\n")
    seed = random.randrange(1 << 32)
    trial = PowerTrial(guest, disk, seed=seed)
    trial.begin()
    try:
        for _ in range(_CUTS):
            trial.cut()
            trial.check()
    except AssertionError as error:
        raise AssertionError(f"{error} (seed {seed}, {trial.told()})") from error
    assert trial.lost > 0, f"the cuts did not hurt: {trial.told()}"
    return trial.told()


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


SCENARIOS = {"reboot": reboot, "power-cut": power_cut, "user": user}


def _session(guest):
    guest.sh(suite.TINY).ok()
    guest.run("envkit", "create", "work", "--base", "tiny", "--no-shell").ok()
    guest.run("envkit", "exec", "work", "--", "sh", "-c", "echo before >/opt/file; rm /etc/passwd").ok()


def _goes_on(guest, expected):
    guest.boot()
    (session,) = json.loads(guest.run("envkit", "status", "--json").ok())
    assert session["session"].endswith("/work"), session
    assert guest.run("envkit", "exec", "work", "--", "cat", "/opt/file").ok() + "\n" == expected
    guest.run("envkit", "exec", "work", "--", "sh", "-c", "echo after >>/opt/file").ok()
    guest.run("envkit", "save", "work", "--close").ok()
    script = "cat /opt/file; test -e /etc/passwd || echo gone"
    assert guest.run("envkit", "run", "-e", "work", "--", "sh", "-c", script).text == f"{expected}after\ngone"
    checks = json.loads(guest.run("envkit", "doctor", "--json").ok())
    assert [check for check in checks if not check["ok"]] == []
    assert json.loads(guest.run("envkit", "status", "--json").ok()) == []
