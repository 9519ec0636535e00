"""The image server under many faults, one after the other, while eight readers compare everything that they read."""

import random
import signal
import time

from faults.image_world import Hang, Node, Origin, store_away, wait_until
from torture_support import Tally, Violation

_READERS = 8
_STOPPED = 2.0
_STOPPED_LONG = 60.0


def image_faults(directory, options):
    """Yield (name, tally) of each class of faults; `options` are those of the command line."""
    origin = Origin(f"{directory}/images", seed=options.seed)
    stopped = _STOPPED_LONG if options.all else _STOPPED
    classes = {
        "server killed": lambda node, rng: _replaced(node, lambda: node.server),
        "holder killed": lambda node, rng: _replaced(node, lambda: node.holder),
        "server stopped": lambda node, rng: _stopped(node, stopped),
        "cache cut": _cut,
        "store away": _away,
    }
    for name, fault in classes.items():
        count = 1 if options.all and name == "server stopped" else 50 if options.all else options.count
        yield name, _tally(f"{directory}/node", origin, name, fault, count, random.Random(options.seed))


def _tally(place, origin, name, fault, count, rng):
    tally = Tally()
    with Node(place, origin) as node, node.readers(_READERS, again=True) as readers:
        try:
            for _ in range(count):
                fault(node, rng)
                time.sleep(rng.uniform(0, 0.3))
                tally.faults += 1
            for reader in readers:
                outcome = reader.result(bound=180)
                tally.acked += 1
                if outcome["wrong"]:
                    raise Violation("wrong", str(outcome["wrong"][:5]))
                if outcome["errors"]:
                    raise Violation("lost", str(outcome["errors"][:5]))
        except Hang as error:
            tally.violations.append(Violation("hang", str(error)))
        except Violation as violation:
            tally.violations.append(violation)
    for violation in tally.violations:
        violation.fault = name
    return tally


def _replaced(node, which):
    old = which()
    node.kill(old)
    wait_until(lambda: which() != old, "another process is started")
    node.state()


def _stopped(node, seconds):
    server = node.server
    node.kill(server, number=signal.SIGSTOP)
    time.sleep(seconds)
    node.kill(server, number=signal.SIGCONT)


def _cut(node, rng):
    """Lose the file's end, as happens on a disk that is repaired; then everything has to be fetched again."""
    try:
        with open(f"{node.directory}/partial", "r+b") as file:
            file.truncate(rng.randrange(20_000_000))
    except FileNotFoundError:
        return
    time.sleep(0.2)


def _away(node, rng):
    with store_away(node):
        time.sleep(rng.uniform(0, 1))
    with open(f"{node.directory}/partial", "r+b") as file:  # so that the next time something is fetched, too
        file.truncate(0)
