"""Owns how the image server is spoken to: JSON, a packet a message, over a socket that only root can open.

A client asks, the server answers once; the connection stays open for as long as the client uses what it was given.
`{"op": ..., ...}` is answered by `{"ok": true, ...}` or `{"ok": false, "error": "...", "hint": ...}`.
"""

import array
import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping

from envkit.errors import EnvkitError

MAX_MESSAGE = 160 << 10
_Message = dict[str, object]


class ServerFailed(EnvkitError):
    """The image server could not do what was asked, or is gone."""


class ServerGone(ServerFailed):
    """The image server ended before it answered. Another is there soon, and can be asked from the beginning."""

    def __init__(self) -> None:
        super().__init__("the image server ended", resolution="try again; if it goes on, see images.log")


@contextlib.contextmanager
def address(path: str) -> Iterator[str]:
    """Yield another path of a socket, since an address has room for 108 bytes only."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


def send(connection: socket.socket, message: Mapping[str, object], descriptor: int | None = None) -> None:
    """Send a message, with a descriptor if there is one.

    :raises OSError: the other side is gone.
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE:
        raise ServerFailed(f"a message to the image server has {len(data)} bytes, more than {MAX_MESSAGE}")
    ancillary = []
    if descriptor is not None:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])))
    connection.sendmsg([data], ancillary)


def receive(connection: socket.socket) -> tuple[_Message, int | None] | None:
    """Return a message and the descriptor that came with it; None where the other side has closed.

    :raises ServerFailed: it is no message.
    """
    size = array.array("i").itemsize
    # CMSG_SPACE would have room for two, and the second would stay open.
    data, ancillary, flags, _ = connection.recvmsg(MAX_MESSAGE, socket.CMSG_LEN(size), socket.MSG_CMSG_CLOEXEC)
    descriptor = _descriptor(ancillary)
    if not data:
        if descriptor is not None:
            os.close(descriptor)
        return None
    try:
        if flags & socket.MSG_TRUNC:
            raise ValueError
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError
    except (ValueError, RecursionError):
        if descriptor is not None:
            os.close(descriptor)
        raise ServerFailed("a message of the image server is malformed") from None
    return message, descriptor


def _descriptor(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors = array.array("i")
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
            if descriptors:
                return descriptors[0]
    return None
