"""Owns a guest: a QEMU machine on a disk of its own, and commands that run inside it.

A guest is booted, runs commands, is powered off, killed as by a power cut, and booted again with the same disk. The
image below its disk is never written. Commands come over a virtio-serial port (`agent.py` has the format), so that a guest
needs no network.
"""

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from vm.agent import HEADER
from vm.image import require_programs

BOOT_SECONDS = 600.0
"""Patience with a boot: half a minute is usual where the processor is emulated, and has a core of this machine."""

_BOOTS = 2
"""How often a boot is tried. Emulated processors keep no time while this machine gives them none, and kernels panic or
hang when the timers that they calibrate do not tick."""

_CONSOLE_LINES = 25
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}
_KERNEL = "root=/dev/vda rw console=ttyS0 apparmor=1 security=apparmor panic=-1 quiet loglevel=4"
# What an emulated processor is slow at and nothing here depends on: clocks other than its own, thunks against
# speculation, which it does not do, page tables of five levels. And it may miss the first ticks of a timer.
_EMULATED = "no_timer_check tsc=reliable mitigations=off no5lvl"
# Nobody logs in where commands come over a port.
_UNATTENDED = "systemd.mask=serial-getty@ttyS0.service systemd.mask=getty@tty1.service"
_PANIC = b"Kernel panic"


class GuestFailed(Exception):
    """A guest did not boot, or ended before it should: the text has the last lines of its console."""


class _Hung(GuestFailed):
    """A guest was not up in time."""


def say(line):
    """Tell whoever runs this what happens."""
    print(f"vm: {line}", file=sys.stderr, flush=True)  # noqa: T201


