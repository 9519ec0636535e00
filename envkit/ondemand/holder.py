"""Owns the pair of processes behind the image server, and what they hold between them.

Two processes have the same descriptors: /dev/fuse, the listening socket, the journal and the lock. The *server* does
the work. The *holder* does nothing but start another server when it dies; and should the holder die, the server starts
another holder. So the kernel's requests survive the death of either. Only if both die at once is the connection gone;
then readers get an error, never anything wrong.

They leave the terminal, the session and the control group of whoever started them: the end of a job, or of a login,
must not take the file systems of other jobs with it.
"""

import contextlib
import os
import select
import signal
import socket
import time

from envkit.drivers import cgroup, detached, fuse
from envkit.drivers.files import is_locked, make_directory, read_text, try_lock
from envkit.drivers.mount import enter_private_namespace
from envkit.model.paths import Paths
from envkit.ondemand.journal import Journal, create_journal
from envkit.ondemand.log import complain
from envkit.ondemand.messages import address

GROUP = "envkit-images"
_BACKLOG = 128
# A server that lived for less than this many seconds is started again a little later each time.
_YOUNG = 2.0
_LONGEST_PAUSE = 5.0
_PROGRAM = "from envkit.ondemand.main import main; main()"
# Dozens of threads, each with an arena of its own, would keep ten times the memory that is in use.
_VARIABLES = {"MALLOC_ARENA_MAX": "2"}


def start(paths: Paths) -> None:
    """Start the pair, detached from this process. If there is one already, the new one ends at once."""
    make_directory(paths.run, mode=0o755)
    arguments = [paths.root, "new", "", "0"]
    detached.start(_PROGRAM, arguments, what="the image server", log=paths.images_log, env=_VARIABLES)


def start_if_missing(paths: Paths) -> None:
    """Start the pair if there seems to be none; who connects looks again."""
    if not os.path.exists(paths.images_socket):
        start(paths)


class Held:
    """What both processes hold."""

    def __init__(self, paths: Paths, fuse_descriptor: int, listener: int, journal: int, lock: int, log: int) -> None:
        self.paths = paths
        self.fuse = fuse_descriptor
        self.listener = listener
        self.journal = journal
        self.lock = lock
        self.log = log

    @classmethod
    def inherited(cls, paths: Paths, numbers: str) -> "Held":
        """Return what the process that started this one has passed on."""
        descriptors = [int(number) for number in numbers.split(",")]
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # noqa: FBT003
        return cls(paths, *descriptors)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of it, in the order of the constructor."""
        return (self.fuse, self.listener, self.journal, self.lock, self.log)

    def note(self, holder: int, server: int) -> None:
        """Leave word who the two are, see `pids`."""
        os.pwrite(self.lock, f"{holder:>10} {server:>10}\n".encode(), 0)

    def spawn(self, role: str) -> int:
        """Start the other one of the pair; return its pid."""
        numbers = ",".join(map(str, self.descriptors))
        arguments = [self.paths.root, role, numbers, str(os.getpid())]
        return detached.spawn(_PROGRAM, arguments, log=self.log, keep=self.descriptors, env=_VARIABLES)


def begin(paths: Paths, *, keep: bool = False) -> "Held | None":
    """Be the first process of a new pair: mount, listen; return what both are to hold, or None if there is a pair.

    :param keep: the server stays when nobody needs it, in the control group that it was started in.
    """
    lock = try_lock(paths.images_lock)
    if lock is None:
        return None
    if not keep:
        _leave_groups()
    enter_private_namespace(follow=True)
    os.makedirs(paths.images, mode=0o700, exist_ok=True)
    descriptor = fuse.mount(paths.images)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(paths.images_socket)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    previous = os.umask(0o177)
    with address(paths.images_socket) as path:
        listener.bind(path)
    os.umask(previous)
    listener.listen(_BACKLOG)
    memory = create_journal()
    if keep:
        Journal(memory).keep()
    return Held(paths, descriptor, listener.detach(), memory, lock, os.dup(2))


def pids(paths: Paths) -> tuple[int, ...]:
    """Return the holder and the server of this node, as far as they are alive."""
    if not is_locked(paths.images_lock):
        return ()
    words = read_text(paths.images_lock, 64).split()
    return tuple(int(word) for word in words if word.isdecimal())


def hold(held: Held, server: int) -> None:
    """Start another server whenever one dies; return when one has ended because it was no longer needed."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    journal = Journal(held.journal)
    young = 0
    while True:
        began = time.monotonic()
        held.note(os.getpid(), server)
        wait_for(server)
        if journal.ended:
            return
        young = young + 1 if time.monotonic() - began < _YOUNG else 0
        complain(f"the image server ended (process {server}); starting another")
        time.sleep(min(_LONGEST_PAUSE, 0.1 * (2**young - 1)))
        server = held.spawn("server")


def wait_for(pid: int) -> None:
    """Wait for the end of a process, child or not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        descriptor = None
    if descriptor is not None:
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll()
        finally:
            os.close(descriptor)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _leave_groups() -> None:
    try:
        cgroup.leave(GROUP)
    except OSError as error:
        complain(f"the image server stays in the control group of what started it: {error}")
