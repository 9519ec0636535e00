import os

import pytest
from cache_support import make_sample

from envkit.cache import catalogue
from envkit.cache.catalogue import FRESH, evict, items, layer_item, remove, share, sweep
from envkit.cache.layer import CachedLayer
from envkit.cache.locks import layer_lock, try_layer_lock
from envkit.cache.usage import last_used, touch
from envkit.model.paths import Paths

NOW = 2_000_000_000.0
SAMPLE = make_sample([20000, 60000], [(0, 20000, 0, 0), (0, 60000, 1, 0)])


@pytest.fixture
def paths(tmp_path):
    paths = Paths(root=str(tmp_path / "root"), run=str(tmp_path / "run"))
    os.makedirs(paths.trees)
    return paths


def digest(number):
    return f"{number:064x}"


def add_layer(paths, number, *, ago, chunks=(0, 1), finish=True):
    directory = paths.layer(digest(number))
    layer = SAMPLE.open(directory)
    SAMPLE.put(layer, *chunks)
    layer.flush()
    assert not finish or layer.finish()
    layer.close()
    touch(directory)
    os.utime(f"{directory}/used", (NOW - ago, NOW - ago))
    return directory


def add_tree(paths, number, *, ago, size=50000):
    path = f"{paths.trees}/{digest(number)}"
    with open(path, "wb") as file:
        file.write(os.urandom(size))
    os.utime(path, (NOW - ago, NOW - ago))
    return path


def names(found):
    return [(item.kind, int(item.digest, 16)) for item in found]


def test_items_are_in_the_order_of_their_last_use(paths):
    add_layer(paths, 1, ago=300)
    add_layer(paths, 2, ago=500)
    add_tree(paths, 1, ago=9000)  # as old as its layer
    add_tree(paths, 3, ago=400)
    for foreign in ("lost+found", "~evicted.x", digest(9)[:-1]):
        os.mkdir(f"{paths.layers}/{foreign}")
    found = items(paths)
    assert names(found) == [("layer", 2), ("tree", 3), ("layer", 1), ("tree", 1)]
    assert all(item.bytes >= 48000 for item in found)
    assert found[0].bytes < 200_000
    assert items(Paths(root="/nonexistent")) == []


def test_a_sparse_file_counts_what_it_takes(paths):
    directory = add_layer(paths, 1, ago=1, chunks=(0,), finish=False)
    item = layer_item(paths, digest(1))
    assert 20000 <= item.bytes < 80000
    os.makedirs(f"{directory}/eager")
    with open(f"{directory}/eager/partial", "wb") as file:
        file.write(os.urandom(100_000))
    assert layer_item(paths, digest(1)).bytes >= item.bytes + 100_000
    assert layer_item(paths, digest(2)) is None


def test_the_share_that_is_there(paths):
    assert share(add_layer(paths, 1, ago=1)) == 1.0
    assert share(add_layer(paths, 2, ago=1, chunks=(0,), finish=False)) == 0.25
    assert share(add_layer(paths, 3, ago=1, chunks=(), finish=False)) == 0.0
    assert share(paths.layer(digest(4))) == 0.0


def test_what_was_used_longest_ago_goes_first(paths):
    for number in range(1, 5):
        add_layer(paths, number, ago=number * 100)
    add_tree(paths, 9, ago=350)
    total = sum(item.bytes for item in items(paths))
    one = layer_item(paths, digest(1)).bytes
    would = evict(paths, frozenset(), total - one - 1, now=NOW, dry_run=True)
    assert names(would) == [("layer", 4), ("tree", 9)]
    assert len(items(paths)) == 5
    assert evict(paths, frozenset(), total, now=NOW) == []
    gone = evict(paths, frozenset(), total - one - 1, now=NOW)
    assert gone == would
    assert names(items(paths)) == [("layer", 3), ("layer", 2), ("layer", 1)]


def test_what_is_in_use_or_fresh_or_being_made_stays(paths):
    add_layer(paths, 1, ago=FRESH - 1)
    add_layer(paths, 2, ago=500)
    held = add_layer(paths, 3, ago=500)
    eager = add_layer(paths, 4, ago=500)
    add_layer(paths, 5, ago=-3000)  # a clock that was set back
    add_tree(paths, 2, ago=500)
    with layer_lock(held), layer_lock(f"{eager}/eager"):
        assert names(evict(paths, frozenset([digest(2)]), 0, now=NOW, dry_run=True)) == [("layer", 5)]
        assert names(evict(paths, frozenset([digest(2)]), 0, now=NOW)) == [("layer", 5)]
    gone = evict(paths, frozenset(), 0, now=NOW)
    assert sorted(names(gone)) == [("layer", 2), ("layer", 3), ("layer", 4), ("tree", 2)]
    assert names(items(paths)) == [("layer", 1)]


