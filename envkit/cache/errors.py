"""What goes wrong with what a node keeps of layers."""

from collections.abc import Sequence

from envkit.errors import EnvkitError, Unavailable
from envkit.model.ids import is_digest


class CacheLost(EnvkitError):
    """What the cache had of a layer is gone or damaged; whoever meets this makes it anew."""

    def __init__(self, directory: str, problem: str) -> None:
        super().__init__(
            f"what the cache had of layer {_layer(directory)} cannot be used: {problem}",
            resolution="nothing is lost: it is fetched from the store again",
        )
        self.directory = directory


class CacheBusy(Unavailable):
    """Another process writes the cache of a layer."""

    def __init__(self, directory: str) -> None:
        super().__init__(
            f"another process writes the cache of layer {_layer(directory)}",
            resolution="wait for it to end, and try again",
        )
        self.directory = directory


class ChunksMissing(EnvkitError):
    """A range of an image cannot be read before some chunks are fetched."""

    def __init__(self, directory: str, numbers: Sequence[int]) -> None:
        super().__init__(f"{len(numbers)} chunks of layer {_layer(directory)} have to be fetched first")
        self.numbers = tuple(numbers)


class GranulesDiffer(EnvkitError):
    """Granules that came from a start pack had other bytes than the layer's chunk. The right ones are there now."""

    def __init__(self, directory: str, granules: Sequence[int]) -> None:
        super().__init__(
            f"a start pack has wrong bytes for {len(granules)} granules of layer {_layer(directory)}",
            resolution="run it again; the start pack has to be made anew",
        )
        self.granules = tuple(granules)


def _layer(directory: str) -> str:
    """Return the short name of the layer whose place a directory is, or is in."""
    parts = directory.split("/")
    return next(filter(is_digest, reversed(parts)), parts[-1])[:12]