class Outcome(NamedTuple):
    """What a command inside did: its exit code, standard output and errors."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self):
        """Standard output without the last line break."""
        return self.out.decode("utf-8", "replace").removesuffix("\n")

    def ok(self):
        """It went well; return `text`.

        :raises AssertionError: it did not.
        """
        said = self.err.decode("utf-8", "replace")
        assert self.code == 0, f"exit code {self.code}\n{self.text[-2000:]}\n{said[-4000:]}"
        return self.text


class Guest:
    """A machine with a disk over an image; a context manager that leaves no process and no disk behind.

    `disks` are files that it sees read-only as /dev/vdb and so on. `arguments` are more of QEMU's, as for a network.
    """

    def __init__(self, image, *, log, memory=4096, processors=2, disks=(), arguments=()):
        """:param log: the directory of `console.log`; `memory` in MiB."""
        require_programs("qemu-system-x86_64", "qemu-img")
        self.console = f"{log}/console.log"
        self._image = image
        self._shape = ["-m", str(memory), "-smp", str(processors)]
        self._disks = disks
        self._arguments = arguments
        self._in_use = image.in_use()
        self._scratch = tempfile.mkdtemp(prefix="envkit-vm-", dir=os.environ.get("ENVKIT_TEST_DIR", "/var/tmp"))
        self._process = None
        self._port = None
        self.state = ""
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", os.path.abspath(image.disk)]
        subprocess.run([*argv, f"{self._scratch}/disk"], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self._scratch)
        os.close(self._in_use)

    @property
    def running(self):
        """Whether the machine is on."""
        return self._process is not None and self._process.poll() is None

    def boot(self, *, patience=BOOT_SECONDS, attempts=_BOOTS):
        """Switch it on and wait until it takes commands; `state` is then what systemd says of itself.

        A boot that panics or hangs is told and tried again, with the disk as it is: nothing has run yet but the boot. What
        a broken disk does to a boot, it does each time.

        :raises GuestFailed: it did not come so far.
        """
        for left in range(attempts - 1, -1, -1):
            before = self._console_size()
            try:
                self._boot(patience)
            except GuestFailed as failure:
                panicked = self._panicked(before)
                if left == 0 or not (panicked or isinstance(failure, _Hung)):
                    raise
                say(f"the boot {'panicked' if panicked else 'hung'}, tried again: {failure}")
            else:
                return

    def _boot(self, patience):
        assert not self.running
        path = f"{self._scratch}/port"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        deadline = time.monotonic() + patience
        with socket.socket(socket.AF_UNIX) as listener, open(f"{self._scratch}/errors", "wb") as errors:
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(1)
            self._process = subprocess.Popen(
                self._argv(
                    path, ["-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"]
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            while self._port is None:
                if not self.running or time.monotonic() > deadline:
                    self.kill()
                    raise GuestFailed(f"QEMU does not start: {self._errors()}")
                with contextlib.suppress(TimeoutError):
                    self._port, _ = listener.accept()
        try:
            kind, payload = self._receive(deadline)
        except TimeoutError:
            self.kill()
            raise _Hung(f"the guest was not up within {patience:.0f} s{self._last_lines()}") from None
        assert kind == b"r", kind
        self.state = payload.decode()

    def run(self, *argv, env=None, cwd="/", timeout=600.0, output=None):
        """Run a command as root; return its Outcome. With code 124 it was killed after `timeout` seconds.

        :param output: called with each piece of standard output and errors as it comes.
        :raises GuestFailed: the guest ended.
        """
        if self._port is None:
            raise GuestFailed("the guest is off")
        command = {"argv": argv, "env": _ENVIRONMENT | (env or {}), "cwd": cwd, "timeout": timeout}
        payload = json.dumps(command).encode()
        collected = {b"o": bytearray(), b"e": bytearray()}
        # The agent ends a command that takes too long. Should it be the guest that hangs, this ends the guest.
        deadline = time.monotonic() + timeout + 60
        try:
            self._port.sendall(HEADER.pack(b"c", len(payload)) + payload)
            while True:
                kind, payload = self._receive(deadline)
                if kind == b"x":
                    return Outcome(int(payload), bytes(collected[b"o"]), bytes(collected[b"e"]))
                collected[kind] += payload
                if output is not None:
                    output(payload)
        except TimeoutError:
            self.kill()
            raise GuestFailed(f"the guest does not answer{self._last_lines()}") from None
        except OSError as error:
            raise GuestFailed(f"the guest is gone: {error}{self._last_lines()}") from error

    def sh(self, script, *words, **options):
        """Run a shell script as root, as `run` does."""
        return self.run("/bin/sh", "-c", script, "sh", *words, **options)

    def power_off(self, *, patience=180.0):
        """Shut it down as its administrator would; kill it where that does not end.

        :raises GuestFailed: it did not end by itself.
        """
        # systemctl may be gone together with the machine before its exit code comes.
        with contextlib.suppress(GuestFailed):
            self.run("systemctl", "poweroff", "--no-block", timeout=60)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise GuestFailed(f"the guest did not power off within {patience:.0f} s{self._last_lines()}") from None
        self.kill()

    def kill(self):
        """Cut the power: what the guest had not written to its disk is lost. No error if it is off."""
        if self._port is not None:
            self._port.close()
            self._port = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def cut(self):
        """Cut the power from another thread: `run`, which waits in this one, raises GuestFailed."""
        self._process.kill()

    def interact(self):
        """Switch it on with its console on this terminal, until it is off."""
        assert not self.running
        argv = self._argv(None, ["-serial", "mon:stdio"])
        return subprocess.run(argv, check=False).returncode

    def _argv(self, port, console):
        argv = ["setpriv", "--pdeathsig", "KILL", "--"]  # the kernel ends it when this process dies
        argv += ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        accelerator, processor, settings = _acceleration()
        argv += ["-machine", "q35", "-accel", accelerator, "-cpu", processor]
        argv += [*self._shape, *console]
        argv += ["-kernel", self._image.kernel, "-initrd", self._image.initrd, "-append"]
        argv.append(" ".join([_KERNEL, settings, *([] if port is None else [_UNATTENDED])]))
        # The host keeps what a guest has written even when QEMU is killed; it is the guest's own memory that is lost.
        argv += _drive("root", f"{self._scratch}/disk", "format=qcow2,cache=unsafe,discard=unmap")
        for number, path in enumerate(self._disks):
            argv += _drive(f"disk{number}", path, "format=raw,readonly=on")
        argv += ["-device", "virtio-rng-pci"]
        if port is not None:
            argv += ["-chardev", f"socket,id=agent,path={port}", "-device", "virtio-serial-pci"]
            argv += ["-device", "virtserialport,chardev=agent,name=envkit.agent"]
        return [*argv, *self._arguments]

    def _receive(self, deadline):
        kind, length = HEADER.unpack(self._exactly(HEADER.size, deadline))
        return kind, self._exactly(length, deadline)

    def _exactly(self, count, deadline):
        data = b""
        while len(data) < count:
            if not select.select([self._port], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            piece = self._port.recv(count - len(data))
            if not piece:
                self.kill()
                said = self._errors()
                raise GuestFailed(f"the guest ended{': ' + said if said else ''}{self._last_lines()}")
            data += piece
        return data

    def _errors(self):
        """Return what QEMU complained about."""
        with open(f"{self._scratch}/errors", encoding="utf-8", errors="replace") as file:
            return file.read().strip()

    def _console_size(self):
        return os.stat(self.console).st_size if os.path.exists(self.console) else 0

    def _panicked(self, since):
        """Whether the kernel gave up after the console had that size."""
        if self._console_size() <= since:
            return False
        with open(self.console, "rb") as file:
            file.seek(since)
            return _PANIC in file.read()

    def _last_lines(self):
        try:
            with open(self.console, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()[-_CONSOLE_LINES:]
        except FileNotFoundError:
            lines = []
        return "; the end of its console:\n" + "\n".join(f"    {line}" for line in lines)


def _acceleration():
    """Return QEMU's accelerator, its processor, and what the kernel is told of it.

    It is KVM where the processor has it, not wherever there is a /dev/kvm that some host offers.
    """
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    if ("vmx" in flags or "svm" in flags) and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "kvm", "max", ""
    # Programs that may copy bytes by one instruction do; here it is a loop over single bytes.
    return "tcg,thread=multi,tb-size=512", "max,-erms,-smap", _EMULATED


def _drive(name, path, options):
    drive = f"id={name},if=none,file={path.replace(',', ',,')},{options}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}"]
