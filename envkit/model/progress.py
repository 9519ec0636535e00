"""Owns how long work tells how far it is; this base class tells nobody, the command line has one that draws bars."""


class Step:
    """One piece of work under way."""

    def advance(self, amount: int) -> None:
        """Say that so much more is done, in the unit of the step."""

    def __enter__(self) -> "Step":
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Progress:
    """Where services report their work; `unit` is "bytes" or a plural noun such as "files"."""

    def step(self, text: str, *, total: int | None = None, unit: str = "files") -> Step:
        """Begin a piece of work; use the result as a context."""
        del text, total, unit
        return Step()
