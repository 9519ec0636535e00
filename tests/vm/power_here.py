"""Owns power cuts of this machine's own kernel: a disk that forgets is mounted and saved to here, by processes as usual.

No guest and no boot: whatever was written is looked at as of many moments, each of which is what a power cut would have
left. QEMU's storage daemon makes a file of the disk, a loop device of the kernel makes a disk of the file; a flush goes
all the way.
"""

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import time

from commandline import CHECKOUT, PATIENCE, Envkit, wait_until
from vm.cutdisk import Disk
from vm.moments import in_memory
from vm.power import BEFORE, CARELESS, ENV, NEVER_SYNCS
from vm.promises import Promises, Run

from envkit.drivers.process import start_time

_BYTES = 1 << 30


class PowerHere:
    """A disk that is mounted on this machine, with a base and a session; a context manager. `directory` is a new one."""

    def __init__(self, directory):
        self.directory = directory
        self._promises = Promises({}, {})

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            memory = stack.enter_context(in_memory(self.directory))
            self.moment = f"{memory}/moment"
            """Where there is space for one more disk."""
            os.mkdir(f"{memory}/here")
            self._disk = stack.enter_context(Disk(memory, _BYTES))
            file = stack.enter_context(_as_file(self._disk, f"{memory}/file"))
            subprocess.run(["mkfs.ext4", "-q", "-J", "size=16", file], check=True)
            self._place = stack.enter_context(_mounted(file, f"{memory}/here"))
            self._envkit = Envkit(f"{self._place}/root")
            stack.callback(self._envkit, "cache", "stop", "--force")
            self._make_base(f"{memory}/tiny")
            self._open(ENV, stack)
            self._envkit("exec", ENV, "--", *shlex.split(BEFORE)).ok()
            self._open(CARELESS, stack)
            self._end(CARELESS)
            self._close = stack.pop_all().close
        return self

    def __exit__(self, *_):
        self._close()

    def run(self, *, saves):
        """Save so many times, and then some more; return the `Run`."""
        return self._run(ENV, self._envkit.argv(), saves)

    def careless_run(self, *, saves):
        """The same in an environment of its own, by an envkit that never waits for the disk."""
        return self._run(CARELESS, [sys.executable, "-c", NEVER_SYNCS], saves)

    def _run(self, env, command, saves):
        os.sync()
        run = Run(self._disk.record(), self._promises)
        argv = [sys.executable, f"{CHECKOUT}/tests/vm/power_writer.py", env, f"{self._place}/loose", *command]
        environment = self._envkit.environment(more={"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/tests"})
        with open(f"{self.directory}/errors", "wb") as errors:
            writer = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=errors, env=environment, start_new_session=True
            )
        try:
            deadline = time.monotonic() + saves * PATIENCE
            while run.saves < saves:
                ready, _, _ = select.select([writer.stdout], [], [], max(0.0, deadline - time.monotonic()))
                assert ready, f"the writer hangs after {run.saves} saves"
                said = os.read(writer.stdout.fileno(), 65_536)
                assert said, f"the writer ended with {writer.wait()}: {self._errors()}"
                run.hear(said)
        finally:
            os.killpg(writer.pid, signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
            self._end(env)
        return run

    def _errors(self):
        with open(f"{self.directory}/errors", encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]

    def _end(self, env):
        """End a session's container, as a power cut does: the one on a moment's disk is the same, and begins anew."""
        monitor = self._envkit.monitor(env)
        with contextlib.suppress(ProcessLookupError):
            os.kill(monitor, signal.SIGKILL)
        wait_until(lambda: start_time(monitor) is None, "the container's monitor ends")

    def _make_base(self, tree):
        for name in ("bin", "dev", "etc", "opt", "proc", "root", "run", "sys", "tmp", "var"):
            os.makedirs(f"{tree}/{name}")
        subprocess.run(["cp", "/bin/busybox", f"{tree}/bin/busybox"], check=True)
        subprocess.run([f"{tree}/bin/busybox", "--install", f"{tree}/bin"], check=True)
        with open(f"{tree}/etc/passwd", "w", encoding="ascii") as file:
            file.write("root:x:0:0:root:/root:/bin/sh\n")
        self._envkit("base", "import", "tiny", tree).ok()

    def _open(self, env, stack):
        self._envkit("create", env, "--base", "tiny", "--no-shell").ok()
        stack.callback(self._envkit, "close", env, "--discard")


@contextlib.contextmanager
def _as_file(disk, path):
    """A context in which there is a file that is the disk."""
    with open(path, "wb"):
        pass
    argv = ["setpriv", "--pdeathsig", "TERM", "--", "qemu-storage-daemon"]
    argv += ["--blockdev", f"driver=nbd,node-name=cut,server.type=unix,server.path={disk.socket.replace(',', ',,')}"]
    argv += ["--export", f"type=fuse,id=cut,node-name=cut,mountpoint={path.replace(',', ',,')},writable=on"]
    daemon = subprocess.Popen(argv)
    try:
        wait_until(lambda: daemon.poll() is not None or os.stat(path).st_size == _BYTES, "the disk is a file")
        assert daemon.poll() is None, "qemu-storage-daemon does not start"
        yield path
    finally:
        daemon.terminate()
        daemon.wait()


@contextlib.contextmanager
def _mounted(file, directory):
    subprocess.run(["mount", "-o", "loop", file, directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
