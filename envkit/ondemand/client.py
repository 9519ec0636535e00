"""Owns how a command reaches the image server, starting it where there is none."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence

from envkit.drivers.files import is_locked
from envkit.model.paths import Paths
from envkit.ondemand import holder
from envkit.ondemand.messages import ServerFailed, ServerGone, address, receive, send

_PATIENCE = 20.0
_STARTING = 40.0
_ANSWER = 120.0
# Twice as long each time: where a process takes seconds to begin, more of them would take what it needs.
_AGAIN = 0.5
_STOPPING = 3.0
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.05


class Client:
    """A connection to the image server. The server stays as long as there is one, or a container uses its files."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._root: int | None = None

    @classmethod
    def connect(cls, paths: Paths) -> "Client":
        """Connect to this node's image server; start it if it is not there.

        :raises ServerFailed: it does not come up.
        """
        connection = _try(paths)
        if connection is None:
            connection = _start(paths)
        connection.settimeout(_ANSWER)
        return cls(connection)

    @classmethod
    def find(cls, paths: Paths) -> "Client | None":
        """Connect to this node's image server if there is one."""
        connection = _try(paths)
        if connection is not None:
            connection.settimeout(_ANSWER)
        return None if connection is None else cls(connection)

    def open(self, layers: Sequence[str], store: Mapping[str, str]) -> str:
        """Tell where layers can be had; from then on `path` gives their files. Return the server's name for the store.

        :param store: what `given.describe` returns.
        """
        answer, descriptor = self.ask({"op": "open", "layers": list(layers), "store": dict(store)})
        if descriptor is None:
            raise ServerFailed("the image server gave no directory")
        if self._root is not None:
            os.close(self._root)
        self._root = descriptor
        return str(answer["store"])

    @staticmethod
    def stop(paths: Paths, *, force: bool = False) -> bool:
        """End this node's image server if no container uses it; return whether there is none any more.

        :param force: also if one does: whoever reads what is not in memory gets an error then, and nothing hangs.
        """
        client = None if force else Client.find(paths)
        if client is not None:
            try:
                client.ask({"op": "stop"})
            finally:
                client.close()
        end = time.monotonic() + _STOPPING
        while is_locked(paths.images_lock) and time.monotonic() < end:
            if force:  # again and again: one of them may just be starting the other
                for pid in holder.pids(paths):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(_LONGEST_PAUSE)
        return not is_locked(paths.images_lock)

    def path(self, name: str) -> str:
        """Return the path of a served file, good in this process while this client is open."""
        if self._root is None:
            raise ValueError("open first")
        return f"/proc/self/fd/{self._root}/{name}"

    def ask(self, message: Mapping[str, object], *, patience: float = _ANSWER) -> tuple[dict[str, object], int | None]:
        """Return the answer to a message, and the descriptor that came with it; waits for `patience` seconds.

        :raises ServerFailed: the server could not.
        :raises ServerGone: it is gone.
        """
        self._connection.settimeout(patience)
        try:
            send(self._connection, message)
            received = receive(self._connection)
        except ConnectionError as error:
            raise ServerGone from error
        except OSError as error:
            raise ServerFailed(f"the image server does not answer: {error.strerror or error}") from error
        if received is None:
            raise ServerGone
        answer, descriptor = received
        if answer.get("ok") is not True:
            hint = answer.get("hint")
            raise ServerFailed(str(answer.get("error")), resolution=hint if isinstance(hint, str) else None)
        return answer, descriptor

    def close(self) -> None:
        """Let the server go."""
        if self._root is not None:
            os.close(self._root)
            self._root = None
        self._connection.close()


def _try(paths: Paths) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(_PATIENCE)
    try:
        with address(paths.images_socket) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        return None
    return connection


def _start(paths: Paths) -> socket.socket:
    """Start the server and connect to it; again if it was just ending when it was found."""
    started = time.monotonic()
    end, again = started + _STARTING, 0.0
    pause = _FIRST_PAUSE
    while (now := time.monotonic()) < end:
        if now - started >= again:
            holder.start(paths)
            started, pause = now, _FIRST_PAUSE
            again = 2 * again or _AGAIN
        connection = _try(paths)
        if connection is not None:
            return connection
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.3)
    raise ServerFailed(
        "the image server did not start", details=_last_words(paths), resolution="use --eager to do without it"
    )


def _last_words(paths: Paths) -> str | None:
    try:
        with open(paths.images_log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
            return file.read(2000).decode("utf-8", "replace").strip() or None
    except OSError:
        return None
