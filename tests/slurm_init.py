"""Owns the first process of a head or node of `slurm_cluster.py`: it starts programs, reaps, and ends them when told.

Each head and each node has namespaces of its own for pids, mounts and the host name, so that nothing of it outlives
this process. Whoever may connect to its socket learns its pid from the kernel (`SO_PEERCRED`), in any pid namespace.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys

LIMIT = 1 << 16
"""Bytes of a request; they are from the owner of the cluster."""


class Init:
    """What runs here: name to pid. One request is answered after the other."""

    def __init__(self):
        self._pids = {}

    def start(self, *, name, argv, environment, log):
        """Start a program in a session of its own; its output goes to a file."""
        if name in self._pids:
            raise ValueError(f"{name} runs already")
        streams = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        self._pids[name] = os.posix_spawnp(argv[0], argv, environment, file_actions=streams, setsid=True)

    def end(self, *, name, number):
        """Send a signal, if the program still runs, and wait for its end."""
        if name in self._pids:
            os.kill(self._pids[name], number)
        while name in self._pids:
            self._forget(os.wait()[0])

    def runs(self, *, name):
        """Tell whether a program runs."""
        return name in self._pids

    def reap(self):
        """Take note of what has ended."""
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self._forget(pid)

    def _forget(self, pid):
        self._pids = {name: value for name, value in self._pids.items() if value != pid}

    def answer(self, connection):
        """Read a request up to its end, do it, and say what came of it."""
        request = b""
        while len(request) < LIMIT and (more := connection.recv(LIMIT)):
            request += more
        words = json.loads(request or b"{}")
        if not words:  # somebody who only wanted to know the pid
            return
        operation = {"start": self.start, "end": self.end, "runs": self.runs}[words.pop("do")]
        try:
            reply = {"value": operation(**words)}
        except (OSError, ValueError) as error:
            reply = {"error": str(error)}
        connection.sendall(json.dumps(reply).encode())

    def serve(self, path):
        """Answer for as long as the machine lives."""
        awake, wakes = os.pipe()
        for descriptor in (awake, wakes):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX)
        os.umask(0o177)  # root's alone
        listener.bind(path)
        os.umask(0o022)
        listener.listen(64)
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(awake, selectors.EVENT_READ)
        while True:
            if any(key.fileobj == awake for key, _ in selector.select()):
                os.read(awake, LIMIT)
                self.reap()
                continue
            with listener.accept()[0] as connection, contextlib.suppress(ConnectionError):
                self.answer(connection)


def main():
    """Arguments: name, socket, then words for mount(8), each call ended by `;`."""
    name, path, *words = sys.argv[1:]
    while words:
        end = words.index(";")
        subprocess.run(["mount", *words[:end]], check=True)
        words = words[end + 1 :]
    socket.sethostname(name)
    Init().serve(path)


if __name__ == "__main__":
    main()
