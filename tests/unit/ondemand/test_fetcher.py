"""The fetcher over a real store that is slow, fails, hangs, flips bits and loses objects: each chunk once, in time."""

import os
import random
import threading
import time

import pytest
from msgspec.structs import replace

from envkit.content.errors import DamagedChunk
from envkit.content.pack import PackWriter
from envkit.errors import EnvkitError
from envkit.ondemand import fetcher as module
from envkit.ondemand import link as link_module
from envkit.ondemand.fetch_errors import FetcherClosed, FetchFailed, FetchTimeout, Forgotten
from envkit.ondemand.fetcher import Fetcher, Priority, Source
from envkit.ondemand.link import Link
from envkit.store.directory import DirectoryStore
from envkit.store.errors import ObjectNotFound, ObjectTruncated, StoreUnreadable
from envkit.store.layout import pack_key

LONG = 30
DEMAND, START, AHEAD, BACKGROUND = Priority


class Troubled:
    """A store whose reads do what a test says; `requests` has all of them, `open` lets them through."""

    def __init__(self, store):
        self.store = store
        self.requests = []
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Semaphore(0)
        self.trouble = lambda number, key, start, data: data
        self.busy = self.most = 0
        self._lock = threading.Lock()

    def get_range(self, key, start, length):
        with self._lock:
            number = len(self.requests)
            self.requests.append((key, start, length))
            self.busy += 1
            self.most = max(self.most, self.busy)
        self.arrived.release()
        try:
            assert self.open.wait(LONG)
            return self.trouble(number, key, start, self.store.get_range(key, start, length))
        finally:
            with self._lock:
                self.busy -= 1


class Answer:
    """What `done` got."""

    def __init__(self):
        self.calls = []
        self.thread = None
        self._called = threading.Event()

    def __call__(self, data, error):
        self.thread = threading.current_thread()
        self.calls.append((data, error))
        self._called.set()

    @property
    def came(self):
        return bool(self.calls)

    def result(self):
        assert self._called.wait(LONG), "nobody was told"
        assert len(self.calls) == 1
        data, error = self.calls[0]
        assert (data is None) != (error is None)
        return data if error is None else error


class World:
    """A store with packs, and the chunks in them."""

    def __init__(self, path):
        os.mkdir(path)
        self.path = path
        self.store = DirectoryStore(str(path))
        self.troubled = Troubled(self.store)
        self.source = Source("store", self.troubled.get_range)
        self.plain = {}
        self.fetchers = []

    def pack(self, plains, **options):
        with PackWriter(lambda digest, frames: self.store.put_if_absent(pack_key(digest), frames), **options) as writer:
            for plain in plains:
                writer.add(plain)
            chunks = writer.finish().chunks
        self.plain.update(zip((chunk.digest for chunk in chunks), plains, strict=True))
        return chunks

    def fetcher(self, **options):
        self.fetchers.append(Fetcher(**options))
        return self.fetchers[-1]

    def file(self, chunk):
        path = f"{self.path}/{pack_key(chunk.pack.hex())}"
        os.chmod(path, 0o644)
        return path

    def damage(self, chunk):
        with open(self.file(chunk), "r+b") as file:
            file.seek(chunk.offset + chunk.stored - 1)
            last = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([last[0] ^ 1]))


def noise(count, size=3000, seed=1):
    source = random.Random(seed)
    return [source.randbytes(size) for _ in range(count)]


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "store")
    yield world
    world.troubled.open.set()
    for fetcher in world.fetchers:
        fetcher.close()
    assert [thread for thread in threading.enumerate() if thread.name.startswith("envkit-fetch")] == []


@pytest.fixture
def hasty(monkeypatch):
    """Short pauses between tries."""
    monkeypatch.setattr(module, "_PAUSES", (0.001, 0.01))


@pytest.fixture
def impatient(monkeypatch, hasty):
    """Readers and everybody else give up early, too."""
    monkeypatch.setattr(module, "PATIENCE", (0.4, 0.5))


def ask(fetcher, world, chunks, priority=DEMAND):
    answers = [Answer() for _ in chunks]
    fetcher.chunks(world.source, zip(chunks, answers, strict=True), priority)
    return answers


