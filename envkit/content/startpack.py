"""Owns the stored form of start packs: granules of images in the order of first touch, in frames behind a header.

The header says what each frame holds, and the SHA-256 of its plain bytes; the header's own SHA-256 is in the object's
name. So every byte is checked before it is used, and frames can be fetched in any order. Knows no store; `startpacker`
makes them.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Annotated, NamedTuple

import msgspec

from envkit.content import frame
from envkit.content.errors import DamagedFrame
from envkit.errors import Damaged
from envkit.model.record import Record
from envkit.model.startpack import GRANULE, MAX_ENTRY_POINT, ImageLayer, granule_length, stack_digest

START_FORMAT = 1
FRAME = 1 << 20
HEAD = 64 << 10
"""What is read first; most headers, and often the first frame, are in it."""
MAX_HEADER = 1 << 20
MAX_LAYERS = 400
MAX_FRAMES = 1024
MAX_STORED = 64 << 20
MAX_PLAIN = 256 << 20
MAX_IMAGE = 1 << 50
MAX_UNSEEN = 3
"""Recordings in a row that did not touch a granule, after which it is left out."""
_MAX_GRANULES = MAX_PLAIN // GRANULE + MAX_LAYERS
_MAX_STORED_FRAME = FRAME + FRAME // 256 + 64

# A skippable frame of zstd: `zstd -dc` gives the granules of a start pack, in order.
MAGIC = bytes.fromhex("5d2a4d18")
PREFIX = 8
_ENTRY_POINT = re.compile(rf"[A-Za-z0-9._+ -]{{1,{MAX_ENTRY_POINT}}}")


class DamagedStart(Damaged):
    """A start pack is not what its name or its format promises; `problem` completes the sentence."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(f"start pack {digest} is damaged: {problem}", resolution="remove it: nothing depends on it")
        self.digest = digest


class NewerStart(Damaged):
    """A start pack was written by a later envkit."""

    def __init__(self, digest: str, found: int) -> None:
        super().__init__(
            f"start pack {digest} has format {found}, this envkit reads format {START_FORMAT}",
            resolution="update envkit",
        )
        self.format = found


class LayerRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A layer of the stack as it is stored."""

    digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    uuid: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_IMAGE)]


class FrameRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A frame as it is stored: its place behind the header, its plain bytes and their SHA-256."""

    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_STORED)]
    stored: Annotated[int, msgspec.Meta(ge=1, le=_MAX_STORED_FRAME)]
    plain: Annotated[int, msgspec.Meta(ge=1, le=FRAME)]
    digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class GranuleRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Granules that follow one another, as they are stored."""

    layer: Annotated[int, msgspec.Meta(ge=0, lt=MAX_LAYERS)]
    granule: Annotated[int, msgspec.Meta(ge=0, le=MAX_IMAGE // GRANULE)]
    count: Annotated[int, msgspec.Meta(ge=1, le=_MAX_GRANULES)]
    unseen: Annotated[int, msgspec.Meta(ge=0, lt=MAX_UNSEEN)]


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A header as it is stored."""

    format: int
    stack: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    entry_point: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ENTRY_POINT)]
    layers: Annotated[list[LayerRow], msgspec.Meta(min_length=1, max_length=MAX_LAYERS)]
    frames: Annotated[list[FrameRow], msgspec.Meta(min_length=1, max_length=MAX_FRAMES)]
    rows: Annotated[list[GranuleRow], msgspec.Meta(min_length=1, max_length=_MAX_GRANULES)]


class _Format(msgspec.Struct, array_like=True):
    """The first element, whatever follows it."""

    format: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


_decoder = msgspec.msgpack.Decoder(Header)
_format_decoder = msgspec.msgpack.Decoder(_Format)


class Granule(NamedTuple):
    """A granule of a layer's image, by numbers; recordings in a row that did not touch it."""

    layer: int
    number: int
    unseen: int = 0


class Piece(NamedTuple):
    """A granule in the plain bytes of a frame."""

    layer: int
    number: int
    offset: int
    length: int


class Frame(NamedTuple):
    """A frame: its place in the object, its plain bytes, and which of all granules it holds, `first` to `end`."""

    offset: int
    stored: int
    plain: int
    digest: bytes
    first: int
    end: int


class StartPack(Record):
    """A decoded header, every number of which was checked.

    :ivar digest: the header's, in hexadecimal. `stack` likewise.
    :ivar granules: all of them, in the order of first touch.
    :ivar size: bytes of the whole object.
    """

    digest: str
    stack: str
    entry_point: str
    layers: tuple[ImageLayer, ...]
    granules: tuple[Granule, ...]
    frames: tuple[Frame, ...]
    size: int

    @property
    def plain(self) -> int:
        """Bytes of all granules."""
        return sum(frame.plain for frame in self.frames)

    @cached_property
    def places(self) -> dict[tuple[int, int], int]:
        """The number of the frame in which a granule is, by layer and number."""
        return {
            (granule.layer, granule.number): number
            for number, frame in enumerate(self.frames)
            for granule in self.granules[frame.first : frame.end]
        }

    def pieces(self, number: int) -> Iterator[Piece]:
        """Yield the granules of a frame, and where they are in its plain bytes."""
        offset = 0
        for granule in self.granules[self.frames[number].first : self.frames[number].end]:
            length = granule_length(self.layers[granule.layer].size, granule.number)
            yield Piece(granule.layer, granule.number, offset, length)
            offset += length


