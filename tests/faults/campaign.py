"""Many faults, one after the other: a world is made, used for a while, and made again."""

import re
import shutil
import signal

from faults import strace
from torture_support import Violation, World

_ROUNDS = 30
"""Faults for each world: with their number grows what has to be looked through after each of them."""
_FRAME = re.compile(r'File "[^"]*/(envkit/[^"]+)", line (\d+), in (\w+)')


class Campaign:
    """Runs the rounds of a kind of scenario in `directory`; `make(world)` gives the scenario of a new world."""

    def __init__(self, directory, zygote, make, *, seed):
        self._directory = f"{directory}/world"
        self._zygote = zygote
        self._make = make
        self._seed = seed
        self._used = 0
        self._scenario = None

    def scenario(self):
        """Return the scenario of now, in a world that is not used up."""
        if self._scenario is None or self._used >= _ROUNDS:
            shutil.rmtree(self._directory, ignore_errors=True)
            world = World(self._directory, self._zygote, seed=self._seed).begin()
            self._scenario = self._make(world)
            self._seed += 1
            self._used = 0
            self._round(self._scenario, lambda argv: (world.run(*argv), True))
        self._used += 1
        return self._scenario

    def renew(self):
        """Begin with a new world the next time."""
        self._scenario = None

    def crash(self, point, tally, *, broken=None):
        """Kill a command at a crash point; return whether it came there."""
        return self._fault(
            f"ENVKIT_CRASH={point}",
            tally,
            lambda world, argv: _with_hit(world.run(*argv, env={"ENVKIT_CRASH": point}, broken=broken)),
        )

    def strace(self, fault, tally, *, broken=None):
        """Run a command with a fault at a system call; return whether it was met."""
        return self._fault(str(fault), tally, lambda world, argv: strace.inject(world, argv, fault, broken=broken))

    def counts(self):
        """Return how often each kind of system call comes."""
        scenario = self.scenario()
        outcome, counted = strace.count(scenario.world, scenario.prepare())
        scenario.settle(outcome)
        scenario.again()
        return counted

    def _fault(self, name, tally, run):
        scenario = self.scenario()
        hit = False

        def counted(argv):
            nonlocal hit
            outcome, hit = run(scenario.world, argv)
            tally.add(outcome, hit=hit)
            return outcome, hit

        try:
            self._round(scenario, counted)
        except Violation as violation:
            violation.fault = f"{name} seed {self._seed - 1} round {self._used}"
            tally.violations.append(violation)
            self.renew()
        return hit

    def _round(self, scenario, run):
        """One use of the scenario: prepare, run, look, repeat, look."""
        argv = scenario.prepare()
        outcome, _ = run(argv)
        scenario.settle(outcome)
        scenario.again()


def _with_hit(outcome):
    return outcome, outcome.code == -signal.SIGKILL


def told(violation):
    """Return a violation in a few words, with where in envkit it came from: the same for the same cause."""
    frames = _FRAME.findall(str(violation))
    where = " < ".join(f"{path}:{line}:{name}" for path, line, name in reversed(frames[-4:]))
    lines = str(violation).strip().splitlines()
    first, last = lines[0], lines[-1] if len(lines) > 1 else ""
    return f"{first[:200]} | {last[:160]} | {where}"
