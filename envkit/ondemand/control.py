"""Owns what clients can ask the image server: where its files are, to take note of stores and stacks, and how it is.

Each client has a thread; they are few, one a running container. Whatever a client says is checked, though only root
can connect: a mistake in one client must not end the file systems of others.
"""

import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress

from envkit.errors import EnvkitError
from envkit.ondemand.fetcher import Fetcher
from envkit.ondemand.holder import Held
from envkit.ondemand.layers import Layers
from envkit.ondemand.log import complain
from envkit.ondemand.messages import receive, send
from envkit.ondemand.served import ServedLayer
from envkit.ondemand.sources import Stores
from envkit.ondemand.stacks import Stacks

_PAGE = 200
_PAUSE = 0.5
_Answer = tuple[Mapping[str, object], int | None]


class Control:
    """Listens to clients, each in a thread of its own."""

    def __init__(self, held: Held, layers: Layers, stores: Stores, stacks: Stacks, fetcher: Fetcher) -> None:
        self._held = held
        self._layers = layers
        self._stores = stores
        self._stacks = stacks
        self._fetcher = fetcher
        self._listener = socket.socket(fileno=held.listener)
        self._clients = 0
        self._over = False
        self.stopping = False
        self._lock = threading.Lock()
        self._operations: dict[str, Callable[[Mapping[str, object]], _Answer]] = {
            "open": self._open,
            "begin": self._begin,
            "prepared": self._prepared,
            "mounted": self._mounted,
            "end": self._end,
            "state": self._state,
            "pulled": self._pulled,
            "stop": self._stop,
        }

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return self._clients

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._listen, name="listener", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:  # too many open files: those who have them will be gone some time
                complain(f"no client is let in: {error.strerror}")
                time.sleep(_PAUSE)
                continue
            with self._lock:
                if self._over:
                    connection.close()  # and it starts the next server
                    continue
                self._clients += 1
            threading.Thread(target=self._converse, args=(connection,), name="client", daemon=True).start()

    def end_if_unused(self, unmounted: Callable[[], bool]) -> bool:
        """Let nobody in any more if nobody is, and what `unmounted` does succeeds; return whether it is so."""
        with self._lock:
            self._over = not self._clients and unmounted()
            return self._over

    def _converse(self, connection: socket.socket) -> None:
        begun: list[str] = []
        try:
            with connection, suppress(OSError):
                while (received := receive(connection)) is not None:
                    message, descriptor = received
                    if descriptor is not None:
                        os.close(descriptor)
                    self._reply(connection, message, begun)
        except EnvkitError:
            return  # it was no message: this client is not spoken to any more
        finally:
            with self._lock:
                self._clients -= 1
            for stack in begun:
                with suppress(OSError, EnvkitError):
                    self._stacks.end(stack, code=None)

    def _reply(self, connection: socket.socket, message: Mapping[str, object], begun: list[str]) -> None:
        operation = self._operations.get(str(message.get("op")))
        descriptor = None
        try:
            if operation is None:
                raise EnvkitError("the image server does not know what it was asked; was envkit updated meanwhile?")
            answer, descriptor = operation(message)
            answer = {"ok": True, **answer}
            if message["op"] == "begin":
                begun.append(str(answer["stack"]))
        except EnvkitError as error:
            answer = {"ok": False, "error": error.brief, "hint": error.resolution}
        except (OSError, KeyError, TypeError, ValueError) as error:
            traceback.print_exc()
            answer = {"ok": False, "error": f"the image server failed: {error}", "hint": None}
        try:
            send(connection, answer, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open(self, message: Mapping[str, object]) -> _Answer:
        """Take note of where layers can be had, and give the directory that their files are in."""
        store = self._stores.add(message["store"])
        self._layers.add_sources(_texts(message["layers"]), store)
        # Opened for this client only: as long as anybody has it, the file system counts as used.
        root = os.open(self._held.paths.images, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return {"pid": os.getpid(), "store": store}, root

    def _begin(self, message: Mapping[str, object]) -> _Answer:
        return self._stacks.begin(message), None

    def _end(self, message: Mapping[str, object]) -> _Answer:
        code = message.get("code")
        return self._stacks.end(str(message["stack"]), code=code if isinstance(code, int) else None), None

    def _prepared(self, message: Mapping[str, object]) -> _Answer:
        return self._stacks.prepared(message), None

    def _mounted(self, message: Mapping[str, object]) -> _Answer:
        self._stacks.mounted(str(message["stack"]), _texts(message["devices"]))
        return {}, None

    def _stop(self, message: Mapping[str, object]) -> _Answer:
        """End as soon as nobody needs the server any more, without waiting whether somebody comes."""
        del message
        self.stopping = True
        return {"pid": os.getpid()}, None

    def _state(self, message: Mapping[str, object]) -> _Answer:
        """Tell how the server is: what was fetched, and of `_PAGE` layers from number `first` on what is there."""
        first = message.get("first")
        start = first if isinstance(first, int) and first > 0 else 0
        opened = self._layers.opened()
        counters = self._fetcher.counters()
        counted = ("requests", "bytes", "chunks", "retries", "failures")
        return {
            "pid": os.getpid(),
            "clients": self._clients,
            "fetched": {name: sum(getattr(counters, name)) for name in counted},
            "round_trip": round(self._fetcher.link.round_trip, 6),
            "bandwidth": round(self._fetcher.link.bandwidth),
            "layers": [_facts(layer) for layer in opened[start : start + _PAGE]],
            "more": len(opened) > start + _PAGE,
        }, None

    def _pulled(self, message: Mapping[str, object]) -> _Answer:
        """Tell which ranges of a layer's image were fetched because somebody read them, the first ones."""
        wanted = str(message.get("digest"))
        found = [layer.pulled for layer in self._layers.opened() if layer.digest == wanted]
        return {"ranges": found[0] if found else []}, None


def _facts(layer: ServedLayer) -> dict[str, object]:
    return {
        "digest": layer.digest,
        "size": layer.cached.total_bytes,
        "ready": layer.cached.ready_bytes(),
        "fetched": layer.fetched_bytes,
        "reads": layer.reads,
        "waits": layer.waits,
        "stalled": round(layer.stalled, 3),
    }


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise EnvkitError("a message to the image server is malformed")
    return [str(item) for item in value]
