"""Owns how long work tells how far it is; these base classes tell nobody, the command line has some that do."""

import contextlib


class Step:
    """One piece of work under way."""

    def advance(self, amount: int) -> None:
        """Say that so much more is done, in the unit of the step. May be called from any thread."""

    def __enter__(self) -> "Step":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        return None


class Progress:
    """Where services report their work. Several steps may be under way at once, in any threads."""

    def step(self, text: str, *, total: int | None = None, unit: str = "files") -> Step:
        """Begin a piece of work; use the result as a context.

        :param total: how much there is to do, where that is known.
        :param unit: "bytes", or a plural noun such as "files".
        """
        del text, total, unit
        return Step()

    def hidden(self) -> contextlib.AbstractContextManager[None]:
        """Keep the display away while something else writes to the terminal or asks there."""
        return contextlib.nullcontext()
