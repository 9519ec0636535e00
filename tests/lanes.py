"""Owns how the whole suite runs in lanes: pytest-xdist's workers side by side, each of which takes file after file.

The first lane has the machine as it is. Each other one has a network of its own, which leads nowhere, and its own
/run/envkit, where the addresses of that network are given out: bridges, nft tables and ports of two lanes never meet.
What else envkit keeps belongs to a root, and each lane has roots of its own. Tests marked `network` or `systemd` need
the machine's own, and stay in the first lane with all of their file.
"""

import contextlib
import os
import re
import signal
import stat
import subprocess
import time

import pytest
from commandline import SLOWNESS
from xdist.scheduler import LoadFileScheduling

from envkit.drivers import libc, mount

FIRST = "gw0"
CLEANING = 120.0
"""Seconds that lanes get to end what their fixtures have started."""
_LONG = ("tests/faults/", "tests/integration/", "tests/contract/")
"""Where files take long: these are begun first, so that no lane is left alone with one in the end."""
_OF_THE_MACHINE = ("network", "systemd")
_MARKED = re.compile(rf"^(@|pytestmark = .*)pytest\.mark\.({'|'.join(_OF_THE_MACHINE)})\b", re.MULTILINE)
_CLONE_NEWNET = 0x40000000
_NETWORK = (
    "link set lo up",
    # With loopback alone, getaddrinfo(3) with AI_ADDRCONFIG, which Slurm uses, finds no address at all.
    "link add lane0 type veth peer name lane1",
    "address add 192.0.2.1/32 dev lane0",
    "link set lane0 up",
)


class Lanes(LoadFileScheduling):
    """Gives each lane a file when it is about to be idle: the long ones first, the machine's own to the first lane."""

    def __init__(self, config, log=None):
        super().__init__(config, log)
        self._stays = {}

    def _assign_work_unit(self, node):
        scope = min(filter(lambda scope: self._fits(node, scope), self.workqueue), key=self._rank, default=None)
        if scope is None:  # all that is left is for the first lane
            node.shutdown()
            return
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _fits(self, node, scope):
        return node.gateway.id == FIRST or not self._needs_the_machine(scope)

    def _rank(self, scope):
        folder = next((number for number, start in enumerate(_LONG) if scope.startswith(start)), len(_LONG))
        return (not self._needs_the_machine(scope), folder)

    def _needs_the_machine(self, scope):
        if scope not in self._stays:
            with open(self.config.rootpath / scope, encoding="utf-8") as file:
                self._stays[scope] = _MARKED.search(file.read()) is not None
        return self._stays[scope]


_lanes = pytest.StashKey[Lanes]()


def pytest_xdist_make_scheduler(config, log):
    config.stash[_lanes] = Lanes(config, log)
    return config.stash[_lanes]


def pytest_configure(config):
    """Give this process what its lane has of its own; an ordinary user's lanes share the machine's network."""
    if hasattr(config, "workerinput"):
        signal.signal(signal.SIGINT, _interrupt)
        _let_others_in(os.path.dirname(os.path.dirname(config.option.basetemp)))
    if not _is_apart(config):
        return
    mount.enter_private_namespace(follow=True)
    libc.unshare(_CLONE_NEWNET)
    _show_own_devices()
    for words in _NETWORK:
        subprocess.run(["ip", *words.split()], check=True)
    os.makedirs("/run/envkit", exist_ok=True)
    mount.mount_tmpfs("/run/envkit", mode=0o755)


def pytest_runtest_setup(item):
    """A test that needs the machine's own must not be skipped for being in another lane."""
    marks = [mark for mark in _OF_THE_MACHINE if item.get_closest_marker(mark)]
    if marks and _is_apart(item.config):
        pytest.fail(f"write @pytest.mark.{marks[0]} or pytestmark = ..., so that the file stays in the first lane")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """After Ctrl-C or a first failure that was to be the last, wait for lanes that clean up; pytest-xdist kills them."""
    lanes = session.config.stash.get(_lanes, None)
    nodes = [] if lanes is None else [node for node in lanes.nodes if not node.channel.isclosed()]
    for node in nodes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(node.gateway._rinfo().pid, signal.SIGINT)
    deadline = time.monotonic() + CLEANING * SLOWNESS
    while not all(node.channel.isclosed() for node in nodes) and time.monotonic() < deadline:
        time.sleep(0.05)


def _interrupt(_number, _frame):
    """End this lane, once: a terminal interrupts all processes, and the one that started the lanes interrupts them."""
    signal.signal(signal.SIGINT, lambda *_: None)
    raise KeyboardInterrupt


def _is_apart(config):
    lane = getattr(config, "workerinput", {}).get("workerid", FIRST)
    return lane != FIRST and os.geteuid() == 0


def _let_others_in(directory):
    """Tests that have other users look at a file open two directories above it, and that of a lane is one deeper."""
    mode = stat.S_IMODE(os.stat(directory).st_mode)
    if not mode & stat.S_IXOTH:
        os.chmod(directory, mode | stat.S_IXGRP | stat.S_IXOTH)


def _show_own_devices():
    """A sysfs shows the network devices of the namespace in which it was mounted: mount another, with all below it."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        below = [place for place in (line.split()[4] for line in file) if place.startswith("/sys/")]
    tops = {place for place in below if not any(place.startswith(f"{other}/") for other in below)}
    flags = libc.OPEN_TREE_CLONE | libc.OPEN_TREE_CLOEXEC | libc.AT_RECURSIVE
    clones = {place: libc.open_tree(libc.AT_FDCWD, place, flags) for place in sorted(tops)}
    libc.mount("sysfs", "/sys", "sysfs")
    for place, clone in clones.items():
        mount.attach(clone, place)
