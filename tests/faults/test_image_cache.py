"""Whatever happens to the cache, the store and what is between: readers get the right bytes, or an error in time.

As `test_image_server`, which is about the processes.
"""

import os
import random
import shutil
import subprocess
import time

import pytest
from fault_proxy import FaultProxy, Rule
from faults.image_world import Node, Origin, right, store_away, store_back, wait_until
from faults.scenarios import SEED
from s3_support import s3_variables, variables

from envkit.cache import mapfile
from envkit.content.startpack import Granule
from envkit.content.startpacker import encode
from envkit.model.startpack import GRANULE, ImageLayer
from envkit.services.verifying import verify
from envkit.store import starts
from envkit.store.open import open_store

pytestmark = pytest.mark.root


# The store


def test_a_store_that_is_away_for_a_while_is_waited_for(new_node):
    node = new_node()
    with store_away(node), node.readers(3) as readers:
        assert not any(reader.ended(seconds=0.7) for reader in readers)
        store_back(node)
        for reader in readers:
            right(reader.result())


def test_a_store_that_is_away_for_too_long_costs_errors_that_are_explained(new_node):
    node = new_node(variants=("impatient",))
    with store_away(node):
        outcome = node.read(most=2, bound=30)
        assert outcome["wrong"] == []
        assert outcome["errors"]
        assert all("Input/output error" in error for error in outcome["errors"])
        assert "packs/" in node.log
        assert "did not arrive within 2 seconds" in node.log
    right(node.read())


