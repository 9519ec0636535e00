"""`services/caching` and `services/fill`: fetching all of a layer, killed or damaged in between; quota, drop, check."""

import os
import random

import pytest
from stored_support import Lab

from envkit.cache import catalogue
from envkit.cache.complete import complete_image
from envkit.cache.layer import CachedLayer, LayerMap, create_partial
from envkit.cache.usage import touch
from envkit.config.model import Config
from envkit.content.errors import DamagedChunk
from envkit.drivers import files
from envkit.drivers.files import DiskFull, remove_tree
from envkit.errors import InvalidInput, NotFound
from envkit.image import erofs
from envkit.image.erofs_format import UUID_OFFSET
from envkit.model.blockmap import BlockMap
from envkit.model.ids import EnvName
from envkit.model.session import Session
from envkit.node.instance import write_holder
from envkit.node.session import create_session
from envkit.services import caching, evicting, fill
from envkit.services.context import Context
from envkit.services.fill import fill_layer, load_tree
from envkit.services.layers import layer_images
from envkit.store import versions
from envkit.store.base import Store
from envkit.store.objects import pack_ranges

pytestmark = pytest.mark.root


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path / "here")
    base = lab.save("a", {f"opt/{n}": noise(n, 90_000) for n in range(12)} | {"opt/empty": b""})
    lab.save("b", {"only/b": noise("b", 700_000)}, below=base)
    lab.save("c", {"only/c": noise("c", 50_000), "only/d": None})
    remove_tree(lab.context.paths.trees)  # saves leave theirs
    yield lab
    remove_tree(lab.context.paths.run)


def noise(seed, size):
    return random.Random(str(seed)).randbytes(size)


def version_of(lab, name):
    return versions.load(lab.store, EnvName(owner="lab", name=name), 1)


def place(lab, layer):
    return lab.context.paths.layer(layer.tree)


def fill_it(lab, layer):
    fill_layer(lab.context, layer, f"{place(lab, layer)}/image")


def eager_image(lab, layer):
    """Build the image of a layer without the cache."""
    tree = load_tree(lab.context, layer.tree)
    image = erofs.build(tree)
    data = bytearray(image.size)
    data[: len(image.metadata)] = image.metadata
    plains = dict(fill.ChunkReader(pack_ranges(lab.store)).read_many(tree.chunks, range(len(tree.chunks))))
    for extent in image.blocks:
        piece = plains[extent.chunk][extent.offset : extent.offset + extent.length]
        data[extent.image_offset : extent.image_offset + extent.length] = piece
    return bytes(data)


def files_of(lab, layer):
    return sorted(os.listdir(place(lab, layer)))


def cached(lab):
    return sorted((item.kind, item.digest) for item in catalogue.items(lab.context.paths))


def settled(lab):
    """Let everything in the cache be last used an hour ago."""
    for item in catalogue.items(lab.context.paths):
        target = f"{item.path}/used" if item.kind == "layer" else item.path
        os.utime(target, (os.stat(target).st_mtime - 3600,) * 2)


class Reads:
    """Counts ranges that are read from a store; after `room` of them, `error` comes."""

    def __init__(self, monkeypatch, room=10**9, error=KeyboardInterrupt):
        self.count = 0
        real = Store.get_range

        def get_range(store, *args):
            self.count += 1
            if self.count > room:
                raise error
            return real(store, *args)

        monkeypatch.setattr(Store, "get_range", get_range)


def test_a_layer_is_filled_whole(lab):
    layer = version_of(lab, "b").layers[1]
    fill_it(lab, layer)
    with open(f"{place(lab, layer)}/image", "rb") as file:
        assert file.read() == eager_image(lab, layer)
    assert files_of(lab, layer) == ["complete", "image", "lock", "map", "ready", "used"]
    assert complete_image(place(lab, layer)) is not None


def test_it_is_filled_once(lab, monkeypatch):
    layer = version_of(lab, "b").layers[1]
    fill_it(lab, layer)
    reads = Reads(monkeypatch)
    fill_it(lab, layer)
    assert reads.count == 0
    assert files_of(lab, layer) == ["complete", "image", "lock", "map", "ready", "used"]


def test_a_layer_without_content_is_filled(lab):
    lab.save("nothing", {"some/directory": None})
    layer = version_of(lab, "nothing").layers[0]
    fill_it(lab, layer)
    assert complete_image(place(lab, layer)) is not None


