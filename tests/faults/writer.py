"""One of the processes that race for the versions of an environment: threads, each a writer with a layer of its own.

Run as a program: `writer.py STORE ROOT FIRST THREADS ROUNDS [VARIANT]`, the settings of a bucket in the environment. Says `ready`
when every writer has stored its layer, then plays a round for each line that it reads, answering with a JSON line:

    {"wins": {"w3": 7}, "conflicts": ["w1", "w2"], "trees": {...}}

The number is that of the version which the writer took to be its own.
"""

import contextlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from faults import variants

from envkit.config.model import Config
from envkit.errors import Conflict
from envkit.model.ids import EnvName
from envkit.model.tree import Entry, Kind
from envkit.model.version import Version, VersionKind
from envkit.services.context import Context
from envkit.services.publishing import writing
from envkit.services.storing import store_layer

ENV = EnvName(owner="lab", name="race")


class Writer:
    """A writer: its own root, since others would be other machines, and its own layer."""

    def __init__(self, store, root, number):
        self.name = f"w{number}"
        self._context = Context(Config(root=f"{root}/{self.name}", store=store))
        self._content = self.name.encode() * 100
        self.layer = None

    def store(self):
        """Store the layer."""
        entries = [
            Entry(b"", Kind.DIRECTORY, mode=0o755),
            Entry(b"file", Kind.FILE, mode=0o644, size=len(self._content)),
        ]
        with writing(self._context) as writer:
            self.layer = store_layer(self._context, writer, entries, lambda _: [(0, self._content)])

    def publish(self, number):
        """Try to take a version; return its number, or None for a conflict."""
        draft = Version(env=ENV, number=number, kind=VersionKind.ENVIRONMENT, layers=(self.layer,), author=self.name)
        with writing(self._context) as writer:
            try:
                return writer.publish(draft, expected=number).number
            except Conflict:
                return None


def say(line):
    """Answer."""
    print(line, flush=True)  # noqa: T201


def main():
    """Play all rounds."""
    store, root, first, threads, rounds, *broken = sys.argv[1:]
    for name in broken:
        variants.apply(name)
    writers = [Writer(store, root, int(first) + number) for number in range(int(threads))]
    barrier = Barrier(len(writers))
    with ThreadPoolExecutor(len(writers)) as pool:
        list(pool.map(Writer.store, writers))
        say("ready")
        for number in range(1, int(rounds) + 1):
            sys.stdin.readline()

            def play(writer, number=number):
                barrier.wait(300)
                return writer.publish(number)

            won = list(pool.map(play, writers))
            answer = {
                "wins": {w.name: n for w, n in zip(writers, won, strict=True) if n is not None},
                "conflicts": [w.name for w, n in zip(writers, won, strict=True) if n is None],
                "trees": {w.name: w.layer.tree for w in writers},
            }
            say(json.dumps(answer))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