def damaged_store(node, place):
    """Turn a bit in each frame of a copy of the origin's store; return its path."""
    shutil.copytree(node.origin.store, place)
    for chunk in mapfile.load(node.directory).map.chunks[::40]:
        path = f"{place}/packs/{chunk.pack.hex()[:2]}/{chunk.pack.hex()}"
        os.chmod(path, 0o644)
        flip(path, chunk.offset + chunk.stored // 2)
    return place


def flip(path, offset):
    """Turn one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 4]))


def test_a_flipped_bit_in_the_store_is_an_error_that_names_the_object(new_node, scratch):
    good = new_node()
    store = damaged_store(good, f"{scratch}/damaged")
    node = new_node(store=store)
    outcome = node.read()
    assert outcome["wrong"] == []
    assert outcome["errors"]
    named = {damage.key for damage in verify(node.context, data=True).damages}
    assert named
    assert all(os.path.basename(key) in node.log for key in named)


def test_what_one_store_cannot_give_another_does(new_node, scratch):
    good = new_node()
    store = damaged_store(good, f"{scratch}/damaged")
    node = new_node(store=store)
    node.open(store=node.origin.store)  # another client, whose store is the origin
    node.open(store=store)  # the one that is named last is asked first
    right(node.read())


# Between them


@pytest.fixture(scope="module")
def far_origin(disk, s3):
    """The environment in a server of S3."""
    url = s3.new_url()
    s3.new_store(url)
    with variables(s3.variables):
        yield Origin(f"{disk}/far-origin", store=url)


@pytest.fixture
def proxy(s3):
    """A proxy before that server."""
    host, _, port = s3.endpoint.removeprefix("http://").partition(":")
    with FaultProxy(host, int(port), seed=SEED) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", ["flip", "other", "cut", "503"])
def test_faults_on_the_way_cost_time_only(new_node, far_origin, proxy, fault):
    with variables(s3_variables(proxy.endpoint)):
        node = new_node(origin=far_origin)
        proxy.rules = [Rule(fault, method="GET", key="/packs/", nth=2, times=3)]
        right(node.read())
    assert proxy.met == 3


def test_a_server_that_does_not_answer_for_a_while_is_waited_for(new_node, far_origin, proxy):
    with variables(s3_variables(proxy.endpoint)):
        node = new_node(origin=far_origin)
        proxy.rules = [Rule("reset", method="GET", key="/packs/", times=None)]
        with node.readers(2) as readers:
            assert not any(reader.ended(seconds=1) for reader in readers)
            assert proxy.met
            proxy.rules = []
            for reader in readers:
                right(reader.result())


# The cache


def removed(path):
    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def emptied(path):
    os.truncate(path, 0)


def halved(path):
    os.truncate(path, os.stat(path).st_size // 2)


def one_byte_less(path):
    os.truncate(path, os.stat(path).st_size - 1)


def regrown(path, *, left=0):
    """Cut, and grown again by somebody who writes to it."""
    size = os.stat(path).st_size
    os.truncate(path, left)
    os.truncate(path, size - 4096)


def replaced(path):
    """Another file of the same size."""
    size = os.stat(path).st_size
    with open(f"{path}.other", "wb") as file:
        file.write(random.Random(SEED).randbytes(min(size, 5000)))
        file.truncate(size)
    os.rename(f"{path}.other", path)


def a_fifo(path):
    os.unlink(path)
    os.mkfifo(path)


def a_link(path):
    os.unlink(path)
    os.symlink("/dev/zero", path)


def junk(path):
    """Other bytes in the same file."""
    with open(path, "r+b") as file:
        rng = random.Random(SEED)
        for offset in range(0, os.stat(path).st_size, 500_000):
            file.seek(offset)
            file.write(rng.randbytes(1000))


# Bytes that the server has verified, it does not verify again: what root writes into an open file shows until the next
# start. So junk in `partial` is for the time between.
_WHILE_READ = {
    "partial": [removed, emptied, regrown, replaced],
    "map": [removed, junk],
    "ready": [removed, junk],
    "": [removed],
    "..": [removed],
}
_BETWEEN = {
    "partial": [removed, halved, one_byte_less, a_fifo, a_link, junk],
    "map": [removed, halved, replaced, junk],
    "ready": [halved, a_fifo, junk],
    "": [removed],
}


def harms(files):
    """Have a test done with each kind of harm to each file."""
    rows = [pytest.param(name, harm, id=f"{name}-{harm.__name__}") for name in files for harm in files[name]]
    return pytest.mark.parametrize(("name", "harm"), rows)


@pytest.fixture(scope="module")
def served(disk, origin):
    """A node that has read everything once, and a copy of its cache."""
    with Node(f"{disk}/served", origin) as node:
        right(node.read())
        node.shut()
        shutil.copytree(node.directory, f"{disk}/served-copy")
        yield node, f"{disk}/served-copy"


@harms(_WHILE_READ)
def test_harm_to_the_cache_while_it_is_read_costs_time_only(served, name, harm):
    node, _ = served
    node.shut()
    shutil.rmtree(node.directory, ignore_errors=True)
    node.open()
    with node.readers(2, again=True) as readers:
        wait_until(lambda: node.fetched, "something is read")
        wait_until(lambda: name != "ready" or os.path.exists(f"{node.directory}/ready"), "something is durable")
        harm(os.path.normpath(f"{node.directory}/{name}"))
        time.sleep(0.1)
        for reader in readers:
            right(reader.result())


@harms(_BETWEEN)
def test_harm_to_the_cache_between_two_servers_costs_time_only(served, name, harm):
    node, copy = served
    node.shut()
    shutil.rmtree(node.directory, ignore_errors=True)
    shutil.copytree(copy, node.directory)
    harm(os.path.normpath(f"{node.directory}/{name}"))
    node.open()
    right(node.read())


def test_bits_that_flip_in_the_cache_are_noticed_and_put_right(new_node):
    node = new_node()
    right(node.read())
    node.shut()
    size = mapfile.load(node.directory).map.size
    for offset in range(100, size, size // 40):
        flip(f"{node.directory}/partial", offset)
    node.open()
    right(node.read())
    assert "the metadata of its image is damaged" in node.log


def test_bits_that_flip_and_are_not_looked_for_come_out(new_node):
    node = new_node(variants=("no-verification",))
    right(node.read())
    node.shut()
    layer = mapfile.load(node.directory).map
    for offset in range(layer.metadata + 100, layer.size, layer.size // 40):
        flip(f"{node.directory}/partial", offset)
    node.open()
    assert node.read()["wrong"]


def read_cut_read(node):
    """Read some files, cut the data file and let it grow again, read all files; return what came of that."""
    right(node.read(most=200))
    regrown(f"{node.directory}/partial", left=mapfile.load(node.directory).map.metadata)
    return node.read()


def test_a_data_file_that_was_cut_gives_no_zeros(new_node):
    right(read_cut_read(new_node()))


def test_zeros_of_a_cut_data_file_that_nobody_looks_for_come_out(new_node):
    assert "bytes are 0" in read_cut_read(new_node(variants=("no-size-check",)))["wrong"][0]


def is_whole(node):
    layer = node.state()["layers"][0]
    return layer["ready"] == layer["size"]


def test_a_full_disk_keeps_nobody_from_reading(new_node, scratch):
    disk = f"{scratch}/small"
    os.mkdir(disk)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "small", disk], check=True)
    try:
        node = new_node(place=f"{disk}/root", variants=("little-memory",))
        with node.readers(3) as readers:
            for reader in readers:
                right(reader.result())
        assert "no space left" in node.log.lower()
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        right(node.read())
        wait_until(lambda: is_whole(node), "what was in memory goes to the disk")
        node.close_for_good()
    finally:
        subprocess.run(["umount", disk], check=True)


# Start packs


_ENTRY = "true"


def keep_start_pack(store, node, change=lambda granule, data: data, *, uuid=None, spoil=lambda pieces: pieces):
    """Store a start pack of some megabytes of the image, its bytes changed; return the granules."""
    known = mapfile.load(node.directory).map
    layer = ImageLayer(digest=node.layer.tree, uuid=uuid or known.uuid, size=known.size, data=known.metadata)
    with open(f"{node.directory}/partial", "rb") as file:
        image = file.read(known.size)
    # It ends within a chunk, so that who reads what follows fetches bytes that the start pack has, too.
    extents = [extent for extent in known.blocks if extent.length > 4 * GRANULE]
    last = (extents[len(extents) // 2].image_offset + 2 * GRANULE) // GRANULE
    granules = list(range(last - 300, last))
    made = encode(
        (layer,),
        _ENTRY,
        [Granule(0, number) for number in granules],
        lambda layer, number: change(number, image[number * GRANULE : (number + 1) * GRANULE]),
        level=1,
    )
    starts.put(
        open_store(store),
        node.origin.version.env,
        stack=made.pack.stack,
        entry_point=_ENTRY,
        digest=made.pack.digest,
        pieces=spoil((made.header, *made.frames)),
    )
    return granules


@pytest.fixture(scope="module")
def teacher(disk, origin):
    """A node that knows the whole image."""
    with Node(f"{disk}/teacher", origin) as node:
        right(node.read())
        yield node


@pytest.fixture
def store(scratch, origin):
    """A store for start packs of a test."""
    return shutil.copytree(origin.store, f"{scratch}/store")


def helped(new_node, store):
    """Return a fresh node for whose environment start packs are looked for."""
    node = new_node(store=store, started=False)
    node.open(environment="lab/sci", command=(_ENTRY,))
    return node


def inverted(granule, data):
    return bytes(byte ^ 255 for byte in data)


def test_a_start_pack_brings_right_bytes(new_node, teacher, store):
    granules = keep_start_pack(store, teacher)
    node = helped(new_node, store)
    wait_until(lambda: has_come(node, teacher, granules[-1]), "the start pack comes")
    right(node.read())
    assert "start pack" not in node.log


def has_come(node, teacher, granule, change=lambda granule, data: data):
    """Tell whether a granule of a start pack is in a node's cache."""
    found = []
    for one in (node, teacher):
        with open(f"{one.directory}/partial", "rb") as file:
            found.append(os.pread(file.fileno(), GRANULE, granule * GRANULE))
    return found[0] == change(granule, found[1])


def test_wrong_bytes_of_a_start_pack_are_detected_and_not_served_again(new_node, teacher, store):
    granules = keep_start_pack(store, teacher, inverted)
    node = helped(new_node, store)
    wait_until(lambda: has_come(node, teacher, granules[-1], inverted), "the start pack comes")
    first = node.read()
    assert first["wrong"], "the start pack was not used"
    assert first["errors"] == []
    wait_until(lambda: "a start pack has wrong bytes" in node.log, "it is complained about")
    right(node.read())
    node.open(environment="lab/sci", command=(_ENTRY,))  # it comes again, and is not taken
    right(node.read())


def test_a_start_pack_of_another_image_is_passed_over(new_node, teacher, store):
    keep_start_pack(store, teacher, inverted, uuid=bytes(range(16)))
    right(helped(new_node, store).read())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pieces: [b"".join(pieces)[:-5000]],
        lambda pieces: [pieces[0], *(bytes(len(piece)) for piece in pieces[1:])],
        lambda pieces: [random.Random(SEED).randbytes(50_000)],
    ],
    ids=["cut", "zeros", "garbage"],
)
def test_a_damaged_start_pack_is_passed_over(new_node, teacher, store, spoil):
    keep_start_pack(store, teacher, inverted, spoil=spoil)
    node = helped(new_node, store)
    right(node.read())
    assert "start pack" in node.log