@pytest.mark.parametrize("size", [0, 8192, -1])
def test_an_image_that_was_cut_is_filled_again(lab, size):
    layer = version_of(lab, "b").layers[1]
    fill_it(lab, layer)
    image = f"{place(lab, layer)}/image"
    os.truncate(image, size if size >= 0 else os.stat(image).st_size - 1)
    assert complete_image(place(lab, layer)) is None
    layer_images(Context(Config(root=lab.root, store=lab.store_path, owner="lab", fetch="eager")), [layer])
    with open(image, "rb") as file:
        assert file.read() == eager_image(lab, layer)


def test_who_goes_on_after_a_stop_fetches_only_the_rest(lab, monkeypatch):
    monkeypatch.setattr(fill, "_BATCH", 1)
    layer = version_of(lab, "a").layers[0]
    whole = Reads(monkeypatch)
    with monkeypatch.context() as stopping:
        Reads(stopping, room=5)
        with pytest.raises(KeyboardInterrupt):
            fill_it(lab, layer)
    assert "eager" in files_of(lab, layer) and "image" not in files_of(lab, layer)
    before = whole.count
    fill_it(lab, layer)
    rest = whole.count - before
    with open(f"{place(lab, layer)}/image", "rb") as file:
        assert file.read() == eager_image(lab, layer)
    assert "eager" not in files_of(lab, layer)
    chunks = len(load_tree(lab.context, layer.tree).chunks)
    assert chunks > 5
    assert 0 < rest < chunks


