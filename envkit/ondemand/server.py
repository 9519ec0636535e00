"""Owns the life of the image server: what it consists of, its rounds of housekeeping, and when it ends.

It ends when no client is connected and its file system can be unmounted, that is when no container has a layer open;
the kernel knows that better than any count kept here.
"""

import contextlib
import errno
import math
import os
import signal
import threading
import time

from envkit.drivers import libc
from envkit.model.paths import Paths
from envkit.ondemand.background import Background
from envkit.ondemand.control import Control
from envkit.ondemand.fetcher import Fetcher, Priority
from envkit.ondemand.holder import Held, wait_for
from envkit.ondemand.journal import Journal
from envkit.ondemand.layers import Layers
from envkit.ondemand.log import complain
from envkit.ondemand.loop import Loop
from envkit.ondemand.sources import Stores
from envkit.ondemand.stacks import Stacks

_ROUND = 1.0
_SHORT_ROUND = 0.05
IDLE = 30.0
"""Seconds for which nobody needs the server before it ends."""


def serve(held: Held, holder: int) -> None:
    """Serve until nobody needs it any more; then everything that it held is gone."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_replace_holder, args=(held, holder), name="holder", daemon=True).start()
    journal = Journal(held.journal)
    fetcher, stores = Fetcher(), Stores()
    stacks = Stacks(held.paths, fetcher, stores)
    layers = Layers(held.paths, journal, fetcher, stores, stacks)
    stacks.layers = layers
    loop = Loop(held.fuse, journal, layers)
    control = Control(held, layers, stores, stacks, fetcher)
    background = Background(
        layers=lambda: [layer for layer in layers.opened() if not layer.cached.complete],
        drop=lambda: fetcher.drop(Priority.BACKGROUND),
        bandwidth=lambda: fetcher.link.bandwidth,
    )
    layers.on_demand = background.demand
    loop.start()
    control.start()
    threading.Thread(target=background.run, args=(threading.Event(),), name="background", daemon=True).start()
    _housekeeping(held.paths, loop, control, layers, stacks, idle=math.inf if journal.kept else IDLE)
    journal.end()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(held.paths.images_socket)
    for layer in layers.opened():
        layer.flush()
    os._exit(0)


def _housekeeping(paths: Paths, loop: Loop, control: Control, layers: Layers, stacks: Stacks, *, idle: float) -> None:
    """Make durable what has come, every second, until nobody needs the server any more."""
    needed = time.monotonic()
    while not loop.wait(_SHORT_ROUND if control.stopping else _ROUND):
        try:
            for layer in layers.opened():
                layer.flush()
            layers.forget_removed()
            stacks.round()
            loop.let_killed_go()
        except Exception as error:  # noqa: BLE001  # the readers must not suffer from it
            complain(f"housekeeping: {type(error).__name__}: {error}")
        if control.clients or loop.waiting or (stacks.busy and not control.stopping):
            needed = time.monotonic()
            continue
        unneeded = control.stopping or time.monotonic() - needed > idle
        if unneeded and control.end_if_unused(lambda: _unmounted(paths)):
            return


def _unmounted(paths: Paths) -> bool:
    """Unmount, if no container has anything open; who has removed the place has unmounted it."""
    try:
        libc.umount(paths.images)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.EINVAL)
    return True


def _replace_holder(held: Held, holder: int) -> None:
    """Start another holder whenever one dies."""
    while True:
        wait_for(holder)
        complain(f"the holder of the image server ended (process {holder}); starting another")
        time.sleep(0.1)
        holder = held.spawn("holder")