def header_size(data: bytes, digest: str) -> int:
    """Return how many bytes a start pack's header has, from the first bytes of the object.

    :raises DamagedStart: it is none, or longer than one may be.
    """
    if len(data) < PREFIX or data[:4] != MAGIC:
        raise DamagedStart(digest, "it does not begin as one")
    size = PREFIX + int.from_bytes(data[4:PREFIX], "little")
    if size > MAX_HEADER:
        raise DamagedStart(digest, f"its header declares {size} bytes, more than the {MAX_HEADER} that it may have")
    return size


def read_head(get: Callable[[int, int], bytes], size: int, digest: str) -> tuple[StartPack, bytes]:
    """Return a start pack's header, and the first bytes of the object as they were read.

    :param get: returns `(start, length)` of the object, which has `size` bytes.
    :raises DamagedStart: as `decode`, or the object has not as many bytes as its header says.
    """
    data = get(0, min(size, HEAD))
    needed = header_size(data, digest)
    if needed > size:
        raise DamagedStart(digest, "it ends in its header")
    if needed > len(data):
        data += get(len(data), needed - len(data))
    pack = decode(data[:needed], digest)
    if pack.size != size:
        raise DamagedStart(digest, f"it has {size} bytes instead of {pack.size}")
    return pack, data


def decode(header: bytes, digest: str) -> StartPack:
    """Return the start pack whose header this is; nothing of it needs a second look.

    :raises DamagedStart: the bytes are not those of this digest, or break a rule of the format.
    :raises NewerStart: it was written by a later envkit.
    """
    if header_size(header, digest) != len(header):
        raise DamagedStart(digest, f"its header has {len(header)} bytes")
    if hashlib.sha256(header).hexdigest() != digest:
        raise DamagedStart(digest, "its header has another digest")
    try:
        found = _format_decoder.decode(header[PREFIX:]).format
        if found != START_FORMAT:
            raise NewerStart(digest, found)
        decoded = _decoder.decode(header[PREFIX:])
    except (msgspec.DecodeError, RecursionError) as error:
        raise DamagedStart(digest, str(error)) from error
    layers = tuple(ImageLayer(digest=row.digest.hex(), uuid=row.uuid, size=row.size) for row in decoded.layers)
    if decoded.stack.hex() != stack_digest(layer.digest for layer in layers):
        raise DamagedStart(digest, "its layers are not those of its stack")
    if not _ENTRY_POINT.fullmatch(decoded.entry_point):
        raise DamagedStart(digest, f"its entry point is {decoded.entry_point!r}")
    granules = _granules(decoded.rows, layers, digest)
    frames = tuple(_frames(decoded.frames, granules, layers, len(header), digest))
    return StartPack(
        digest=digest,
        stack=decoded.stack.hex(),
        entry_point=decoded.entry_point,
        layers=layers,
        granules=granules,
        frames=frames,
        size=frames[-1].offset + frames[-1].stored,
    )


def _granules(rows: list[GranuleRow], layers: Sequence[ImageLayer], digest: str) -> tuple[Granule, ...]:
    """Return the granules that rows name, after seeing that they exist, each once, and not too many."""
    # Before anything is made of them: each row may stand for thousands.
    if sum(row.count for row in rows) > _MAX_GRANULES:
        raise DamagedStart(digest, f"it names more than {_MAX_GRANULES} granules")
    granules: list[Granule] = []
    for row in rows:
        if row.layer >= len(layers):
            raise DamagedStart(digest, f"it names layer {row.layer} of {len(layers)}")
        if granule_length(layers[row.layer].size, row.granule + row.count - 1) <= 0:
            raise DamagedStart(digest, f"granule {row.granule + row.count - 1} lies behind the end of its image")
        numbers = range(row.granule, row.granule + row.count)
        granules += [Granule(row.layer, number, row.unseen) for number in numbers]
    if len({(granule.layer, granule.number) for granule in granules}) != len(granules):
        raise DamagedStart(digest, "it names a granule twice")
    return tuple(granules)


def _frames(
    rows: list[FrameRow], granules: Sequence[Granule], layers: Sequence[ImageLayer], begin: int, digest: str
) -> Iterator[Frame]:
    """Yield the frames, after seeing that they lie one behind the other and hold all granules, each whole."""
    stored = plain = first = 0
    for row in rows:
        if row.offset != stored:
            raise DamagedStart(digest, f"a frame begins at {row.offset}, where {stored} was expected")
        stored, plain = stored + row.stored, plain + row.plain
        if stored > MAX_STORED or plain > MAX_PLAIN:
            raise DamagedStart(digest, "its frames are larger than all of them may be together")
        end, left = first, row.plain
        while left > 0 and end < len(granules):
            left -= granule_length(layers[granules[end].layer].size, granules[end].number)
            end += 1
        if left:
            raise DamagedStart(digest, f"a frame of {row.plain} bytes does not end with a granule")
        yield Frame(begin + row.offset, row.stored, row.plain, row.digest, first, end)
        first = end
    if first != len(granules):
        raise DamagedStart(digest, "it names granules that are in no frame")


def unpack(pack: StartPack, number: int, stored: "bytes | memoryview") -> bytes:
    """Return the plain bytes of a frame from what the object has in its place.

    :raises DamagedStart: these are not the frame's bytes.
    """
    row = pack.frames[number]
    if len(stored) != row.stored:
        raise DamagedStart(pack.digest, f"frame {number} is cut short, {len(stored)} of {row.stored} bytes are there")
    try:
        plain = frame.unpack(bytes(stored), size=row.plain)
    except DamagedFrame as error:
        raise DamagedStart(pack.digest, f"frame {number} {error.problem}") from error
    if hashlib.sha256(plain).digest() != row.digest:
        raise DamagedStart(pack.digest, f"frame {number} has another digest")
    return plain
