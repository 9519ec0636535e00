"""Runs inside a guest, as a systemd service: commands of the host, which come over a virtio-serial port.

Both directions carry frames: a kind (one byte), the length of what follows (four bytes, big-endian), that. The host
sends `c`, a command as JSON; the guest sends `r` once it has booted, then for each command any number of `o` and `e`,
pieces of its standard output and errors, and `x`, its exit code. One command runs at a time.
"""

import json
import os
import selectors
import signal
import struct
import subprocess
import time

PORT = "/dev/virtio-ports/envkit.agent"
HEADER = struct.Struct(">cI")


def main():
    """Say that the guest is ready, then serve for ever."""
    state = subprocess.run(["systemctl", "is-system-running", "--wait"], stdout=subprocess.PIPE, check=False).stdout
    while not os.path.exists(PORT):  # its driver may be loaded after all else
        time.sleep(0.1)
    with open(PORT, "r+b", buffering=0) as port:
        send(port, b"r", state.strip())
        while True:
            kind, payload = receive(port)
            if kind == b"c":
                run(port, json.loads(payload))


def send(port, kind, payload):
    """Write one frame."""
    data = memoryview(HEADER.pack(kind, len(payload)) + payload)
    while data:
        data = data[port.write(data) :]


def receive(port):
    """Read one frame."""
    kind, length = HEADER.unpack(exactly(port, HEADER.size))
    return kind, exactly(port, length)


def exactly(port, count):
    """Read so many bytes; where no host is connected there are none for a while."""
    data = b""
    while len(data) < count:
        piece = port.read(count - len(data))
        if not piece:
            time.sleep(0.05)
        data += piece or b""
    return data


def run(port, command):
    """Run a command and send what it says and how it ends; 124 where it took too long, and was killed."""
    try:
        process = subprocess.Popen(
            command["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=command["env"],
            cwd=command["cwd"],
            start_new_session=True,
        )
    except OSError as error:
        send(port, b"e", f"{command['argv'][0]}: {error.strerror}\n".encode())
        send(port, b"x", b"127")
        return
    deadline = time.monotonic() + command["timeout"]
    late = False
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, b"o")
        selector.register(process.stderr, selectors.EVENT_READ, b"e")
        # What the command left behind may keep the pipes open for ever: they count only as long as it runs.
        while selector.get_map():
            ready = selector.select(0.2)
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if data:
                    send(port, key.data, data)
                else:
                    selector.unregister(key.fileobj)
            if not ready and process.poll() is not None:
                break
            if not late and time.monotonic() > deadline:
                late = True
                os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    send(port, b"x", b"124" if late else str(128 - code if code < 0 else code).encode())


if __name__ == "__main__":
    main()
