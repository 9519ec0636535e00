"""A writer that saves and deletes versions of its own environment for a while, as fast as it can, and says what it did.

Run as a program: `busy.py STORE ROOT NAME SEED SECONDS`. What it writes is in part the same as what others write and as
what was deleted before: that is what a collection may be about to delete. Each line of its output is JSON:

    {"saved": 3, "files": {"pool-1": 1, "own": 77}}     acknowledged; seeds and sizes say the bytes, see `content`
    {"deleted": 2}
    {"refused": "..."}
"""

import json
import random
import sys
import time

from envkit.config.model import Config
from envkit.errors import EnvkitError
from envkit.model.ids import EnvName
from envkit.model.tree import Entry, Kind
from envkit.model.version import Version, VersionKind
from envkit.services.context import Context
from envkit.services.publishing import writing
from envkit.services.storing import store_layer
from envkit.store import versions

_POOL = 12


def content(name, seed):
    """Return the bytes of a file, from what was said of it."""
    size = 150_000 + seed % 7 * 20_000  # large enough for chunks of its own
    return random.Random(f"{name} {seed}").randbytes(size)


class Busy:
    """The writer."""

    def __init__(self, store, root, name, seed):
        self._context = Context(Config(root=root, store=store))
        self._env = EnvName(owner="lab", name=name)
        self._rng = random.Random(seed)
        self._live = []

    def save(self):
        """Save some files of the pool, and one of its own."""
        files = {f"pool-{number}": number for number in self._rng.sample(range(_POOL), 4)}
        files["own"] = self._rng.randrange(1 << 30)
        data = {name.encode(): content(name, seed) for name, seed in sorted(files.items())}
        entries = [Entry(b"", Kind.DIRECTORY, mode=0o755)]
        entries += [Entry(name, Kind.FILE, mode=0o644, size=len(plain)) for name, plain in sorted(data.items())]
        with writing(self._context) as writer:
            number = versions.next_number(writer.store, self._env)
            layer = store_layer(self._context, writer, entries, lambda entry: [(0, data[entry.path])])
            # A collection may come in between.
            time.sleep(self._rng.choice((0, 0, 0.02, 0.2)))
            draft = Version(env=self._env, number=number, kind=VersionKind.ENVIRONMENT, layers=(layer,))
            version = writer.publish(draft, expected=None)
        self._live.append(version.number)
        return {"saved": version.number, "files": files}

    def delete(self):
        """Delete a version."""
        number = self._live.pop(self._rng.randrange(len(self._live)))
        versions.delete(self._context.store, self._env, [number], author="busy", created="")
        return {"deleted": number}

    def step(self):
        """Do one or the other."""
        try:
            return self.delete() if len(self._live) > 3 else self.save()
        except EnvkitError as error:
            return {"refused": error.brief}


def main():
    """Work until the time is over."""
    store, root, name, seed, seconds = sys.argv[1:]
    busy = Busy(store, root, name, int(seed))
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        print(json.dumps(busy.step()), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
