"""Start packs for tests: images of random bytes, and packs of some of their granules."""

import random

from envkit.content.startpack import Granule
from envkit.content.startpacker import encode
from envkit.model.startpack import GRANULE, ImageLayer, granule_length


class Images:
    """Images of a stack, in memory: `sizes` bytes each, that compress to about half."""

    def __init__(self, *sizes, seed=0):
        chosen = random.Random(seed)
        self.data = [_half_random(chosen, size) for size in sizes]
        self.layers = tuple(
            ImageLayer(digest=chosen.randbytes(32).hex(), uuid=chosen.randbytes(16), size=size) for size in sizes
        )

    def read(self, layer, granule):
        return self.data[layer][granule * GRANULE : (granule + 1) * GRANULE]

    def all_granules(self):
        return [
            Granule(layer, number)
            for layer, image in enumerate(self.layers)
            for number in range(-(-image.size // GRANULE))
            if granule_length(image.size, number) > 0
        ]

    def pack(self, granules=None, *, entry_point="true", level=1):
        """Return the start pack of some granules, all of them by default, and the whole object."""
        made = encode(self.layers, entry_point, granules or self.all_granules(), self.read, level=level)
        return made.pack, b"".join((made.header, *made.frames))


def _half_random(chosen, size):
    return b"".join(chosen.randbytes(2048) + bytes(2048) for _ in range(-(-size // 4096)))[:size]
