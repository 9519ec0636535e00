"""Processes that write to one store at once, each with a store that it opened itself.

They come from a clean process: what was forked from one that has used obstore cannot use it.
"""

import multiprocessing
import os

from envkit.errors import Conflict
from envkit.model.ids import EnvName
from envkit.model.version import LayerRef, Version, VersionKind
from envkit.store import versions
from envkit.store.open import open_store

RACERS = 16
ROUNDS = 10
CROWDED_ROUNDS = 2
"""Where all of them have to win in turn."""


def race(work, *arguments):
    """Run `work(racer, barrier, *arguments)` in as many processes as there are racers; return (racer, result)s."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["racing"])
    barrier, results = context.Barrier(RACERS), context.SimpleQueue()
    racers = [
        context.Process(target=_start, args=(dict(os.environ), work, n, barrier, results, arguments))
        for n in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    found = [results.get() for _ in racers]
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * RACERS, found
    return found


def _start(environment, work, racer, barrier, results, arguments):
    os.environ.update(environment)
    try:
        results.put((racer, work(racer, barrier, *arguments)))
    except BaseException as error:
        barrier.abort()
        results.put((racer, repr(error)))
        raise


def put_all(racer, barrier, url):
    store = open_store(url)
    won = []
    for number in range(ROUNDS):
        barrier.wait(60)
        won.append(store.put_if_absent(f"race/{number}", b"%d" % racer * 1000))
    return won


def publish_expected(racer, barrier, url):
    return _publish_all(racer, barrier, url, ROUNDS, expect=True)


def publish_any(racer, barrier, url):
    return _publish_all(racer, barrier, url, CROWDED_ROUNDS, expect=False)


def _publish_all(racer, barrier, url, rounds, *, expect):
    store = open_store(url)
    won = []
    for number in range(rounds):
        barrier.wait(60)
        try:
            env = EnvName(owner="alice", name=f"e{number}")
            won.append(versions.publish(store, _draft(env, f"r{racer}"), expected=1 if expect else None).number)
        except Conflict:
            won.append(None)
    return won


def _draft(env, author):
    layer = LayerRef(tree="ab" * 32, entries=1, size=1, stored=1)
    return Version(env=env, number=1, kind=VersionKind.ENVIRONMENT, layers=(layer,), author=author)
