"""What one envkit root has on this machine right now: to see that nothing stays behind.

Other roots may be in use on the same machine at the same time, so everything is traced back to the root it belongs to.
"""

import contextlib
import glob
import os
import socket
import time

from envkit.drivers import cgroup

SETTLED = 8.0
"""Seconds that the kernel gets to finish what it does after a process has ended."""


_IMAGE_SERVER = "envkit.ondemand.main"


def traces(envkit):
    """Return a line for each mount, loop device, process, control group, network device and directory.

    Not for the image server: it ends by itself when nothing has needed it for a while, and may come and go meanwhile.
    """
    own = _processes(envkit)
    return {
        *(f"mount {line}" for line in _mounts(envkit)),
        *(f"loop device {path}" for path in _loop_devices(envkit)),
        *(f"process {pid} {text}" for pid, text in own.items()),
        *(f"control group {path}" for path in _groups(envkit, own)),
        *(f"network device {name}" for name in _network_devices(own)),
        *(f"directory {path}" for path in _directories(envkit)),
    }


def new_traces(envkit, before):
    """Return what is there now, was not before, and stays; waits a little for it to go.

    What comes and goes, as the groups of another root's container while it starts and ends, is not what stays.
    """
    started = time.monotonic()
    stays = traces(envkit) - before
    while stays and time.monotonic() < started + SETTLED:
        time.sleep(0.05)
        new = traces(envkit) - before
        stays = new if time.monotonic() < started + SETTLED / 2 else stays & new
    return sorted(stays)


def _mine(envkit, text):
    return any(f"{place}{end}" in text for place in (envkit.root, envkit.run_directory) for end in "/ \0,:\n")


def _mounts(envkit):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [line.strip() for line in file if _mine(envkit, line)]


def _loop_devices(envkit):
    found = []
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
            if _mine(envkit, file.read()):
                found.append(path)
    return found


def _processes(envkit):
    """Return pid and command line of the root's processes, by what they were called with or have mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        here = _mine(envkit, file.read())
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        words = _read(f"/proc/{pid}/cmdline")
        if _IMAGE_SERVER in words:
            continue
        known = _mine(envkit, words + _read(f"/proc/{pid}/environ"))
        # A process inside a container knows nothing of the root, but its overlay does.
        if int(pid) != os.getpid() and (known or (not here and _mine(envkit, _read(f"/proc/{pid}/mountinfo")))):
            found[int(pid)] = words.replace("\0", " ")[:200]
    return found


def _groups(envkit, own):
    """Return containers' control groups that hold nothing but processes of this root, or nothing."""
    # Those of sessions are at the top, those of jobs below the groups of whoever calls, as these tests.
    places = {*cgroup.tops(), *cgroup.own_groups()}
    found = []
    for path in (group for place in places for group in glob.glob(f"{place}/lxc.*.envkit-*")):
        members = {int(line) for name in glob.glob(f"{path}/**/cgroup.procs", recursive=True) for line in _lines(name)}
        if members <= set(own) and (members or _may_be_own(envkit, path)):
            found.append(path)
    return found


def _may_be_own(envkit, group):
    """Tell whether an empty group may be this root's: only its record says so, if other lanes kill containers, too."""
    identity = group.rpartition("envkit-")[2]
    if "PYTEST_XDIST_WORKER" not in os.environ or os.path.isdir(f"{envkit.root}/runs/{identity}"):
        return True
    records = glob.glob(f"{envkit.root}/sessions/*/*/*.json")
    return any(identity in _read(path) for path in records)


def _network_devices(own):
    """Return containers' devices on this machine, but those that lead to a container of another root."""
    foreign = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) not in own and "/lxc.payload." in _read(f"/proc/{pid}/cgroup"):
            foreign.add(_read(f"/proc/{pid}/root/sys/class/net/eth0/iflink").strip())
    named = {name: str(index) for index, name in socket.if_nameindex()}
    return [name for name, index in named.items() if name.startswith(("envkit-", "veth")) and index not in foreign]


def _directories(envkit):
    found = glob.glob(f"{envkit.root}/runs/*") + glob.glob(f"{envkit.root}/tmp/*")
    found += glob.glob(f"{envkit.root}/sessions/*/*") + glob.glob(f"{envkit.root}/sessions/*/.*")
    found += glob.glob(f"{envkit.root}/cache/layers/*/*.new")
    return found + glob.glob(f"{envkit.run_directory}/lxc/*") + glob.glob(f"{envkit.run_directory}/mnt/*")


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _lines(path):
    return _read(path).split()
