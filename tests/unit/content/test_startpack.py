"""Start packs keep their meaning in the store, and bytes that are none never become one."""

import hashlib
import random
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from start_support import Images

from envkit.content import frame, startpack
from envkit.content.startpack import (
    HEAD,
    MAX_HEADER,
    MAX_PLAIN,
    MAX_STORED,
    DamagedStart,
    Granule,
    NewerStart,
    decode,
    read_head,
    unpack,
)
from envkit.content.startpacker import FIRST_FRAME, encode
from envkit.errors import EXIT_DAMAGED
from envkit.model.startpack import GRANULE, stack_digest

_slow = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
MIB = 1 << 20


def contents(pack, data):
    """Return all granules of an object as a reader gets them, `{(layer, number): bytes}`, in order."""
    found = {}
    for number, row in enumerate(pack.frames):
        plain = unpack(pack, number, data[row.offset : row.offset + row.stored])
        for piece in pack.pieces(number):
            found[piece.layer, piece.number] = plain[piece.offset : piece.offset + piece.length]
    return found


@st.composite
def chosen_granules(draw):
    images = Images(
        *draw(st.lists(st.sampled_from([1, 4096, GRANULE, GRANULE + 1, 40 * GRANULE - 5]), min_size=1, max_size=4))
    )
    granules = draw(st.lists(st.sampled_from(images.all_granules()), min_size=1, unique=True))
    return images, [Granule(g.layer, g.number, draw(st.integers(0, 2))) for g in granules]


@given(chosen_granules(), st.sampled_from(["true", "python3 -m pip", "a.b-c_d+e"]))
@_slow
def test_what_was_put_in_comes_out_in_its_order(made, entry_point):
    images, granules = made
    pack, data = images.pack(granules, entry_point=entry_point)
    assert decode(data[: pack.frames[0].offset], pack.digest) == pack
    assert pack.granules == tuple(granules)
    assert (pack.layers, pack.entry_point, pack.size) == (images.layers, entry_point, len(data))
    assert pack.stack == stack_digest(layer.digest for layer in images.layers)
    found = contents(pack, data)
    assert list(found) == [(granule.layer, granule.number) for granule in granules]
    assert all(plain == images.read(*place) for place, plain in found.items())
    assert pack.plain == sum(map(len, found.values()))
    assert all((layer, number) in [p[:2] for p in pack.pieces(f)] for (layer, number), f in pack.places.items())


