import os
import tempfile
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.errors import Damaged
from envkit.services.jobs.output import Limits, Output, read_output
from envkit.store import layout, orders
from envkit.store.base import Store
from envkit.store.directory import DirectoryStore
from envkit.store.errors import StoreUnwritable

OWNER, TOKEN, KEY = "lab", "0" * 32, b"k" * 32


class Unreliable(Store):
    """A directory that is away when it is told so; `forgetful`: it stores, and then says that it did not."""

    def __init__(self, path):
        super().__init__(str(path))
        self.there = DirectoryStore(str(path))
        self.away = threading.Event()
        self.forgetful = 0

    def _put_if_absent(self, key, pieces):
        if self.away.is_set():
            raise StoreUnwritable(self.url, "it is away")
        done = self.there.put_if_absent(key, b"".join(pieces))
        if self.forgetful:
            self.forgetful -= 1
            raise StoreUnwritable(self.url, "the answer was lost")
        return done

    def _get(self, key, limit):
        return self.there.get(key, limit=limit)

    def _get_range(self, key, start, length):
        return self.there.get_range(key, start, length)

    def _status(self, key):
        return self.there.status(key)

    def _delete(self, key):
        self.there.delete(key)

    def _list(self, prefix):
        return self.there.list(prefix)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return Unreliable(tmp_path / "store")


@pytest.fixture
def output(store, tmp_path):
    made = []

    def make(**limits):
        how = {"limits": Limits(**limits)} if limits else {}
        made.append(Output(store, OWNER, TOKEN, KEY, index=3, attempt=0, directory=str(tmp_path), **how))
        return made[-1]

    yield make
    for one in made:
        one.close()


def stored(store, stream="out", attempt=0):
    return b"".join(read_output(store, OWNER, TOKEN, KEY, 3, attempt, stream))


def test_streams_are_stored_apart_and_whole(store, output):
    taken = output()
    taken.write("out", b"one\n")
    taken.write("err", b"bad\n")
    taken.write("out", b"two\n")
    assert taken.finish(30)
    assert (stored(store), stored(store, "err")) == (b"one\ntwo\n", b"bad\n")
    assert taken.sizes == {"out": 8, "err": 4}


def test_nothing_printed_stores_nothing(store, output):
    taken = output()
    assert taken.finish(30)
    assert taken.segments == 0
    assert list(store.list("")) == []


@pytest.mark.parametrize("flag", [os.O_TMPFILE, 0])  # with 0 it is what a kernel does that does not know it
def test_the_spool_has_no_name_even_where_it_needs_one_first(store, output, tmp_path, monkeypatch, flag):
    monkeypatch.setattr(os, "O_TMPFILE", flag)
    taken = output()
    taken.write("out", b"one")
    assert os.listdir(tmp_path) == ["store"]
    taken.write("out", b"two")
    assert taken.finish(30)
    assert stored(store) == b"onetwo"


def test_segments_are_bounded_and_come_while_it_runs(store, output):
    taken = output()
    taken.write("out", b"x" * (5 << 20))
    deadline = time.monotonic() + 60
    while len(stored(store)) < 5 << 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stored(store) == b"x" * (5 << 20)
    assert taken.segments == 5
    assert taken.finish(30)


def test_of_a_long_stream_the_beginning_and_the_end_are_kept(store, output):
    taken = output(head=10, tail=5)
    taken.write("out", b"0123456789abc")
    for piece in (b"def", b"g", b"hijklmnop"):
        taken.write("out", piece)
    taken.write("err", b"0123456789abcde")
    assert taken.finish(30)
    assert stored(store) == b"0123456789\n... 11 bytes left out ...\nlmnop"
    assert stored(store, "err") == b"0123456789abcde"
    assert taken.sizes["out"] == 26


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=12), max_size=12), st.integers(0, 20), st.integers(1, 9))
def test_whatever_is_written_head_and_tail_are_right(pieces, head, tail):
    with tempfile.TemporaryDirectory() as place:
        os.mkdir(f"{place}/store")
        there = DirectoryStore(f"{place}/store")
        taken = Output(
            there, OWNER, TOKEN, KEY, index=3, attempt=0, directory=place, limits=Limits(head=head, tail=tail)
        )
        for piece in pieces:
            taken.write("out", piece)
        assert taken.finish(30)
        taken.close()
        whole, found = b"".join(pieces), stored(there)
    left_out = len(whole) - head - tail
    if left_out <= 0:
        assert found == whole
    else:
        assert found == whole[:head] + f"\n... {left_out} bytes left out ...\n".encode() + whole[-tail:]


def test_a_store_that_is_away_gets_it_when_it_is_back(store, output):
    store.away.set()
    taken = output()
    taken.write("out", b"x" * (2 << 20))
    time.sleep(0.2)
    taken.write("out", b"more")
    assert stored(store) == b""
    store.away.clear()
    assert taken.finish(30)
    assert stored(store) == b"x" * (2 << 20) + b"more"


def test_a_store_that_stays_away_is_given_up_in_time(store, output):
    store.away.set()
    taken = output()
    taken.write("out", b"x")
    assert not taken.finish(0.5)
    assert "it is away" in taken.problem
    assert not taken.put(orders.RESULT, b"{}", 0.5)


def test_who_is_in_a_hurry_does_not_wait(store, output):
    store.away.set()
    taken = output()
    taken.write("out", b"x")
    threading.Timer(0.3, taken.hurry, [0.1]).start()
    assert not taken.finish(100_000)


def test_an_answer_that_was_lost_stores_nothing_twice(store, output):
    store.forgetful = 2
    taken = output()
    taken.write("out", b"x" * (1 << 20))
    time.sleep(0.5)
    taken.write("out", b"more")
    assert taken.finish(30)
    assert taken.attempt == 0
    assert stored(store) == b"x" * (1 << 20) + b"more"
    store.forgetful = 1
    assert taken.put(orders.RESULT, b"{}", 30)


def test_an_attempt_that_somebody_began_is_left_alone(store, output):
    name = layout.task_key(OWNER, TOKEN, 3, 0, "out.000000")
    store.put_if_absent(name, orders.seal(KEY, name, b"earlier"))
    taken = output()
    taken.write("out", b"later")
    taken.write("err", b"bad")
    assert taken.finish(30)
    assert taken.attempt == 1
    assert (stored(store), stored(store, attempt=1), stored(store, "err", 1)) == (b"earlier", b"later", b"bad")


def test_a_result_of_somebody_else_stays(store, output):
    name = layout.task_key(OWNER, TOKEN, 3, 0, orders.RESULT)
    store.put_if_absent(name, orders.seal(KEY, name, b"{}"))
    taken = output()
    assert taken.finish(30)
    assert not taken.put(orders.RESULT, b"{...}", 30)


def test_output_that_somebody_else_wrote_is_not_believed(store):
    name = layout.task_key(OWNER, TOKEN, 3, 0, "out.000000")
    store.put_if_absent(name, orders.seal(b"other" * 7, name, b"lies"))
    with pytest.raises(Damaged, match="was not written by the job"):
        stored(store)


def test_reading_can_begin_later(store, output):
    taken = output()
    taken.write("out", b"x" * (1 << 20) + b"rest")
    assert taken.finish(30)
    assert b"".join(read_output(store, OWNER, TOKEN, KEY, 3, 0, "out", first=1)) == b"rest"
