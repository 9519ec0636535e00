"""Owns what is tried with a guest from outside: what a shutdown or a power cut does to open sessions.

A scenario is a function that gets a guest with the checkout in it, and raises AssertionError where a promise is broken.
"""

import json
import shlex

from vm.image import USER

_TINY = """
mkdir -p /root/tiny && cd /root/tiny && mkdir -p bin dev etc opt proc root run sys tmp var
cp /bin/busybox bin && for name in $(busybox --list); do [ $name = busybox ] || ln -s busybox bin/$name; done
echo root:x:0:0:root:/root:/bin/sh >etc/passwd
envkit base import tiny /root/tiny
"""


def reboot(guest):
    """A session is opened, the machine shut down; after the boot the session goes on and is saved."""
    _session(guest)
    guest.power_off()
    _goes_on(guest, "before\n")


def power_cut(guest):
    """As `reboot`, but the power goes after a sync: what was written before it is there."""
    _session(guest)
    guest.sh("sync").ok()
    guest.kill()
    _goes_on(guest, "before\n")


def user(guest):
    """Somebody who may use sudo makes an environment, and runs a job as themselves over their own files."""
    guest.sh(_TINY).ok()

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
    guest.sh(_TINY).ok()
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