def test_the_first_frames_are_small_and_the_others_are_a_megabyte():
    pack, _ = Images(5 * MIB).pack()
    assert [row.plain for row in pack.frames] == [FIRST_FRAME, FIRST_FRAME, MIB, MIB, MIB, MIB, MIB // 2]


def test_zstd_alone_can_read_it(tmp_path):
    images = Images(3 * GRANULE)
    _, data = images.pack()
    (tmp_path / "pack").write_bytes(data)
    plain = subprocess.run(["zstd", "-dc", tmp_path / "pack"], capture_output=True, check=True).stdout
    assert plain == images.data[0]


def test_what_cannot_be_read_is_left_out():
    images = Images(4 * GRANULE)
    made = encode(images.layers, "true", images.all_granules(), lambda _, n: None if n == 2 else images.read(0, n))
    assert [granule.number for granule in made.pack.granules] == [0, 1, 3]
    assert encode(images.layers, "true", images.all_granules(), lambda _, n: None) is None
    assert encode(images.layers, "true", [], images.read) is None


def test_bytes_of_the_wrong_length_are_a_mistake():
    images = Images(4 * GRANULE)
    with pytest.raises(ValueError, match="granule 0 of layer 0 has 5 bytes"):
        encode(images.layers, "true", images.all_granules(), lambda *_: b"short")


def test_what_is_too_much_is_left_out_at_the_end():
    images = Images(4 * MIB)
    made = encode(images.layers, "true", images.all_granules(), images.read, level=1, limit=MIB)
    assert sum(map(len, made.frames)) <= MIB
    assert 0 < len(made.pack.granules) < len(images.all_granules())
    assert list(made.pack.granules) == images.all_granules()[: len(made.pack.granules)]


def test_making_one_can_be_stopped():
    images = Images(4 * MIB)
    answers = iter([False, True])
    assert encode(images.layers, "true", images.all_granules(), images.read, stopped=lambda: next(answers)) is None


@given(chosen_granules(), st.data())
@_slow
def test_a_changed_bit_or_a_missing_end_is_noticed(made, data):
    images, granules = made
    pack, whole = images.pack(granules)
    changed = bytearray(whole)
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, len(changed) * 8 - 1))
        changed[bit // 8] ^= 1 << bit % 8
    else:
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    try:
        read, _ = read_head(lambda at, n: bytes(changed[at : at + n]), len(changed), pack.digest)
        assert contents(read, bytes(changed)) == contents(pack, whole)
    except DamagedStart as error:
        assert error.exit_code == EXIT_DAMAGED
        assert pack.digest in error.brief


def header(**changes):
    """Return a stored header, and its digest, of a good start pack of two layers with some fields changed."""
    digests = [bytes([n]) * 32 for n in (1, 2)]
    fields = {
        "format": 1,
        "stack": bytes.fromhex(stack_digest(digest.hex() for digest in digests)),
        "entry_point": "true",
        "layers": [[digest, b"u" * 16, 3 * GRANULE] for digest in digests],
        "frames": [[0, 10, 2 * GRANULE, b"d" * 32], [10, 10, GRANULE, b"e" * 32]],
        "rows": [[0, 1, 2, 0], [1, 0, 1, 2]],
    } | changes
    plain = msgspec.msgpack.encode(list(fields.values()))
    data = b"\x5d\x2a\x4d\x18" + len(plain).to_bytes(4, "little") + plain
    return data, hashlib.sha256(data).hexdigest()


def refused(data, digest, problem, error=DamagedStart):
    with pytest.raises(error, match=problem) as caught:
        decode(data, digest)
    assert digest in caught.value.brief
    assert caught.value.exit_code == EXIT_DAMAGED


def test_the_header_that_the_hostile_ones_are_made_of_is_good():
    pack = decode(*header())
    assert pack.granules == (Granule(0, 1, 0), Granule(0, 2, 0), Granule(1, 0, 2))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stack": bytes(32)}, "its layers are not those of its stack"),
        ({"stack": b"short"}, "length"),
        ({"entry_point": ""}, "length"),
        ({"entry_point": "x" * 101}, "length"),
        ({"entry_point": "a/b"}, "its entry point is 'a/b'"),
        ({"entry_point": "a\n"}, "its entry point is"),
        ({"entry_point": b"true"}, "Expected `str`"),
        ({"layers": []}, "length"),
        ({"layers": [[b"x" * 31, b"u" * 16, 1]]}, "length"),
        ({"layers": [[b"x" * 32, b"u" * 15, 1]]}, "length"),
        ({"layers": [[b"x" * 32, b"u" * 16, 0]]}, ">= 1"),
        ({"layers": [[b"x" * 32, b"u" * 16, 1 << 60]]}, "<="),
        ({"frames": []}, "length"),
        ({"frames": [[0, 10, 3 * GRANULE, b"d" * 31]]}, "length"),
        ({"frames": [[0, 0, 3 * GRANULE, b"d" * 32]]}, ">= 1"),
        ({"frames": [[0, 10, 0, b"d" * 32]]}, ">= 1"),
        ({"frames": [[0, 10, (1 << 20) + 1, b"d" * 32]]}, "<="),
        ({"frames": [[0, 2 << 20, 3 * GRANULE, b"d" * 32]]}, "<="),
        ({"frames": [[1, 10, 3 * GRANULE, b"d" * 32]]}, "a frame begins at 1, where 0 was expected"),
        ({"frames": [[0, 10, 2 * GRANULE, b"d" * 32], [9, 10, GRANULE, b"e" * 32]]}, "a frame begins at 9"),
        ({"frames": [[0, 10, 2 * GRANULE, b"d" * 32]]}, "granules that are in no frame"),
        ({"frames": [[0, 10, 2 * GRANULE + 1, b"d" * 32], [10, 10, GRANULE - 1, b"e" * 32]]}, "does not end with a granule"),
        ({"frames": [[0, 10, 4 * GRANULE, b"d" * 32]]}, "does not end with a granule"),
        ({"frames": [[0, 10, 3 * GRANULE - 1, b"d" * 32]]}, "does not end with a granule"),
        ({"rows": []}, "length"),
        ({"rows": [[0, 1, 2, 0], [2, 0, 1, 0]]}, "it names layer 2 of 2"),
        ({"rows": [[0, 1, 2, 0], [1, 3, 1, 0]]}, "granule 3 lies behind the end"),
        ({"rows": [[0, 1, 3, 0]]}, "granule 3 lies behind the end"),
        ({"rows": [[0, 1, 2, 0], [0, 2, 1, 0]]}, "it names a granule twice"),
        ({"rows": [[0, 0, 0, 0]]}, ">= 1"),
        ({"rows": [[0, -1, 3, 0]]}, ">= 0"),
        ({"rows": [[0, 0, 3, 3]]}, "<"),
        ({"rows": [[0, 1, 2.0, 0]]}, "Expected `int`"),
        ({"rows": [[0, 1, 2, 0, 5], [1, 0, 1, 2]]}, "length"),
        ({"more": 1}, "length"),
        ({"rows": [[0, n, 1, 0] for n in range(40_000)]}, "length"),
        ({"rows": [[0, 0, 16_000, 0], [1, 0, 16_000, 0]]}, "more than 16784 granules"),
    ],
)  # fmt: skip
def test_a_header_that_breaks_a_rule_is_refused(changes, problem):
    refused(*header(**changes), problem)


