"""`services/repairing`: every damage heals from every source that has the bytes, and from nothing that has others."""

import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from stored_support import Lab

from envkit.cache.layer import CachedLayer
from envkit.content import treefile
from envkit.content.pack import header
from envkit.content.reader import unpack_chunk
from envkit.errors import InvalidInput
from envkit.model.ids import EnvName
from envkit.ondemand.prepare import prepare
from envkit.services import copying
from envkit.services.context import Context
from envkit.services.layers import layer_images
from envkit.services.publishing import Writer
from envkit.services.repairing import repair, repaired_json
from envkit.services.verifying import verify
from envkit.store import layout, roots, versions
from envkit.store.objects import get_tree

pytestmark = pytest.mark.root


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path / "here")
    base = lab.save("a", {f"opt/{n}": noise(n, 40_000) for n in range(6)})
    lab.save("b", {"only/b": noise("b", 100_000)}, below=base)
    lab.save("c", {"only/c": noise("c", 300_000), "only/d": noise("d", 300_000)})
    lab.whole = contents(lab.store_path)
    return lab


@pytest.fixture
def mirror(lab, tmp_path):
    """A copy of the whole store."""
    shutil.copytree(lab.store_path, tmp_path / "mirror")
    return str(tmp_path / "mirror")


def noise(seed, size):
    return random.Random(str(seed)).randbytes(size // 2) + bytes(size - size // 2)


def contents(directory):
    """Return every object of a store."""
    found = {}
    for place, _, names in os.walk(directory):
        for name in names:
            with open(f"{place}/{name}", "rb") as file:
                found[os.path.relpath(f"{place}/{name}", directory)] = file.read()
    return found


def version_of(lab, name):
    return versions.load(lab.store, EnvName(owner="lab", name=name), 1)


def tree_of(lab, name):
    digest = version_of(lab, name).layers[-1].tree
    return digest, treefile.decode(get_tree(lab.store, digest), digest)


def pack_of(lab, name):
    return layout.pack_key(tree_of(lab, name)[1].chunks[0].pack.hex())


def objects_of(lab, name):
    """Return the keys of the record, the tree and the pack of an environment's own layer."""
    return {"record": f"envs/lab/{name}/00000001.json", "tree": layout.tree_key(tree_of(lab, name)[0]), "pack": pack_of(lab, name)}  # fmt: skip


def rewrite(lab, key, change):
    path = f"{lab.store_path}/{key}"
    with open(path, "rb") as file:
        data = change(file.read())
    os.unlink(path)
    if data is not None:
        with open(path, "wb") as file:
            file.write(data)


def flipped(data, place=None):
    place = len(data) // 2 if place is None else place
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def forget_caches(lab):
    shutil.rmtree(f"{lab.root}/cache", ignore_errors=True)


def is_whole(lab):
    """Tell whether the store is byte for byte what it was, but for notes, and verifies."""
    forget_caches(lab)
    found = contents(lab.store_path)
    return found == lab.whole and verify(lab.fresh_context(), data=True).damages == []


def mend(lab, source=None):
    return repair(lab.fresh_context(), source)


CHANGES = {
    "flipped": flipped,
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "missing": lambda data: None,
    "garbage": lambda data: os.urandom(len(data)),
}


def test_a_whole_store_is_left_alone(lab):
    done = mend(lab)
    assert (done.mended, done.left) == ([], [])
    assert is_whole(lab)


@pytest.mark.parametrize(
    ("kind", "change"),
    [(kind, change) for kind in ("record", "tree", "pack") for change in CHANGES if (kind, change) != ("record", "missing")],
)  # fmt: skip
def test_every_object_heals_from_a_copy_of_the_store(lab, mirror, kind, change):
    forget_caches(lab)
    rewrite(lab, objects_of(lab, "c")[kind], CHANGES[change])
    assert len(verify(lab.fresh_context(), data=True).damages) == 1
    done = mend(lab, mirror)
    assert (len(done.mended), done.left) == (1, [])
    assert is_whole(lab)
    assert repaired_json(done)["mended"][0]["object"] == done.mended[0].key


def test_a_record_that_is_gone_heals_where_a_collection_has_seen_it(lab, mirror):
    roots.note(lab.store, {EnvName(owner="lab", name="c"): 1})
    forget_caches(lab)
    rewrite(lab, objects_of(lab, "c")["record"], CHANGES["missing"])
    (left,) = mend(lab).left
    assert "envkit repair --from STORE" in left.resolution
    assert "remove all objects below roots/" in left.resolution
    done = mend(lab, mirror)
    assert ([damage.kind for damage in done.mended], done.left) == (["lost version"], [])
    assert verify(lab.fresh_context(), data=True).damages == []


def test_a_list_of_what_collections_have_seen_is_not_mended(lab):
    roots.note(lab.store, {EnvName(owner="lab", name="c"): 1})
    rewrite(lab, "roots/00000001", flipped)
    (left,) = mend(lab).left
    assert "the one that was written before it counts" in left.resolution


def test_everything_at_once_heals_from_a_copy_of_the_store(lab, mirror):
    forget_caches(lab)
    for key in [key for key in lab.whole if key != "format.json"]:
        rewrite(lab, key, flipped)
    done = mend(lab, mirror)
    assert len(done.mended) == 9
    assert is_whole(lab)


def test_a_pack_heals_from_another_store_that_has_its_chunks_in_other_packs(lab, tmp_path):
    there = Lab(tmp_path / "there")
    there.save("others", {"first": noise("first", 200_000)})
    version = version_of(lab, "c")
    # The same files in other company: other packs, the same chunks.
    there.save("mine", {"more": noise("more", 50_000), "only/c": noise("c", 300_000), "only/d": noise("d", 300_000)})
    forget_caches(lab)
    rewrite(lab, pack_of(lab, "c"), lambda data: None)
    assert version.layers[0].tree not in {key[-64:] for key in there.store.list("trees/")}
    done = mend(lab, there.store_path)
    assert (len(done.mended), done.left) == (1, [])
    assert is_whole(lab)


def test_a_copied_environment_heals_its_source(lab, tmp_path):
    there = Lab(tmp_path / "there")
    copying.copy(lab.fresh_context(), "b", there.store_path)
    forget_caches(lab)
    for name in ("a", "b"):
        rewrite(lab, objects_of(lab, name)["tree"], lambda data: None)
    done = mend(lab, there.store_path)
    assert (len(done.mended), done.left) == (2, [])
    assert is_whole(lab)


def test_a_tree_heals_from_this_nodes_cache(lab):
    rewrite(lab, objects_of(lab, "a")["tree"], flipped)
    done = mend(lab)
    assert (len(done.mended), done.left) == (1, [])
    assert is_whole(lab)


def eager(lab):
    """The use cases of a node that fetches all of a layer before it starts."""
    return Context(lab.context.config.replace(fetch="eager"))


@pytest.mark.parametrize("change", CHANGES)
def test_a_pack_heals_from_the_images_of_layers_that_ran_here(lab, change):
    layer_images(eager(lab), version_of(lab, "c").layers)
    rewrite(lab, pack_of(lab, "c"), CHANGES[change])
    done = mend(lab)
    assert (len(done.mended), done.left) == (1, [])
    assert is_whole(lab)


def test_an_image_with_other_content_is_no_source(lab):
    ((_, path),) = layer_images(eager(lab), version_of(lab, "c").layers).files
    with open(path, "r+b") as file:
        file.seek(-300_000, os.SEEK_END)
        file.write(b"other" * 10_000)
    rewrite(lab, pack_of(lab, "c"), lambda data: None)
    done = mend(lab)
    assert (done.mended, len(done.left)) == ([], 1)
    assert pack_of(lab, "c") not in contents(lab.store_path)


def hold(lab, name, wanted, *, flush=True):
    """Have this node hold some chunks of an environment's own layer, as a run leaves them that was not for all of it."""
    digest, tree = tree_of(lab, name)
    paths = lab.context.paths
    prepare(paths, digest, lambda: get_tree(lab.store, digest))
    layer = CachedLayer.open(paths.layer(digest))
    held = [number for number, chunk in enumerate(tree.chunks) if wanted(chunk)]
    for number in held:
        chunk = tree.chunks[number]
        data = lab.store.get_range(layout.pack_key(chunk.pack.hex()), chunk.offset, chunk.stored)
        layer.put_chunk(number, unpack_chunk(chunk, data))
    if flush:
        layer.flush()
    layer.close()
    assert len(held) > 0
    assert not os.path.exists(f"{paths.layer(digest)}/image")
    return f"{paths.layer(digest)}/partial", tree


def broken_pack(lab):
    """Flip a bit in the first chunk of a pack, and return that chunk."""
    first = min(tree_of(lab, "c")[1].chunks, key=lambda chunk: chunk.offset)
    rewrite(lab, pack_of(lab, "c"), lambda data: flipped(data, first.offset + 100))
    return first


def test_a_chunk_heals_from_a_layer_that_is_here_in_part(lab):
    first = min(tree_of(lab, "c")[1].chunks, key=lambda chunk: chunk.offset)
    hold(lab, "c", lambda chunk: chunk == first)
    broken_pack(lab)
    done = mend(lab)
    assert (len(done.mended), done.left) == (1, [])
    assert is_whole(lab)


def test_a_pack_heals_from_the_parts_that_several_layers_have(lab):
    lab.save("twin", {"only/c": noise("c", 300_000), "only/d": noise("d", 300_000), "x": noise("x", 90_000)})
    lab.whole = contents(lab.store_path)
    pack = pack_of(lab, "c")
    ordered = sorted(tree_of(lab, "c")[1].chunks, key=lambda chunk: chunk.offset)
    assert len(ordered) >= 2
    hold(lab, "c", lambda chunk: chunk in ordered[::2])
    hold(lab, "twin", lambda chunk: chunk in ordered[1::2])
    rewrite(lab, pack, lambda data: None)
    done = mend(lab)
    assert (len(done.mended), done.left) == (1, [])
    assert is_whole(lab)


@pytest.mark.parametrize("why", ["another chunk", "not said to be there", "damaged", "cut", "map damaged"])
def test_a_layer_that_has_not_the_very_chunk_is_no_source(lab, why):
    first = min(tree_of(lab, "c")[1].chunks, key=lambda chunk: chunk.offset)
    other = why == "another chunk"
    path, _ = hold(lab, "c", lambda chunk: (chunk == first) != other, flush=why != "not said to be there")
    if why in ("damaged", "cut"):
        with open(path, "r+b") as file:
            data = file.read()
            # The content of the chunk: nothing but zeros lies in the holes behind the metadata.
            place = next(n for n in range(len(data) - 4096, 0, -4096) if any(data[n : n + 4096]))
            file.seek(place)
            file.write(bytes(4096))
            if why == "cut":
                file.truncate(place)
    if why == "map damaged":
        with open(f"{os.path.dirname(path)}/map", "r+b") as file:
            file.seek(64)
            file.write(b"damaged")
    broken_pack(lab)
    before = contents(lab.store_path)
    done = mend(lab)
    assert (done.mended, len(done.left)) == ([], 1)
    assert contents(lab.store_path) == before


def test_a_chunk_heals_from_another_pack_of_the_same_store(lab, monkeypatch):
    """Two writers stored the same file at the same time."""
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "may_reuse", lambda _self, _chunk: False)
        lab.save("twin", {"only/c": noise("c", 300_000), "x": noise("x", 200_000)})
    lab.whole = contents(lab.store_path)
    first = min(tree_of(lab, "c")[1].chunks, key=lambda chunk: chunk.offset)
    forget_caches(lab)
    rewrite(lab, pack_of(lab, "c"), lambda data: flipped(data, first.offset + 100))
    done = mend(lab)
    assert (len(done.mended), done.left) == (1, [])
    assert is_whole(lab)


