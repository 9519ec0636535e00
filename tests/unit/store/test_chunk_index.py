"""The chunk index is a hint: whatever happens to its file, it never gives a location that nobody learned."""

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envkit.model.tree import Chunk
from envkit.store.index import ChunkIndex

STORE, OTHER = "11" * 16, "22" * 16
TREE = "ab" * 32


def chunk(number):
    digest, pack = (hashlib.sha256(b"%s %d" % (what, number)).digest() for what in (b"chunk", b"pack"))
    return Chunk(digest, 1000 + number, pack, number << 20, 500 + number)


CHUNKS = [chunk(number) for number in range(1200)]
WANTED = [chunk.digest for chunk in CHUNKS]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "cache/index.sqlite")


def learn(path, tree=TREE, chunks=CHUNKS, store=STORE):
    with ChunkIndex(path, store) as index:
        index.learn(tree, chunks)


def found(path, store=STORE):
    with ChunkIndex(path, store) as index:
        return index.find(WANTED)


def works(path):
    """Whether the index learns and remembers again."""
    learn(path)
    return found(path) == {chunk.digest: chunk for chunk in CHUNKS}


def test_what_was_learned_is_found_by_the_next_process(path):
    learn(path)
    with ChunkIndex(path, STORE) as index:
        assert index.find(WANTED) == {chunk.digest: chunk for chunk in CHUNKS}
        assert index.find([b"\0" * 32, CHUNKS[3].digest]) == {CHUNKS[3].digest: CHUNKS[3]}
        assert index.find([]) == {}


def test_trees_that_were_never_learned_are_named_in_order(path):
    learn(path, chunks=[])
    trees = ["ff" * 32, TREE, "00" * 32]
    with ChunkIndex(path, STORE) as index:
        assert index.unseen(trees) == ["ff" * 32, "00" * 32]
        assert index.unseen([]) == []


def test_another_store_does_not_get_the_hints(path):
    learn(path)
    with ChunkIndex(path, OTHER) as index:
        assert index.find(WANTED) == {}
        assert index.unseen([TREE]) == [TREE]
    assert len(found(path)) == len(CHUNKS)


def test_the_hints_of_another_store_are_not_believed_even_where_the_file_mixes_them_up(path):
    learn(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE stores SET id = ?", (OTHER,))
        db.commit()
    assert found(path, OTHER) == {}


def test_the_last_location_that_was_learned_counts(path):
    learn(path)
    moved = Chunk(CHUNKS[0].digest, CHUNKS[0].size, b"\7" * 32, 5, 6)
    learn(path, "cd" * 32, [moved])
    assert found(path)[moved.digest] == moved


def test_packs_that_are_gone_are_forgotten(path):
    learn(path)
    with ChunkIndex(path, STORE) as index:
        index.forget([CHUNKS[0].pack, CHUNKS[7].pack, b"\0" * 32])
        assert set(WANTED) - set(index.find(WANTED)) == {CHUNKS[0].digest, CHUNKS[7].digest}


def _foreign(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE chunks (store, digest, row)")
        db.commit()


def _of_another_release(path):
    learn(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
        db.commit()


def _without_a_table(path):
    learn(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE chunks")
        db.commit()


def _cut_short(path):
    learn(path)
    os.truncate(path, 5000)


def _text(path):
    with open(path, "w") as file:
        file.write("not a database, but long enough to be looked at " * 100)


def _empty(path):
    open(path, "w").close()


def _overwritten_in_the_middle(path):
    learn(path)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 20_000)


@pytest.mark.parametrize(
    "damage",
    [_foreign, _of_another_release, _without_a_table, _cut_short, _text, _empty, _overwritten_in_the_middle],
)
def test_a_file_that_cannot_be_used_is_started_afresh(path, damage):
    os.mkdir(os.path.dirname(path))
    damage(path)
    known = {chunk.digest: chunk for chunk in CHUNKS}
    with ChunkIndex(path, STORE) as index:
        assert index.find(WANTED).items() <= known.items()
        index.learn(TREE, CHUNKS)
    assert works(path)


@pytest.mark.parametrize("where", ["directory", "parent"])
def test_where_there_can_be_no_file_the_index_knows_nothing_and_fails_nothing(path, where):
    if where == "directory":
        os.makedirs(path)
    else:
        with open(os.path.dirname(path), "w"):
            pass
    with ChunkIndex(path, STORE) as index:
        index.learn(TREE, CHUNKS)
        index.forget([CHUNKS[0].pack])
        assert index.find(WANTED) == {}
        assert index.unseen([TREE]) == [TREE]


def test_a_damaged_file_that_another_process_has_open_is_left_to_it(path):
    with ChunkIndex(path, STORE) as other:
        other.learn(TREE, CHUNKS)
        before = os.stat(path).st_ino
        _overwritten_in_the_middle_without_learning(path)
        assert found(path).items() <= {chunk.digest: chunk for chunk in CHUNKS}.items()
        assert os.stat(path).st_ino == before
    assert works(path)


def _overwritten_in_the_middle_without_learning(path):
    with open(path, "r+b") as file:
        file.write(b"\xa5" * 20_000)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("learned") / "index.sqlite")
    learn(path, chunks=CHUNKS[:60])
    return path


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_changed_bits_never_give_a_wrong_location(tmp_path_factory, learned, data):
    path = str(tmp_path_factory.mktemp("index") / "index.sqlite")
    shutil.copyfile(learned, path)
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        for _ in range(data.draw(st.integers(1, 8))):
            place = data.draw(st.integers(0, size - 1))
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << data.draw(st.integers(0, 7))]))
    assert found(path).items() <= {chunk.digest: chunk for chunk in CHUNKS}.items()
    assert works(path)


def test_damaged_names_of_tables_start_the_file_afresh(tmp_path, learned):
    """The names are at the end of the first page; sqlite repeats them in messages, which then are no UTF-8."""
    with open(learned, "rb") as file:
        whole = file.read()
    path = str(tmp_path / "index.sqlite")
    for place in range(whole.index(b"CREATE TABLE"), 4096, 3):
        with open(path, "wb") as file:
            file.write(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        assert found(path).items() <= {chunk.digest: chunk for chunk in CHUNKS}.items()
        assert works(path)


def _learn_many(path, worker):
    for number in range(worker, 40, 4):
        learn(path, f"{number:064x}", [CHUNKS[number]])
        found(path)


def test_several_processes_use_it_at_once(path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_learn_many, args=(path, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert found(path) == {chunk.digest: chunk for chunk in CHUNKS[:40]}