def test_totals_are_limited():
    layers = [[b"\1" * 32, b"u" * 16, 1 << 40]]
    stack = bytes.fromhex(stack_digest(["01" * 32]))
    frames = 65
    large = [[n * MIB, MIB, MIB, b"d" * 32] for n in range(frames)]
    rows = [[0, 0, frames * 64, 0]]
    refused(*header(stack=stack, layers=layers, frames=large, rows=rows), "larger than all of them may be together")
    assert frames * MIB > MAX_STORED
    small = [[n, 1, MIB, b"d" * 32] for n in range(257)]
    rows = [[0, 0, 257 * 64, 0]]
    refused(*header(stack=stack, layers=layers, frames=small, rows=rows), "larger than all of them may be together")
    assert 257 * MIB > MAX_PLAIN


def test_another_format_is_refused_by_its_number():
    refused(*header(format=2, rows=7), "has format 2, this envkit reads format 1", NewerStart)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "does not begin as one"),
        (b"\x5d\x2a\x4d\x18\xff\xff\xff\xff", f"more than the {MAX_HEADER}"),
        (b"\x5e\x2a\x4d\x18\x00\x00\x00\x00", "does not begin as one"),
        (b"\x5d\x2a\x4d\x18\x01\x00\x00\x00", "its header has 8 bytes"),
        (b"\x5d\x2a\x4d\x18\x00\x00\x00\x00", "truncated"),
        (b"\x5d\x2a\x4d\x18\x01\x00\x00\x00\xc1", "invalid opcode|Expected"),
        (b"\x5d\x2a\x4d\x18\x00\x04\x00\x00" + b"\x91" * 1024, "Expected `int`"),
    ],
)
def test_what_is_no_header_is_refused(data, problem):
    refused(data, hashlib.sha256(data).hexdigest(), problem)


def test_another_digest_is_refused():
    refused(header()[0], "0" * 64, "its header has another digest")


@pytest.mark.parametrize("first", [HEAD, 100])
def test_the_head_is_the_header_and_what_came_with_it(monkeypatch, first):
    monkeypatch.setattr(startpack, "HEAD", first)
    images = Images(8 * MIB)
    granules = random.Random(1).sample(images.all_granules(), 200)
    pack, data = images.pack([Granule(g.layer, g.number, n % 3) for n, g in enumerate(granules)])
    pieces = []

    def get(start, length):
        pieces.append((start, length))
        return data[start : start + length]

    read, head = read_head(get, len(data), pack.digest)
    assert read == pack
    assert data.startswith(head)
    assert len(head) == sum(length for _, length in pieces) == max(first, pack.frames[0].offset)
    assert len(pieces) == (1 if first == HEAD else 2)


def test_an_object_of_another_size_is_refused():
    pack, data = Images(3 * GRANULE).pack()
    for wrong in (data[:-1], data + b"x", data[:20]):
        with pytest.raises(DamagedStart, match=r"bytes instead of|ends in its header"):
            read_head(lambda at, n, wrong=wrong: wrong[at : at + n], len(wrong), pack.digest)


def test_a_frame_is_refused_that_is_not_the_one():
    stored = frame.compressor().compress(bytes(3 * GRANULE))
    data, digest = header(frames=[[0, len(stored), 3 * GRANULE, b"d" * 32]])
    pack = decode(data, digest)
    with pytest.raises(DamagedStart, match="frame 0 has another digest"):
        unpack(pack, 0, stored)
    with pytest.raises(DamagedStart, match="frame 0 is cut short"):
        unpack(pack, 0, stored[:-1])
    with pytest.raises(DamagedStart, match=r"frame 0 .*(broken|declare|readable)"):
        unpack(pack, 0, b"x" * len(stored))


def test_a_frame_that_would_be_a_bomb_is_not_unpacked():
    bomb = frame.compressor().compress(bytes(64 * MIB))
    data, digest = header(frames=[[0, len(bomb), 3 * GRANULE, hashlib.sha256(bytes(64 * MIB)).digest()]])
    with pytest.raises(DamagedStart, match="declares 67108864 bytes instead of 49152"):
        unpack(decode(data, digest), 0, bomb)


def test_limits_fit_one_another():
    assert startpack.MAX_FRAMES * MIB >= MAX_PLAIN
    largest = 8 + 200 + 400 * 70 + startpack.MAX_FRAMES * 50 + (MAX_PLAIN // GRANULE + 400) * 12
    assert largest <= MAX_HEADER


def test_the_document_has_the_limits_of_the_code():
    text = (Path(__file__).parents[3] / "docs/formats.md").read_text()
    section = text.split("## Start packs\n")[1].split("\n## ")[0]
    for limit in (
        f"*granules* of {GRANULE >> 10} KiB",
        f"1 to {startpack.MAX_FRAMES}. `offset`",
        f"`plain` (1 to {startpack.FRAME:,}) bytes",
        f"All `stored` together are at most {MAX_STORED >> 20} MiB, all `plain` at most {MAX_PLAIN >> 20} MiB",
        f"it has at most {MAX_HEADER >> 20} MiB",
        f"`unseen`, 0 to {startpack.MAX_UNSEEN - 1},",
        f"two frames of {FIRST_FRAME >> 10} KiB",
        f"1 to {startpack.MAX_LAYERS}, the whole stack",
    ):
        assert limit in " ".join(section.split()), limit
    assert startpack.MAX_IMAGE == 1 << 50