def test_a_header_is_found_again(lab):
    forget_caches(lab)
    rewrite(lab, pack_of(lab, "c"), lambda data: header(77) + data[16:])
    done = mend(lab)
    assert (len(done.mended), done.left) == (1, [])
    assert is_whole(lab)


def test_what_nobody_has_stays_and_says_what_to_do(lab):
    forget_caches(lab)
    key = pack_of(lab, "c")
    rewrite(lab, key, flipped)
    before = contents(lab.store_path)
    done = mend(lab)
    assert done.mended == []
    (left,) = done.left
    assert left.damage.versions == ("lab/c@1",)
    assert f"restore {key} from a copy of the store" in left.resolution
    assert contents(lab.store_path) == before
    assert repaired_json(done)["left"][0]["resolution"] == left.resolution


def test_a_record_is_taken_only_from_a_copy_of_this_very_store(lab, tmp_path):
    there = Lab(tmp_path / "there")
    there.save("c", {"other": b"content"})
    rewrite(lab, "envs/lab/c/00000001.json", flipped)
    done = mend(lab, there.store_path)
    assert done.mended == []
    assert "remove that object" in done.left[0].resolution


def test_the_store_itself_is_no_source(lab):
    with pytest.raises(InvalidInput, match="is the store that is to be repaired"):
        mend(lab, lab.store_path)


