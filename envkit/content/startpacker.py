"""Owns making start packs: granules are gathered into frames and compressed, once, to be read many times."""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import msgspec

from envkit.content import frame
from envkit.content.startpack import (
    FRAME,
    MAGIC,
    MAX_FRAMES,
    MAX_PLAIN,
    MAX_STORED,
    START_FORMAT,
    FrameRow,
    Granule,
    GranuleRow,
    Header,
    LayerRow,
    StartPack,
    decode,
)
from envkit.model.record import Record
from envkit.model.startpack import ImageLayer, granule_length, stack_digest

LEVEL = 19
FIRST_FRAME = 256 << 10
"""Plain bytes of each of the first two frames: the sooner they are there, the sooner something starts."""

Read = Callable[[int, int], "bytes | None"]
"""Returns a granule's verified bytes, `(layer number, granule number)`; None leaves it out."""


class Encoded(Record):
    """A start pack in its stored form: the header and the frames, one after the other, are the object."""

    pack: StartPack
    header: bytes
    frames: tuple[bytes, ...]


def encode(
    layers: Sequence[ImageLayer],
    entry_point: str,
    granules: Iterable[Granule],
    read: Read,
    *,
    level: int = LEVEL,
    limit: int = MAX_STORED,
    stopped: Callable[[], bool] = lambda: False,
) -> Encoded | None:
    """Return a start pack of some granules, each named once; None if there is nothing to put into it.

    Takes about a second for 4 MB. What would take it over a limit, at its end, is left out.

    :param limit: bytes of compressed frames.
    :param stopped: asked before each frame; if it says so, the result is None.
    """
    packer = _Packer(layers, level, min(limit, MAX_STORED))
    for granule in granules:
        data = read(granule.layer, granule.number)
        if data is not None and not packer.add(granule, data):
            break
        if stopped():
            return None
    packer.finish()
    if not packer.rows:
        return None
    plain = msgspec.msgpack.encode(
        Header(
            format=START_FORMAT,
            stack=bytes.fromhex(stack_digest(layer.digest for layer in layers)),
            entry_point=entry_point,
            layers=[LayerRow(bytes.fromhex(layer.digest), layer.uuid, layer.size) for layer in layers],
            frames=packer.places,
            rows=_runs(packer.rows),
        )
    )
    header = MAGIC + len(plain).to_bytes(4, "little") + plain
    pack = decode(header, hashlib.sha256(header).hexdigest())
    return Encoded(pack=pack, header=header, frames=tuple(packer.frames))


class _Packer:
    """Fills frames with granules."""

    def __init__(self, layers: Sequence[ImageLayer], level: int, limit: int) -> None:
        self._layers = layers
        self._compressor = frame.compressor(level)
        self._limit = limit
        self._stored = 0
        self._plain = 0
        self._pending: list[Granule] = []
        self._pieces: list[bytes] = []
        self._size = 0
        self.rows: list[Granule] = []
        self.frames: list[bytes] = []
        self.places: list[FrameRow] = []

    def add(self, granule: Granule, data: bytes) -> bool:
        """Take a granule; tell whether there is room for more."""
        if len(data) != granule_length(self._layers[granule.layer].size, granule.number) or not data:
            raise ValueError(f"granule {granule.number} of layer {granule.layer} has {len(data)} bytes")
        target = FIRST_FRAME if len(self.frames) < 2 else FRAME
        if self._size + len(data) > target and not self._seal():
            return False
        if self._plain + self._size + len(data) > MAX_PLAIN or len(self.frames) >= MAX_FRAMES:
            return False
        self._pending.append(granule)
        self._pieces.append(data)
        self._size += len(data)
        return True

    def finish(self) -> None:
        """Take what is left as the last frame."""
        if self._pending:
            self._seal()

    def _seal(self) -> bool:
        plain = b"".join(self._pieces)
        pending, self._pending, self._pieces, self._size = self._pending, [], [], 0
        data = self._compressor.compress(plain)
        if self._stored + len(data) > self._limit:
            return False
        self.places.append(FrameRow(self._stored, len(data), len(plain), hashlib.sha256(plain).digest()))
        self.frames.append(data)
        self.rows += pending
        self._stored += len(data)
        self._plain += len(plain)
        return True


def _runs(granules: Iterable[Granule]) -> list[GranuleRow]:
    """Return granules as rows; neighbours that follow one another share one."""
    rows: list[GranuleRow] = []
    for granule in granules:
        last = rows[-1] if rows else None
        if (
            last is not None
            and (last.layer, last.granule + last.count) == (granule.layer, granule.number)
            and last.unseen == granule.unseen
        ):
            rows[-1] = GranuleRow(last.layer, last.granule, last.count + 1, last.unseen)
        else:
            rows.append(GranuleRow(granule.layer, granule.number, 1, granule.unseen))
    return rows
