"""Owns a network of guests: a hub that passes what one guest's card sends on to all others.

It is a thread and some Unix sockets: nothing of it is to be seen in this machine's own network, and guests come and go as
machines at a hub do. What it does not get rid of in time it drops.
"""

import contextlib
import socket
import struct
import threading

_FRAME = 1 << 17
_PATIENCE = struct.pack("ll", 1, 0)


class Hub:
    """A hub with its sockets in a directory; it serves while the context lasts."""

    def __init__(self, directory):
        self._directory = directory
        self._ports = {}
        self._lock = threading.Lock()
        self.received = {}
        """How many bytes each guest was sent, by its name."""

    def __enter__(self):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"{self._directory}/hub")
        # A card whose queue is full is waited for, as long as its guest takes anything.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", f"{self._directory}/hub")
        self._thread.join()
        self._socket.close()

    def arguments(self, name):
        """Return QEMU's arguments for a guest with a card at this hub."""
        path = f"{self._directory}/{name}"
        with self._lock:
            assert name not in self.received
            self._ports[path] = name
            self.received[name] = 0
            address = f"52:54:00:00:00:{len(self._ports):02x}"
        sockets = "".join(
            f",{end}.type=unix,{end}.path={where.replace(',', ',,')}"
            for end, where in (("local", path), ("remote", f"{self._directory}/hub"))
        )
        return ["-netdev", f"dgram,id=hub{sockets}", "-device", f"virtio-net-pci,netdev=hub,mac={address}"]

    def unplug(self, name):
        """Take a guest's cable out."""
        with self._lock:
            del self._ports[f"{self._directory}/{name}"]

    def _serve(self):
        while True:
            frame, sender = self._socket.recvfrom(_FRAME)
            if not frame:
                return
            with self._lock:
                ports = dict(self._ports)
            if sender not in ports:
                continue
            for path, name in ports.items():
                # A guest that is off has no socket, or one that nobody has open; one that is stuck loses frames.
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                    if path != sender:
                        self._socket.sendto(frame, path)
                        self.received[name] += len(frame)


def connect(guest, name, number):
    """Give a guest a name and the address `address(number)` in the network of its hub."""
    # Frames as large as a cluster's, since an emulated processor is slow at each.
    script = 'card=$(basename /sys/class/net/en*) && hostname "$1" && ip address add "$2/24" dev "$card"'
    guest.sh(f'{script} && ip link set "$card" mtu 9000 up', name, address(number)).ok()


def address(number):
    """Return the address of a guest in the network of its hub."""
    return f"10.77.0.{number}"