def settled(fetcher):
    """Wait until the workers are done with what they have told already; return the counters."""
    until = time.monotonic() + LONG
    while (counters := fetcher.counters()).in_flight and time.monotonic() < until:
        time.sleep(0.001)
    return counters


def blocked(fetcher, world):
    """Hold the only connection of a fetcher with a request for something else; return its answer."""
    world.troubled.open.clear()
    (chunk,) = world.pack(noise(1, seed=99))
    (answer,) = ask(fetcher, world, [chunk])
    assert world.troubled.arrived.acquire(timeout=LONG)
    return answer


def test_chunks_and_ranges_arrive(world):
    chunks = world.pack(noise(50))
    fetcher = world.fetcher()
    assert not fetcher._threads
    assert not fetcher._watchdog
    answers = ask(fetcher, world, chunks)
    assert [answer.result() for answer in answers] == noise(50)
    whole = Answer()
    key = pack_key(chunks[0].pack.hex())
    fetcher.range(world.source, key, 5, 100, START, whole)
    assert whole.result() == world.store.get_range(key, 5, 100)
    assert whole.thread is not threading.current_thread()
    counters = settled(fetcher)
    assert counters.chunks == (50, 1, 0, 0)
    assert sum(counters.requests) == len(world.troubled.requests) < 10
    assert sum(counters.bytes) == sum(length for _, _, length in world.troubled.requests)
    assert (counters.waiting, counters.in_flight) == (0, 0)
    assert sum(counters.retries) == sum(counters.failures) == 0