_REPAIR = """
import sys
from envkit.config.model import Config
from envkit.services.context import Context
from envkit.services.repairing import repair
root, store, source = sys.argv[1:]
repair(Context(Config(root=root, store=store, owner="lab")), source or None)
"""


@pytest.mark.parametrize("point", ["repair:found", "repair:removed", "repair:restored"])
@pytest.mark.parametrize("kind", ["record", "tree", "pack"])
def test_a_killed_repair_is_finished_by_the_next_even_without_its_sources(lab, mirror, kind, point):
    forget_caches(lab)
    rewrite(lab, objects_of(lab, "c")[kind], flipped)
    words = [sys.executable, "-c", _REPAIR, lab.root, lab.store_path, mirror]
    environment = {**os.environ, "ENVKIT_CRASH": point, "PYTHONPATH": os.getcwd()}
    assert subprocess.run(words, env=environment, timeout=60, check=False).returncode == -signal.SIGKILL
    done = mend(lab, None if point != "repair:found" else mirror)
    assert done.left == []
    assert is_whole(lab)
    for _, _, names in os.walk(f"{lab.root}/cache/repair"):
        assert set(names) <= {"lock"}


def test_foreign_files_where_repairs_keep_theirs_are_not_believed(lab):
    mend(lab)
    (kept,) = [path for path in os.scandir(f"{lab.root}/cache/repair") if path.is_dir()]
    digest = "ab" * 32
    for name in (f"packs~ab~{digest}", f"trees~ab~{digest}", "envs~lab~c~00000009.json", "format.json", "x"):
        with open(f"{kept.path}/{name}", "wb") as file:
            file.write(b"planted")
    mend(lab)
    assert os.listdir(kept.path) == []
    assert is_whole(lab)