def test_a_chunk_that_is_damaged_in_the_store_never_gets_into_an_image(lab):
    layer = version_of(lab, "c").layers[0]
    pack = load_tree(lab.context, layer.tree).chunks[0].pack.hex()
    path = f"{lab.store_path}/packs/{pack[:2]}/{pack}"
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(os.stat(path).st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(DamagedChunk):
        fill_it(lab, layer)
    assert "image" not in files_of(lab, layer)


def test_a_full_disk_leaves_nothing(lab, monkeypatch):
    layer = version_of(lab, "b").layers[1]

    def full(self, number, plain):
        raise DiskFull("x")

    monkeypatch.setattr(CachedLayer, "put_chunk", full)
    with pytest.raises(DiskFull):
        fill_it(lab, layer)
    assert files_of(lab, layer) == ["used"]


def serve(lab, layer, numbers, *, blocks=None, uuid=None):
    """Open a layer as the image server does, with some of its chunks there."""
    tree = load_tree(lab.context, layer.tree)
    image = erofs.build(tree)
    metadata = bytearray(image.metadata)
    place_of_uuid = slice(UUID_OFFSET, UUID_OFFSET + 16)
    metadata[place_of_uuid] = uuid or metadata[place_of_uuid]
    layer_map = LayerMap(
        size=image.size,
        metadata=len(metadata),
        uuid=bytes(metadata[place_of_uuid]),
        blocks=blocks or image.blocks,
        chunks=tree.chunks,
    )
    create_partial(place(lab, layer), layer_map, bytes(metadata))
    serving = CachedLayer.open(place(lab, layer))
    for number, plain in fill.ChunkReader(pack_ranges(lab.store)).read_many(tree.chunks, numbers):
        serving.put_chunk(number, plain)
    serving.flush()
    return serving


def test_what_is_served_meanwhile_goes_on(lab):
    layer = version_of(lab, "b").layers[1]
    serving = serve(lab, layer, [0])
    fill_it(lab, layer)
    assert complete_image(place(lab, layer)) is not None
    whole = eager_image(lab, layer)
    numbers = serving.missing(0, serving.map.size)
    assert numbers and 0 not in numbers
    for number, plain in fill.ChunkReader(pack_ranges(lab.store)).read_many(serving.map.chunks, numbers):
        serving.put_chunk(number, plain)
    assert serving.read(0, serving.map.size) == whole
    assert serving.finish()
    serving.close()
    with open(f"{place(lab, layer)}/image", "rb") as file:
        assert file.read() == whole


@pytest.mark.parametrize("damaged", [False, True])
def test_what_was_served_before_is_not_fetched_again(lab, monkeypatch, damaged):
    monkeypatch.setattr(fill, "_BATCH", 1)
    layer = version_of(lab, "b").layers[1]
    chunks = load_tree(lab.context, layer.tree).chunks
    serving = serve(lab, layer, range(1, len(chunks)))
    if damaged:
        (extent, *_) = serving.map.blocks.lookup(serving.map.size - 8192, 4096)
        damage(f"{place(lab, layer)}/partial", extent.image_offset)
    reads = Reads(monkeypatch)
    fill_it(lab, layer)
    assert len(chunks) > 3 and reads.count == 1 + damaged
    serving.close()
    with open(f"{place(lab, layer)}/image", "rb") as file:
        assert file.read() == eager_image(lab, layer)


def test_nothing_is_taken_from_an_image_of_another_layout(lab):
    layer = version_of(lab, "b").layers[1]
    tree = load_tree(lab.context, layer.tree)
    blocks = BlockMap()
    for extent in erofs.build(tree).blocks:  # it has less of each chunk
        blocks.append(extent.image_offset, (extent.length + 1) // 2, extent.chunk, extent.offset)
    serve(lab, layer, range(len(tree.chunks)), blocks=blocks, uuid=bytes(16)).close()
    fill_it(lab, layer)
    with open(f"{place(lab, layer)}/image", "rb") as file:
        assert file.read() == eager_image(lab, layer)


def test_a_served_layer_that_was_cut_is_fetched_whole(lab):
    layer = version_of(lab, "b").layers[1]
    serve(lab, layer, [0]).close()
    os.truncate(f"{place(lab, layer)}/partial", 8192)
    fill_it(lab, layer)
    with open(f"{place(lab, layer)}/image", "rb") as file:
        assert file.read() == eager_image(lab, layer)
    assert files_of(lab, layer) == ["complete", "image", "lock", "map", "ready", "used", "writer"]


def test_warm_fetches_what_is_missing(lab):
    done = caching.warm(lab.context, ["b", "a@1"])
    assert [(item.version, item.layers, item.fetched) for item in done] == [("lab/b@1", 2, 2), ("lab/a@1", 1, 0)]
    found = caching.listing(lab.context)
    assert {entry.share for entry in found.entries} == {1.0}
    assert found.bytes == sum(entry.item.bytes for entry in found.entries) < found.limit
    assert not any(entry.in_use for entry in found.entries)


def test_warm_fetches_nothing_if_a_name_is_wrong(lab):
    with pytest.raises(NotFound):
        caching.warm(lab.context, ["b", "nobody"])
    assert cached(lab) == []


def test_an_environment_that_does_not_fit_is_told(lab, monkeypatch):
    caching.warm(lab.context, ["a"])
    settled(lab)
    small = Context(Config(root=lab.root, store=lab.store_path, owner="lab", cache_quota="1K"))
    monkeypatch.setattr(catalogue, "FRESH", -1.0)
    with pytest.raises(caching.QuotaTooSmall, match="too little for lab/b@1"):
        caching.warm(small, ["b"])


def test_a_fill_evicts_what_was_used_longest_ago(lab):
    a, b = version_of(lab, "a").layers[0], version_of(lab, "b").layers[1]
    caching.warm(lab.context, ["b"])
    settled(lab)
    touch(place(lab, b))
    small = Context(Config(root=lab.root, store=lab.store_path, owner="lab", cache_quota="1M"))
    caching.warm(small, ["c"])
    assert ("layer", a.tree) not in cached(lab)
    assert ("layer", b.tree) in cached(lab)
    assert ("layer", version_of(lab, "c").layers[0].tree) in cached(lab)
    assert [name for name in os.listdir(lab.context.paths.layers) if name.startswith("~")] == []


def test_a_layer_is_filled_where_the_quota_cannot_be_kept(lab, monkeypatch, caplog):
    def fail(context):
        raise NotFound("a session is gone")

    monkeypatch.setattr(fill, "keep_quota", fail)
    layer = version_of(lab, "c").layers[0]
    fill_it(lab, layer)
    assert files_of(lab, layer) == ["complete", "image", "lock", "map", "ready", "used"]
    assert caplog.messages == ["the cache is not brought down to its quota: a session is gone"]


def test_collecting_says_what_it_would_do(lab):
    caching.warm(lab.context, ["b"])
    settled(lab)
    small = Context(Config(root=lab.root, store=lab.store_path, owner="lab", cache_quota="1K"))
    before = cached(lab)
    would = caching.collect(small, dry_run=True)
    assert len(would.items) == 4 and would.limit == 1024 and would.bytes == 0
    assert cached(lab) == before
    assert caching.evicted_json(caching.collect(small, dry_run=False)) == caching.evicted_json(would)
    assert cached(lab) == []


@pytest.fixture
def mounted(lab):
    """A running job that has the layers of `b` mounted."""
    version = version_of(lab, "b")
    evicting.prepare(lab.context.paths)
    directory = f"{lab.context.paths.runs}/job"
    os.mkdir(directory)
    write_holder(directory, os.getpid(), tuple(layer.tree for layer in version.layers))
    return version


def test_what_is_mounted_is_neither_evicted_nor_dropped(lab, mounted):
    caching.warm(lab.context, ["b", "c"])
    settled(lab)
    kept = sorted((kind, layer.tree) for kind in ("layer", "tree") for layer in mounted.layers)
    small = Context(Config(root=lab.root, store=lab.store_path, owner="lab", cache_quota="1K"))
    caching.collect(small, dry_run=False)
    assert cached(lab) == kept
    done = caching.drop_all(lab.context)
    assert done.items == () and len(done.kept) == 4
    assert cached(lab) == kept
    assert [entry.in_use for entry in caching.listing(lab.context).entries] == [True] * 4


def test_the_layers_of_an_open_session_stay(lab):
    version = version_of(lab, "b")
    session = Session(
        env=EnvName(owner="lab", name="open"),
        identity="0123456789",
        base="base/x@1",
        parent=str(version),
        layers=version.layers[:1],
        arch="x86_64",
        known=0,
    )
    create_session(lab.context.paths, session)
    caching.warm(lab.context, ["b"])
    settled(lab)
    assert {item.digest for item in caching.drop_all(lab.context).kept} == {version.layers[0].tree}
    (users, _) = caching.why(lab.context, "b")
    assert users.sessions == ("lab/open",) and users.processes == ()


def test_drop_takes_environments_and_layers(lab):
    caching.warm(lab.context, ["b", "c"])
    tree = version_of(lab, "c").layers[0].tree
    assert len(caching.drop_named(lab.context, [tree[:10]]).items) == 2
    assert len(cached(lab)) == 4
    assert len(caching.drop_named(lab.context, ["b"]).items) == 4
    assert cached(lab) == []
    assert caching.drop_named(lab.context, ["b"]).items == ()
    with pytest.raises(NotFound, match="no layer 0123456789"):
        caching.drop_named(lab.context, ["0123456789"])


def test_short_digests_have_to_be_clear(lab):
    os.makedirs(lab.context.paths.layer("ab" * 31 + "01"))
    os.makedirs(lab.context.paths.layer("ab" * 31 + "02"))
    with pytest.raises(InvalidInput, match="2 layers begin with abababab"):
        caching.drop_named(lab.context, ["abababab"])


def test_why_names_all_who_need_a_layer(lab, mounted):
    caching.warm(lab.context, ["b"])
    lower, upper = caching.why(lab.context, "b")
    assert (lower.digest, upper.digest) == tuple(layer.tree for layer in mounted.layers)
    assert lower.versions == ("lab/a@1", "lab/b@1") and upper.versions == ("lab/b@1",)
    assert lower.processes == (os.getpid(),) and lower.sessions == ()
    assert lower.share == 1.0 and lower.item.bytes > 0
    lab.delete(version_of(lab, "b"))
    (alone,) = caching.why(lab.context, upper.digest[:12])
    assert alone.versions == () and caching.users_json(alone)["cached"]["share"] == 1.0
    (unknown,) = caching.why(lab.context, "c")
    assert unknown.item is None and unknown.share == 0.0 and caching.users_json(unknown)["cached"] is None


def damage(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_check_drops_what_is_damaged_and_nothing_else(lab):
    caching.warm(lab.context, ["b", "c"])
    assert caching.check(lab.context).damaged == []
    lower, upper = version_of(lab, "b").layers
    damage(f"{place(lab, upper)}/image", os.stat(f"{place(lab, upper)}/image").st_size - 4096 * 20)
    damage(f"{lab.context.paths.trees}/{lower.tree}", 100)
    done = caching.check(lab.context)
    assert sorted((item.kind, item.digest) for item in done.damaged) == [("layer", upper.tree), ("tree", lower.tree)]
    assert len(done.found) == 6 and done.skipped == [] and done.mended == []
    assert len(cached(lab)) == 4
    assert not os.path.exists(place(lab, upper))
    assert [item.fetched for item in caching.warm(lab.context, ["b"])] == [1]
    assert caching.check(lab.context).damaged == []


def test_a_check_that_drops_is_not_stopped_by_a_mount(lab, mounted):
    caching.warm(lab.context, ["b"])
    upper = mounted.layers[1]
    os.truncate(f"{place(lab, upper)}/image", 8192)
    assert [item.digest for item in caching.check(lab.context).damaged] == [upper.tree]
    assert not os.path.exists(place(lab, upper))


def test_an_eviction_that_was_killed_is_finished_by_the_next(lab, monkeypatch):
    caching.warm(lab.context, ["c"])
    with monkeypatch.context() as killed:
        killed.setattr(catalogue, "remove_tree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            caching.drop_all(lab.context)
    assert len(os.listdir(lab.context.paths.layers)) == 1
    assert files.is_locked(lab.context.paths.lock) is False
    caching.collect(lab.context, dry_run=False)
    assert os.listdir(lab.context.paths.layers) == []
