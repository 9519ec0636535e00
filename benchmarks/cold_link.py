"""Owns the emulated link of `cold_start`: a client's and a server's network namespace, and what goes between them.

`netdelay.c` is the link; the namespaces are its, and end with it. This process enters the client's, so that everything
it starts is there; what has to be at the other end is started with `at_server`.
"""

import ctypes
import mmap
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CLIENT = "10.98.0.1"
SERVER = "10.98.0.2"
SOURCE = Path(__file__).parent / "netdelay.c"
_FIELDS = 5
_CLONE_NEWNET = 0x40000000
_SENDER = """\
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    connection = server.accept()[0]
    piece = bytes(1 << 20)
    try:
        while True:
            connection.sendall(piece)
    except OSError:
        pass
"""


_FORWARDING = """\
table ip forwarding {{
    chain incoming {{
        type nat hook prerouting priority -100;
        iifname link tcp dport {port} dnat to 127.0.0.1;
    }}
}}
"""


@dataclass(frozen=True)
class Profile:
    """Round trip and queue in milliseconds, rate in Mbit/s."""

    name: str
    round_trip: float
    rate: float
    queue: float

    def __str__(self) -> str:
        return f"{self.name}: {self.round_trip:g} ms round trip, {self.rate:g} Mbit/s"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("s3", 20, 1000, 20),
        Profile("lan", 1, 2500, 8),
        Profile("wan", 40, 100, 60),
    )
}


@dataclass(frozen=True)
class Traffic:
    """What went over the link, in bytes and numbers; `sent` is by the client."""

    sent: int = 0
    received: int = 0
    dropped: int = 0
    connections: int = 0
    requests: int = 0

    def __sub__(self, before: "Traffic") -> "Traffic":
        return Traffic(
            self.sent - before.sent,
            self.received - before.received,
            self.dropped - before.dropped,
            self.connections - before.connections,
            self.requests - before.requests,
        )

    @property
    def bytes(self) -> int:
        return self.sent + self.received


class Link:
    """The link of a profile; a context manager."""

    def __init__(self, profile: Profile, scratch: Path) -> None:
        self.profile = profile
        self._scratch = scratch

    def __enter__(self) -> "Link":
        program = self._scratch / "netdelay"
        counters = self._scratch / "counters"
        _compile(program)
        profile = self.profile
        timing = (profile.round_trip * 500, profile.rate, profile.queue * 1000)
        argv = [os.fspath(program), *(f"{value:.0f}" for value in timing), CLIENT, SERVER, os.fspath(counters)]
        # In a session of its own: Ctrl-C is for this process, which ends the link last.
        self._relay = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert self._relay.stdout is not None
            line = self._relay.stdout.readline().split()
            if len(line) != 2:
                raise SystemExit("the link cannot be made: see above")
            client, self._server = (f"/proc/{self._relay.pid}/fd/{number}" for number in line)
            with open(counters, "r+b") as file:
                self._counters = mmap.mmap(file.fileno(), _FIELDS * 2 * 8, prot=mmap.PROT_READ)
            self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _enter(client)
            _remember_nothing()
            subprocess.run(self.at_server("sh", "-c", _SERVER_SETTINGS), check=True)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _enter(f"/proc/self/fd/{self._home}")
        self._end()

    def _end(self) -> None:
        self._relay.kill()
        self._relay.wait()

    def at_server(self, *argv: str) -> list[str]:
        """Return a command line that runs another in the server's namespace."""
        return ["nsenter", f"--net={self._server}", "--", *argv]

    def traffic(self) -> Traffic:
        """Return what has gone over the link so far."""
        values = struct.unpack(f"{_FIELDS * 2}Q", self._counters[:])
        (sent, _, lost, connections, requests), (received, _, dropped, *_) = values[:_FIELDS], values[_FIELDS:]
        return Traffic(sent, received, lost + dropped, connections, requests)

    @property
    def processor(self) -> float:
        """Seconds that the link itself has used."""
        fields = Path(f"/proc/{self._relay.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forward(self, port: int) -> None:
        """Let the client reach a server that listens on the loopback device at the server's end only."""
        rules = _FORWARDING.format(port=port)
        subprocess.run(self.at_server("nft", "-f", "-"), input=rules, text=True, check=True)

    def check(self) -> str:
        """Measure the link, idle and with one stream; return what to print.

        :raises SystemExit: it is not what its profile says.
        """
        pinged = subprocess.run(
            ["ping", "-q", "-n", "-c", "20", "-i", "0.05", SERVER], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)/", pinged)
        if found is None:
            raise SystemExit(f"ping says nothing of its times: {pinged}")
        round_trip = float(found[2])
        rate = self._one_stream()
        if not 0.98 <= round_trip / self.profile.round_trip <= 1.5 or not 0.5 <= rate / self.profile.rate <= 1.02:
            raise SystemExit(f"the link has {round_trip:.1f} ms and {rate:.0f} Mbit/s, not {self.profile}")
        return f"{self.profile}; measured {round_trip:.2f} ms, {rate:.0f} Mbit/s in one stream"

    def _one_stream(self) -> float:
        """Return the Mbit/s of one TCP connection when it has got up to speed."""
        argv = self.at_server(sys.executable, "-c", _SENDER, SERVER)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as sender:
            assert sender.stdout is not None
            try:
                with socket.create_connection((SERVER, int(sender.stdout.readline())), timeout=10) as connection:
                    begin = time.monotonic()
                    size, since = 0, 0.0
                    while (elapsed := time.monotonic() - begin) < 3:
                        length = len(connection.recv(1 << 20))
                        if elapsed > 1:
                            since = since or elapsed
                            size += length
                    return size * 8 / 1e6 / (elapsed - since)
            finally:
                sender.kill()


# The servers of S3 are on loopback; every connection is to begin anew, whatever earlier ones learned.
_SERVER_SETTINGS = """
echo 1 >/proc/sys/net/ipv4/conf/link/route_localnet
echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save
"""


def _remember_nothing() -> None:
    Path("/proc/sys/net/ipv4/tcp_no_metrics_save").write_text("1")


def _compile(program: Path) -> None:
    if shutil.which("gcc") is None:
        raise SystemExit("not installed: gcc. Run scripts/provision --bench")
    warnings = ["-Wall", "-Wextra", "-Wno-address-of-packed-member"]
    subprocess.run(["gcc", "-O2", *warnings, "-o", program, SOURCE, "-lpthread"], check=True)


def _enter(path: str) -> None:
    """Enter a network namespace, with this thread and all processes that it will start."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as space:
        if libc.setns(space.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns", path)
