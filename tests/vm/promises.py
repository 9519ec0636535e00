"""Owns what the writer of `power_writer.py` has promised, and at which moment of a disk's history it did.

What is heard of a promise is later than the promise, never earlier: a cut at that moment may not take what was confirmed.
"""

from typing import NamedTuple


class Promises(NamedTuple):
    """Digests of contents, by version and by name of a loose file."""

    saved: dict[str, str]
    loose: dict[str, str]

    def copy(self):
        return Promises(dict(self.saved), dict(self.loose))


class Moment(NamedTuple):
    """What a cut would have left of the disk at a moment, and what had been promised by then."""

    path: str
    promises: Promises
    name: str


class Run:
    """One run of the writer, until its power goes; its promises are added to those that there are."""

    def __init__(self, history, promises):
        self._history = history
        self._promises = promises
        self._earlier = promises.copy()
        self._said = []
        self._rest = b""
        self.saves = 0

    def hear(self, piece):
        """Take in a piece of what the writer says, at once when it comes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            kind, name, digest = line.decode().split(" ")
            self._said.append((len(self._history), kind, name, digest))
            getattr(self._promises, kind)[name] = digest
            self.saves += kind == "saved"

    def moments(self, count, path, rng):
        """Yield so many different `Moment`s: of half of them as many as there are right after promises, the others anywhere.

        :param path: where the disk of one at a time is.
        """
        promised = sorted({moment for moment, kind, *_ in self._said if kind == "saved"})
        chosen = set(rng.sample(promised, min(len(promised), count // 2)))
        others = [moment for moment in range(1, len(self._history) + 1) if moment not in chosen]
        chosen.update(rng.sample(others, count - len(chosen)))
        for moment in sorted(chosen):
            promises = self._earlier.copy()
            for when, kind, name, digest in self._said:
                if when <= moment:
                    getattr(promises, kind)[name] = digest
            self._history.leave(moment, path, rng)
            yield Moment(path, promises, f"moment {moment} of {len(self._history)}")
