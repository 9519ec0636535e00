"""Owns what is known of one stack that one client runs, from its beginning to its end."""

import threading
import time
from collections.abc import Mapping

from envkit.errors import EnvkitError
from envkit.model.ids import EnvName, is_digest
from envkit.model.startpack import entry_point
from envkit.ondemand.recording import Recording
from envkit.ondemand.startplaces import Found
from envkit.ondemand.streaming import Stream


class Stack:
    """One stack that one client runs: its layers, the lowest first, and which of them are served.

    :ivar environment: None where nothing is to be found or recorded for it.
    :ivar came: when all of its start pack had come, on the monotonic clock, and how many reads had waited by then.
    """

    def __init__(self, identity: str, message: Mapping[str, object], store: str) -> None:
        self.identity = identity
        self.digests = _digests(message["layers"])
        self.served = frozenset(_digests(message["served"]))
        self.store = store
        named = str(message.get("environment") or "")
        owner, _, name = named.partition("/")
        self.environment = EnvName(owner=owner, name=name) if named else None
        command = message.get("command")
        self.entry = entry_point([str(word) for word in command]) if isinstance(command, list) else ""
        self.wants_pack = message.get("start_pack") is not False
        self.trace = message.get("trace") is True
        self.began = time.monotonic()
        self.found: Found | None = None
        self.looked = threading.Event()
        self.prepared = threading.Event()
        self.stream: Stream | None = None
        self.came: tuple[float, int] | None = None
        self.recording: Recording | None = None
        self.limited: frozenset[str] = frozenset()
        self.fetched: dict[str, tuple[int, float, dict[str, int]]] = {}
        self.requests = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """Of which only one is recorded at a time."""
        return str(self.environment), "".join(self.digests), self.entry


def _digests(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and is_digest(item) for item in value):
        raise EnvkitError("a message to the image server is malformed")
    return value
