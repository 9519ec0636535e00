"""Writers that race for one name: in each round one wins, the others hear so and lose nothing."""

import contextlib
import json
import subprocess
import sys

import pytest
from commandline import CHECKOUT
from faults.bucket_world import BucketReader, make_by_hand
from faults.second_reader import SecondReader
from torture_support import World

pytestmark = pytest.mark.root

_PROCESSES = 4
_THREADS = 16
_ROUNDS = 50
_BUCKET_ROUNDS = 2


@contextlib.contextmanager
def _racers(world, *, processes, threads, rounds, broken=None):
    """Start the processes; give a function that plays a round and returns what each process answers."""
    program = f"{CHECKOUT}/tests/faults/writer.py"
    environment = world.envkit.environment(more=world.settings | {"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/tests"})
    started = []
    for number in range(processes):
        argv = [sys.executable, program, world.store, world.directory, str(number * threads), str(threads), str(rounds)]
        started.append(
            subprocess.Popen(
                [*argv, *([broken] if broken else [])], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )

    def play():
        for process in started:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in started]

    try:
        for process in started:
            assert process.stdout.readline() == b"ready\n"
        yield play
    finally:
        for process in started:
            process.stdin.close()
            process.stdout.close()
            process.wait(60)


def _race(world, reader, *, rounds, **how):
    """Play rounds; check that each has one winner, and that what it was told is what is there."""
    with _racers(world, rounds=rounds, **how) as play:
        for number in range(1, rounds + 1):
            answers = play()
            wins = {name: won for answer in answers for name, won in answer["wins"].items()}
            conflicts = [name for answer in answers for name in answer["conflicts"]]
            assert len(wins) == 1, f"round {number}: {wins} won"
            assert len(conflicts) == how["processes"] * how["threads"] - 1
            ((winner, taken),) = wins.items()
            documents = reader.versions()["lab/race"]
            assert taken == number == max(documents)
            assert documents[number]["author"] == winner
        trees = {name: tree for answer in answers for name, tree in answer["trees"].items()}
        for name, tree in trees.items():
            assert reader.layer(tree)[b"file"].content == name.encode() * 100


def test_of_64_writers_one_wins_each_round_and_nobody_loses_anything(zygote, scratch):
    world = World(scratch, zygote, seed=1)
    world.run("store", "init", world.store).ok()
    _race(world, SecondReader(world.store), processes=_PROCESSES, threads=_THREADS, rounds=_ROUNDS)


def test_of_32_writers_to_a_bucket_one_wins_each_round(zygote, scratch, s3):
    world = World(scratch, zygote, seed=1, store=s3.new_url(), settings=s3.variables)
    make_by_hand(s3, world.store)
    _race(world, BucketReader(s3, world.store), processes=2, threads=16, rounds=_BUCKET_ROUNDS)


def test_a_store_that_overwrites_is_noticed(zygote, scratch):
    world = World(scratch, zygote, seed=1)
    world.run("store", "init", world.store).ok()
    with pytest.raises(AssertionError, match="won"):
        _race(world, SecondReader(world.store), processes=2, threads=8, rounds=10, broken="overwriting")