def test_many_who_want_the_same_chunk_cost_one_request(world):
    (chunk,) = world.pack(noise(1))
    fetcher = world.fetcher()
    world.troubled.open.clear()
    answers = [Answer() for _ in range(32)]
    priorities = [*Priority] * 8
    threads = [
        threading.Thread(target=fetcher.chunk, args=(world.source, chunk, priority, answer))
        for priority, answer in zip(priorities, answers, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    world.troubled.open.set()
    assert {answer.result() for answer in answers} == set(noise(1))
    assert len(world.troubled.requests) == 1
    assert sum(fetcher.counters().chunks) == 1


def test_the_same_chunk_of_another_layer_and_pack_costs_nothing(world):
    (chunk,) = world.pack(noise(1))
    (other,) = world.pack(noise(1), epoch=7)
    assert other.pack != chunk.pack
    fetcher = world.fetcher()
    world.troubled.open.clear()
    answers = ask(fetcher, world, [chunk, other])
    world.troubled.open.set()
    assert [answer.result() for answer in answers] == noise(1) * 2
    assert len(world.troubled.requests) == 1


def test_who_names_a_wrong_place_harms_only_himself(world, hasty):
    """What one environment says of where a chunk lies must not keep it from another."""
    (chunk,) = world.pack(noise(1))
    fetcher = world.fetcher(connections=1)
    first = blocked(fetcher, world)
    answers = ask(
        fetcher,
        world,
        [replace(chunk, pack=bytes(32)), replace(chunk, size=chunk.size + 1), replace(chunk, offset=1), chunk],
    )
    world.troubled.open.set()
    results = [answer.result() for answer in answers]
    assert isinstance(results[0], ObjectNotFound)
    assert isinstance(results[1], DamagedChunk)
    assert isinstance(results[2], DamagedChunk)
    assert results[3] == noise(1)[0]
    first.result()


def test_who_expects_another_size_gets_an_error(world):
    (chunk,) = world.pack(noise(1))
    fetcher = world.fetcher(connections=1)
    blocked(fetcher, world)
    good, bad = ask(fetcher, world, [chunk, replace(chunk, size=chunk.size - 1)])
    world.troubled.open.set()
    assert good.result() == noise(1)[0]
    assert "3000 bytes instead of 2999" in bad.result().brief


def test_what_is_urgent_goes_first(world):
    packs = [world.pack(noise(1, seed=seed)) for seed in range(5)]
    fetcher = world.fetcher(connections=1)
    blocked(fetcher, world)
    order = [BACKGROUND, AHEAD, START, DEMAND, BACKGROUND]
    answers = [ask(fetcher, world, chunks, priority)[0] for chunks, priority in zip(packs, order, strict=True)]
    fetcher.raise_priority(packs[4][0].digest, AHEAD)
    fetcher.raise_priority(packs[4][0].digest, BACKGROUND)  # never less urgent
    world.troubled.open.set()
    for answer in answers:
        answer.result()
    fetched = [key for key, _, _ in world.troubled.requests[1:]]
    assert fetched == [pack_key(packs[number][0].pack.hex()) for number in (3, 2, 1, 4, 0)]


def test_a_reader_makes_what_waits_urgent(world):
    packs = [world.pack(noise(1, seed=seed)) for seed in range(3)]
    fetcher = world.fetcher(connections=1)
    blocked(fetcher, world)
    answers = [ask(fetcher, world, chunks, BACKGROUND)[0] for chunks in packs]
    answers += ask(fetcher, world, packs[2], DEMAND)
    world.troubled.open.set()
    for answer in answers:
        answer.result()
    assert world.troubled.requests[1][0] == pack_key(packs[2][0].pack.hex())
    assert len(world.troubled.requests) == 4


def test_of_one_request_the_most_urgent_chunk_comes_first(world):
    chunks = world.pack(noise(8))
    fetcher = world.fetcher(connections=1)
    order = []
    world.troubled.open.clear()
    fetcher.chunks(world.source, ((chunk, lambda *_, c=chunk: order.append(c)) for chunk in chunks), BACKGROUND)
    assert world.troubled.arrived.acquire(timeout=LONG)
    fetcher.raise_priority(chunks[5].digest, START)
    (answer,) = ask(fetcher, world, chunks[6:7])
    end = Answer()
    fetcher.range(world.source, pack_key(chunks[0].pack.hex()), 0, 1, BACKGROUND, end)
    world.troubled.open.set()
    assert answer.result() == noise(8)[6]
    end.result()
    assert [chunks.index(chunk) for chunk in order] == [6, 5, 0, 1, 2, 3, 4, 7]


def test_a_chunk_that_becomes_urgent_while_others_are_unpacked_is_next(world):
    chunks = world.pack(noise(8))
    fetcher = world.fetcher(connections=1)
    order = []
    end = Answer()

    def done(data, error, number):
        order.append(number)
        fetcher.raise_priority(chunks[7].digest, DEMAND)
        if len(order) == 8:
            end(data, error)

    wanted = [(chunk, lambda *got, n=number: done(*got, n)) for number, chunk in enumerate(chunks)]
    fetcher.chunks(world.source, wanted, BACKGROUND)
    end.result()
    assert order == [0, 7, 1, 2, 3, 4, 5, 6]


def test_what_is_less_urgent_leaves_connections_to_others(world):
    (chunk,) = world.pack(noise(1))
    key = pack_key(chunk.pack.hex())
    fetcher = world.fetcher()
    world.troubled.open.clear()
    answers = [Answer() for _ in range(120)]
    running = 0
    for number, (priority, limit) in enumerate([(BACKGROUND, 4), (AHEAD, 8), (START, 16), (DEMAND, 20)]):
        for answer in answers[number * 30 : number * 30 + 30]:
            fetcher.range(world.source, key, 0, 10, priority, answer)
        while running < limit:
            assert world.troubled.arrived.acquire(timeout=LONG)
            running += 1
        assert world.troubled.most == fetcher.counters().in_flight == limit
    world.troubled.open.set()
    assert len({answer.result() for answer in answers}) == 1
    assert world.troubled.most == 20


def test_what_nobody_waits_for_can_be_dropped(world):
    packs = [world.pack(noise(1, seed=seed)) for seed in range(5)]
    fetcher = world.fetcher(connections=1)
    first = blocked(fetcher, world)
    start, ahead, back, wanted = (
        ask(fetcher, world, chunks, priority)[0]
        for chunks, priority in zip(packs, (START, AHEAD, BACKGROUND, BACKGROUND), strict=False)
    )
    ask(fetcher, world, packs[3], DEMAND)
    assert fetcher.drop(AHEAD) == 2
    assert isinstance(ahead.result(), Forgotten)
    assert packs[2][0].digest.hex() in back.result().brief
    assert fetcher.drop(BACKGROUND) == 0
    again = ask(fetcher, world, packs[1], BACKGROUND)[0]
    world.troubled.open.set()
    for answer in (first, start, wanted, again):
        assert isinstance(answer.result(), bytes)
    assert len(world.troubled.requests) == 4


def test_what_is_under_way_is_not_dropped(world):
    (chunk,) = world.pack(noise(1))
    fetcher = world.fetcher()
    world.troubled.open.clear()
    (answer,) = ask(fetcher, world, [chunk], BACKGROUND)
    assert world.troubled.arrived.acquire(timeout=LONG)
    assert fetcher.drop(BACKGROUND) == 0
    world.troubled.open.set()
    assert answer.result() == noise(1)[0]


def test_what_is_asked_for_at_once_is_fetched_at_once(world):
    """One request wakes the worker of the next."""
    chunks = [chunk for seed in range(5) for chunk in world.pack(noise(1, seed=seed))]
    fetcher = world.fetcher()
    for _ in range(2):
        world.troubled.open.clear()
        answers = ask(fetcher, world, chunks)
        for _ in chunks:
            assert world.troubled.arrived.acquire(timeout=LONG)
        world.troubled.open.set()
        for answer in answers:
            answer.result()


def test_a_store_that_is_down_costs_only_time(world, hasty):
    chunks = world.pack(noise(6))

    def trouble(number, key, start, data):
        if number < 20:
            raise StoreUnreadable("url", "down")
        return data

    world.troubled.trouble = trouble
    fetcher = world.fetcher()
    assert [answer.result() for answer in ask(fetcher, world, chunks)] == noise(6)
    assert sum(fetcher.counters().retries) >= 20
    assert sum(fetcher.counters().failures) == 0
    # What failed together is tried one by one.
    assert {(start, length) for _, start, length in world.troubled.requests[-3:]} <= {
        (chunk.offset, chunk.stored) for chunk in chunks
    }


def test_damage_on_the_way_is_repaired(world, hasty):
    chunks = world.pack(noise(6))
    world.troubled.trouble = lambda number, key, start, data: data if number > 2 else bytes(len(data))
    assert [answer.result() for answer in ask(world.fetcher(), world, chunks)] == noise(6)


def test_what_failed_together_says_nothing_of_each(world, hasty):
    """After it every chunk has its four tries."""
    chunks = world.pack(noise(3))
    tries = {}

    def trouble(number, key, start, data):
        if number == 0:
            raise ObjectTruncated("url", key, 0, 1)
        tries[start] = tries.get(start, 0) + 1
        return data if tries[start] == 4 else bytes(len(data))

    world.troubled.trouble = trouble
    assert [answer.result() for answer in ask(world.fetcher(), world, chunks)] == noise(3)


def test_short_and_long_answers_are_no_data(world, hasty):
    chunks = world.pack(noise(2))
    key = pack_key(chunks[0].pack.hex())
    world.troubled.trouble = lambda number, key, start, data: data[:-1] if number % 2 else data + b"x"
    fetcher = world.fetcher(connections=1)
    answer = Answer()
    fetcher.range(world.source, key, 0, 10, DEMAND, answer)
    assert "bytes 0 to 10 of packs/" in answer.result().brief
    assert len(world.troubled.requests) == 4
    (answer,) = ask(fetcher, world, chunks[:1])
    assert answer.result() == noise(1)[0]  # behind its end may be anything


def test_a_chunk_that_is_damaged_in_the_store_fails_alone(world, hasty):
    chunks = world.pack(noise(9))
    world.damage(chunks[4])
    fetcher = world.fetcher()
    results = [answer.result() for answer in ask(fetcher, world, chunks)]
    damaged = results.pop(4)
    assert isinstance(damaged, DamagedChunk)
    assert damaged.digest == chunks[4].digest
    assert results == [plain for number, plain in enumerate(noise(9)) if number != 4]
    assert len(world.troubled.requests) == 4  # all together, then three times this one
    assert fetcher.counters().failures == (1, 0, 0, 0)


def test_a_pack_that_is_cut_short_gives_what_it_has(world, hasty):
    chunks = world.pack(noise(9))
    os.truncate(world.file(chunks[0]), chunks[7].offset + 5)
    results = [answer.result() for answer in ask(world.fetcher(), world, chunks)]
    assert results[:7] == noise(7)
    assert all(isinstance(error, ObjectTruncated) for error in results[7:])


def test_a_pack_that_is_gone_fails_at_once(world):
    chunks = world.pack(noise(3))
    os.unlink(world.file(chunks[0]))
    fetcher = world.fetcher()
    for answer in ask(fetcher, world, chunks):
        assert isinstance(answer.result(), ObjectNotFound)
        assert pack_key(chunks[0].pack.hex()) in answer.result().brief
    assert len(world.troubled.requests) == 1


def test_a_store_that_stays_down_fails_in_time(world, impatient):
    (chunk,) = world.pack(noise(1))

    def trouble(number, key, start, data):
        raise StoreUnreadable("url", "down")

    world.troubled.trouble = trouble
    (answer,) = ask(world.fetcher(), world, [chunk])
    error = answer.result()
    assert isinstance(error, FetchTimeout)
    assert chunk.digest.hex() in error.brief
    assert "down" in error.brief


def test_mistakes_of_a_store_are_errors_like_others(world, impatient, capsys):
    (chunk,) = world.pack(noise(1))
    world.troubled.trouble = lambda number, key, start, data: {}["no"]
    (answer,) = ask(world.fetcher(), world, [chunk])
    assert isinstance(answer.result(), FetchTimeout)
    assert isinstance(answer.result().cause, FetchFailed)
    assert "KeyError" in capsys.readouterr().err


def test_a_store_that_hangs_keeps_nobody(world, impatient, monkeypatch):
    """Neither those who wait nor, with every connection stuck, those who come later."""
    hanging, fine = world.pack(noise(2, size=200 << 10))
    fetcher = world.fetcher(connections=1)
    world.troubled.open.clear()
    demand, background = ask(fetcher, world, [hanging])[0], ask(fetcher, world, [hanging], BACKGROUND)[0]
    for answer in (demand, background):
        assert isinstance(answer.result(), FetchTimeout)
        assert answer.result().cause is None
    monkeypatch.setattr(module, "PATIENCE", (LONG, LONG))
    source = Source("store", world.store.get_range)
    for chunk, plain in zip((fine, hanging), reversed(noise(2, size=200 << 10)), strict=True):
        answer = Answer()
        fetcher.chunk(source, chunk, DEMAND, answer)
        assert answer.result() == plain
    assert len(fetcher._threads) == 2
    world.troubled.open.set()
    stuck = [thread for thread in fetcher._threads if thread is not answer.thread]
    for thread in stuck:
        thread.join(LONG)
    assert fetcher._threads == {answer.thread}
    assert fetcher._lost == 0
    assert settled(fetcher).in_flight == 0
    assert len(demand.calls) == len(background.calls) == 1


@pytest.mark.parametrize("answers_meanwhile", [False, True])
def test_who_comes_late_into_an_outage_waits_for_less(world, impatient, monkeypatch, answers_meanwhile):
    monkeypatch.setattr(link_module, "_LATE", 0.01)
    first, second, third = world.pack(noise(3, size=200 << 10))
    fetcher = world.fetcher(connections=1)

    def away(*_):
        raise StoreUnreadable("here", "it is away")

    fine, world.troubled.trouble = world.troubled.trouble, away
    (early,) = ask(fetcher, world, [first])
    assert early.result().seconds == 0.4
    if answers_meanwhile:
        world.troubled.trouble = fine
        assert isinstance(ask(fetcher, world, [third])[0].result(), bytes)
        world.troubled.trouble = away
    (late,) = ask(fetcher, world, [second])
    assert isinstance(late.result(), FetchTimeout)
    assert late.result().seconds == (0.4 if answers_meanwhile else 0.0)


def test_a_store_that_always_hangs_does_not_collect_threads(world, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", (0.05, 0.05))
    chunks = world.pack(noise(12))
    fetcher = world.fetcher(connections=2)
    world.troubled.open.clear()
    for chunk in chunks:
        answer = Answer()
        fetcher.range(world.source, pack_key(chunk.pack.hex()), 0, 10, DEMAND, answer)
        assert isinstance(answer.result(), FetchTimeout)
    assert len(fetcher._threads) <= 4


def test_closing_tells_everybody_and_takes_no_time(world, monkeypatch):
    monkeypatch.setattr(module, "_CLOSING", 0.05)
    packs = [world.pack(noise(1, seed=seed)) for seed in range(3)]
    fetcher = world.fetcher(connections=1)
    first = blocked(fetcher, world)
    answers = [ask(fetcher, world, chunks, priority)[0] for chunks, priority in zip(packs, Priority, strict=False)]
    fetcher.close()
    assert world.troubled.busy == 1
    late = ask(fetcher, world, packs[0])
    for answer in (first, *answers, *late):
        assert isinstance(answer.result(), FetcherClosed)
    world.troubled.open.set()
    monkeypatch.setattr(module, "_CLOSING", LONG)
    fetcher.close()
    assert len(first.calls) == 1
    assert len(world.troubled.requests) == 1


def test_who_fails_to_take_an_answer_harms_nobody_else(world, capsys):
    chunks = world.pack(noise(3))

    def broken(data, error):
        raise RuntimeError("mistake")

    fetcher = world.fetcher(connections=1)
    world.troubled.open.clear()
    fetcher.chunk(world.source, chunks[0], DEMAND, broken)
    answers = ask(fetcher, world, chunks)
    world.troubled.open.set()
    assert [answer.result() for answer in answers] == noise(3)
    assert "mistake" in capsys.readouterr().err


def test_who_is_told_may_ask_again(world):
    """`done` is called without any lock."""
    first, second = world.pack(noise(2))
    fetcher = world.fetcher(connections=1)
    answer = Answer()

    def more(data, error):
        assert fetcher.counters().in_flight == 1
        fetcher.chunk(world.source, second, DEMAND, answer)

    fetcher.chunk(world.source, first, DEMAND, more)
    assert answer.result() == noise(2)[1]


def test_32_threads_and_a_store_that_does_everything_wrong(world, hasty):
    chunks = world.pack(noise(150, size=9000), target=200 << 10)
    lost = world.pack(noise(10, seed=5))
    os.unlink(world.file(lost[0]))
    luck = random.Random(3)
    failing = {number for number in range(100_000) if luck.random() < 0.2}

    def trouble(number, key, start, data):
        if number not in failing:
            return data
        if number % 3 == 0:
            raise StoreUnreadable("url", "down")
        if number % 3 == 1:
            return data[: len(data) // 2]
        # A flip that hits one frame, at a time: three more tries are enough.
        return data[:-1] + bytes([data[-1] ^ 1])

    world.troubled.trouble = trouble
    fetcher = world.fetcher(connections=6, link=Link(bandwidth=1e6))
    answers = []

    def work(seed):
        mine = random.Random(seed)
        for _ in range(40):
            some = mine.sample(chunks, 4) + mine.sample(lost, 1)
            given = [Answer() for _ in some]
            answers.extend(zip(some, given, strict=True))
            fetcher.chunks(world.source, zip(some, given, strict=True), mine.choice([*Priority]))
            if mine.random() < 0.1:
                fetcher.drop(mine.choice([AHEAD, BACKGROUND]))
            fetcher.raise_priority(mine.choice(chunks).digest, mine.choice([*Priority]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert len(answers) == 32 * 40 * 5
    gone = {chunk.digest for chunk in lost}
    kinds = set()
    for chunk, answer in answers:
        result = answer.result()
        if isinstance(result, EnvkitError):
            kinds.add(type(result))
            assert isinstance(result, Forgotten) or (chunk.digest in gone) == isinstance(result, ObjectNotFound)
            assert isinstance(result, (Forgotten, ObjectNotFound, DamagedChunk))
        else:
            assert result == world.plain[chunk.digest]
    assert kinds >= {Forgotten, ObjectNotFound}
    counters = settled(fetcher)
    assert (counters.waiting, counters.in_flight) == (0, 0)
    assert fetcher._items == {}
    assert not any(fetcher._asked)


@pytest.mark.parametrize("patience", [(0.1, LONG * 10), (LONG * 10, 0.1)])
def test_what_becomes_urgent_has_the_time_of_what_is_urgent_or_less(world, monkeypatch, patience):
    monkeypatch.setattr(module, "PATIENCE", patience)
    packs = [world.pack(noise(1, seed=seed)) for seed in range(2)]
    fetcher = world.fetcher()
    world.troubled.open.clear()
    answers = [ask(fetcher, world, chunks, BACKGROUND)[0] for chunks in packs]
    fetcher.raise_priority(packs[0][0].digest, DEMAND)
    assert isinstance(answers[0].result(), FetchTimeout)
    assert "within 0.1 seconds" in answers[0].result().brief
    if patience[1] > 1:
        assert not answers[1].came