def test_an_evicted_layer_serves_on_and_its_files_go_with_the_sweep(paths):
    directory = add_layer(paths, 1, ago=500)
    layer = CachedLayer.open(directory)
    assert len(evict(paths, frozenset(), 0, now=NOW)) == 1
    assert not os.path.exists(directory)
    assert len(os.listdir(paths.layers)) == 1  # killed here, the next sweep finds it
    sweep(paths, now=NOW)
    assert os.listdir(paths.layers) == []
    assert layer.read(0, SAMPLE.map.size) == SAMPLE.image
    layer.close()


def test_what_is_gone_already_is_not_evicted_twice(paths):
    add_layer(paths, 1, ago=500)
    add_tree(paths, 1, ago=500)
    found = items(paths)
    assert [remove(item) for item in found] == [True, True]
    assert [remove(item) for item in found] == [False, False]


def old_file(path, age):
    with open(path, "wb") as file:
        file.write(b"x")
    os.utime(path, (NOW - age, NOW - age))


def test_leftovers_of_killed_builders_go(paths):
    directory = add_layer(paths, 1, ago=500)
    old_file(f"{directory}/image.new", 1000)
    old_file(f"{directory}/ready.77.new", 1000)
    old_file(f"{directory}/map.new", 10)
    with layer_lock(directory):
        sweep(paths, now=NOW)
        assert os.path.exists(f"{directory}/image.new")
    sweep(paths, now=NOW)
    left = {name for name in os.listdir(directory) if name.endswith(".new")}
    assert left == {"map.new"}
    assert share(directory) == 1.0


def test_a_partial_file_goes_when_the_image_is_complete_and_nobody_writes_it(paths):
    directory = add_layer(paths, 1, ago=500, chunks=(0,), finish=False)
    serving = CachedLayer.open(directory)
    with open(f"{directory}/image", "wb") as file:
        file.write(SAMPLE.image)
    sweep(paths, now=NOW)
    assert os.path.exists(f"{directory}/partial")
    serving.close()
    sweep(paths, now=NOW)
    assert not os.path.exists(f"{directory}/partial")
    assert share(directory) == 1.0


@pytest.mark.parametrize(("age", "complete", "left"), [(10, False, True), (10, True, False), (90_000, False, False)])
def test_a_fetch_that_was_given_up_goes(paths, age, complete, left):
    directory = add_layer(paths, 1, ago=500, finish=complete)
    os.mkdir(f"{directory}/eager")
    os.utime(f"{directory}/eager", (NOW - age, NOW - age))
    with layer_lock(f"{directory}/eager"):
        os.utime(f"{directory}/eager", (NOW - age, NOW - age))
        sweep(paths, now=NOW)
        assert os.path.exists(f"{directory}/eager")
    os.utime(f"{directory}/eager", (NOW - age, NOW - age))
    sweep(paths, now=NOW)
    assert os.path.exists(f"{directory}/eager") == left


def test_the_lock_of_a_directory_that_was_evicted_locks_nothing(paths):
    directory = add_layer(paths, 1, ago=500)
    lock = try_layer_lock(directory)
    assert try_layer_lock(directory) is None
    os.rename(directory, f"{directory}.gone")
    assert try_layer_lock(directory) is None  # there is none
    with layer_lock(directory):
        assert os.path.isdir(directory)
        assert try_layer_lock(directory) is None
    os.close(lock)


def test_a_lock_that_was_renamed_while_it_was_taken_is_not_taken(paths, monkeypatch):
    directory = add_layer(paths, 1, ago=500)
    real = catalogue.try_layer_lock.__globals__["try_lock"]

    def slow(path):
        descriptor = real(path)
        os.rename(directory, f"{directory}.gone")
        return descriptor

    monkeypatch.setitem(catalogue.try_layer_lock.__globals__, "try_lock", slow)
    assert try_layer_lock(directory) is None


def test_the_last_use_is_what_was_touched(tmp_path):
    touch(str(tmp_path))
    os.utime(tmp_path / "used", (100, 100))
    assert last_used(str(tmp_path)) == 100
    touch(str(tmp_path))
    assert last_used(str(tmp_path)) > 1_000_000_000
    os.unlink(tmp_path / "used")
    os.utime(tmp_path, (50, 50))
    assert last_used(str(tmp_path)) == 50
    assert last_used(str(tmp_path / "none")) == 0
    touch(str(tmp_path / "none"))
    assert os.listdir(tmp_path) == []
