"""Which command each area of faults runs, and which crash points belong to it."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import sqlite3
import time
import weakref

from commandline import Outcome
from torture_support import Saving, Scenario, Violation, clear

from envkit.drivers.crash import POINTS
from envkit.model.paths import Paths

SEED = int(os.environ.get("ENVKIT_TEST_SEED", "1"))
"""What the tests take; another one gives other files and other places to fail at."""


class Copying(Scenario):
    """`envkit copy` to a store that has the versions before; the source stays as it is."""

    def __init__(self, world):
        self.place = f"{world.directory}/copies"
        super().__init__(world, self.place)
        world.run("store", "init", self.place).ok()
        world.stores.append(self.place)
        self._saving = Saving(world, "sci", count=60)
        self._copied = {}

    def prepare(self):
        """Save something new in the source."""
        self._saving.prepare()
        self._saving.again()
        self._source = self._saving.reader.stamps()
        return self.begin("copy", "sci", "--to", self.place)

    def settle(self, outcome, *, tidy=False):
        """The destination has the copy or has it not."""
        self.decent(outcome, tidy=tidy)
        if self._saving.reader.stamps() != self._source:
            raise Violation("wrong", "the source was changed")
        there = self.versions("sci")
        new = max(self._copied, default=0) + 1
        if outcome.code == 0 and (outcome.stdout.strip() != f"lab/sci@{new}" or new not in there):
            raise Violation("lost", f"acknowledged {outcome.stdout!r}, there are {sorted(there)}")
        if not set(self._copied) <= set(there) <= {*self._copied, new}:
            raise Violation("lost", f"versions {sorted(there)} after {sorted(self._copied)}")
        for number, document in there.items():
            self.holds(document, self._copied.get(number, self._saving.files.items))

    def again(self):
        """It is there once, however often it is copied."""
        for _ in range(2):
            self.repeated()
            self.untouched()
        there = self.versions("sci")
        new = max(self._copied, default=0) + 1
        if sorted(there) != [*self._copied, new]:
            raise Violation("wrong", f"versions {sorted(there)} after {sorted(self._copied)} and another copy")
        self._copied[new] = dict(self._saving.files.items)
        self.holds(there[new], self._copied[new])


class Renaming(Scenario):
    """`envkit rename` of an environment with three versions, back and forth between names."""

    def __init__(self, world):
        super().__init__(world)
        saving = Saving(world, "name0", count=30)
        for _ in range(3):
            saving.prepare()
            saving.again()
        world.end_session("name0")
        self._saved = saving.saved
        self._number = 0

    def prepare(self):
        """Take the next name."""
        self._number += 1
        return self.begin("rename", f"name{self._number - 1}", f"name{self._number}")

    def settle(self, outcome, *, tidy=False):
        """Under the old name or the new one are all versions, and that name works."""
        self.decent(outcome, tidy=tidy)
        complete = [name for name in self.argv[1:] if self._is_whole(name)]
        if not complete or (outcome.code == 0 and complete != [self.argv[2]]):
            raise Violation("lost", f"after {outcome} there is {complete}")

    def again(self):
        """It is finished."""
        self.repeated()
        if not self._is_whole(self.argv[2]):
            raise Violation("lost", f"{self.argv[2]} is not whole after it was renamed again")
        told = self.world.run("log", self.argv[1], "--json")
        if told.code == 0 or f"renamed to lab/{self.argv[2]}" not in told.stderr:
            raise Violation("wrong", f"the old name says {told}")

    def _is_whole(self, name):
        """Tell whether a name means all versions, as envkit itself says; what they hold is looked up by hand."""
        outcome = self.world.run("files", name, "--changed", "--json")
        if outcome.code:
            return False
        there = {number: document for number, document in self.versions(name).items() if document["layers"]}
        if sorted(there) != sorted(self._saved):
            return False
        for number, items in self._saved.items():
            self.holds(there[number], items)
        return True


class Squashing(Scenario):
    """`envkit squash` of an environment of three layers: the base, what was squashed before, and new changes."""

    def __init__(self, world):
        super().__init__(world)
        saving = Saving(world, "sci", count=40)
        saving.prepare()
        saving.again()
        self._items = dict(saving.files.items)
        self._newest = 1

    def prepare(self):
        """Save a layer more."""
        self.world.end_session("sci")
        files = self.world.session("sci", count=20, parent=f"lab/sci@{self._newest}", known=self._newest)
        files.change()
        self.world.run("save", "sci").ok()
        self._items |= files.items
        self._newest += 1
        return self.begin("squash", "sci")

    def settle(self, outcome, *, tidy=False):
        """The squashed version is there or not; it shows what the one before it does."""
        self.decent(outcome, tidy=tidy)
        there = self.versions("sci")
        if not set(range(1, self._newest + 1)) <= set(there) <= set(range(1, self._newest + 2)):
            raise Violation("lost", f"versions {sorted(there)}, and not up to {self._newest}")
        if outcome.code == 0 and self._newest + 1 not in there:
            raise Violation("lost", f"acknowledged {outcome.stdout!r}, there are {sorted(there)}")
        if self._newest + 1 in there:
            self._is_squashed(there[self._newest + 1])

    def again(self):
        """It is done; where it was done already there is nothing left to squash."""
        done = self._newest + 1 in self.versions("sci")
        outcome = self.world.run(*self.argv)
        if done:
            clear(outcome)
        elif outcome.code:
            raise Violation("stuck", f"the next squash fails: {outcome}")
        self.untouched()
        self._newest += 1
        self._is_squashed(self.versions("sci")[self._newest])

    def _is_squashed(self, document):
        if len(document["layers"]) != 2:
            raise Violation("wrong", f"version {document['version']} has {len(document['layers'])} layers")
        self.holds(document, self._items)


class Collecting(Scenario):
    """`envkit gc` in the middle of things: it deletes what an earlier call condemned, condemns what was deleted since,
    and finds the lease of a writer that died."""

    def __init__(self, world):
        super().__init__(world)
        self._saving = Saving(world, "sci", count=40)
        for _ in range(2):
            self._save()

    def prepare(self):
        """Delete a version, have it condemned, delete another one."""
        self._delete_one()
        self.world.run(*_GC).ok()
        self._delete_one()
        self._saving.prepare()
        killed = self.world.run("save", "sci", env={"ENVKIT_CRASH": "store:tree"})
        assert killed.code < 0, killed
        self._grow_old()
        return self.begin(*_GC)

    def settle(self, outcome, *, tidy=False):
        """What is not deleted is whole, and so is every version that still has a record."""
        del tidy  # it does not clean up behind itself: the next one does
        if outcome.code > 0:
            clear(outcome)
        there = self.versions("sci")
        for number, items in self._saving.saved.items():
            if number not in there:
                raise Violation("lost", f"version {number} is gone, there are {sorted(there)}")
            self.holds(there[number], items)

    def again(self):
        """Some calls later nothing is there that nothing needs, and saving goes on."""
        for _ in range(3):
            self._grow_old()
            self.repeated()
        self.settle(Outcome(0, b"", b""))
        self._is_clean()
        self._save()

    def _save(self):
        outcome = self.world.run(*self._saving.prepare())
        self._saving.settle(outcome)
        self._saving.saved[int(outcome.ok().partition("@")[2])] = dict(self._saving.files.items)

    def _delete_one(self):
        self._save()
        oldest = min(self._saving.saved)
        self.world.run("delete", f"sci@{oldest}", "--yes").ok()
        del self._saving.saved[oldest]
        self._saving.taken.add(max(self.versions("sci")))
        self._grow_old()

    def _grow_old(self):
        """Everything in the store was written a month ago."""
        then = time.time() - 30 * 86_400
        for place, _, names in os.walk(self.world.store):
            for name in names:
                os.utime(f"{place}/{name}", (then, then))

    def _is_clean(self):
        everything = self.reader.versions()
        trees = [
            layer["tree"] for env in everything.values() for document in env.values() for layer in document["layers"]
        ]
        needed = {f"trees/{tree[:2]}/{tree}" for tree in trees}.union(*map(self.reader.packs, trees))
        there = {key for key in self.reader.stamps() if key.startswith(("packs/", "trees/", "leases/", "clock/"))}
        if there != needed:
            raise Violation("stuck", f"{sorted(there - needed)} are still there, {sorted(needed - there)} are not")
        numbers = {number for number, document in everything["lab/sci"].items() if document["layers"]}
        if numbers != set(self._saving.saved):
            raise Violation(
                "stuck", f"versions {sorted(numbers)} are still there, live are {sorted(self._saving.saved)}"
            )
        self.tidy()


class Repairing(Scenario):
    """`envkit repair --from MIRROR` of a store with a damaged tree, a damaged pack and a pack that is missing."""

    def __init__(self, world):
        super().__init__(world)
        self._saving = Saving(world, "sci", count=60)
        self._mirror = f"{world.directory}/mirror"
        self._good = {}
        self._damaged = {}

    def prepare(self):
        """Save something, copy the store, damage it."""
        for _ in range(2):
            self._saving.prepare()
            self._saving.again()
        shutil.rmtree(self._mirror, ignore_errors=True)
        shutil.copytree(self.world.store, self._mirror)
        self._good = {key: self._bytes(self._mirror, key) for key in self.reader.stamps()}
        tree = self._saving.reader.versions()["lab/sci"][max(self._saving.saved)]["layers"][-1]["tree"]
        packs = sorted(self.reader.packs(tree))
        shutil.rmtree(f"{self.world.root}/cache")
        self._damage(f"trees/{tree[:2]}/{tree}")
        self._damage(packs[0])
        os.unlink(f"{self.world.store}/{packs[-1]}")
        return self.begin("repair", "--from", self._mirror)

    def settle(self, outcome, *, tidy=False):
        """Each object is as it should be, or as it was, or missing; nothing else has changed."""
        if tidy:
            self.tidy()
        if outcome.code > 0:
            clear(outcome)
        wrong = []
        for key, good in self._good.items():
            if os.path.exists(f"{self.world.store}/{key}"):
                data = self._bytes(self.world.store, key)
                if data not in (good, self._damaged.get(key)):
                    raise Violation("wrong", f"{key} has bytes that nobody wrote")
            wrong += [] if self._is_good(key) else [key]
        if outcome.code == 0 and wrong:
            raise Violation("lost", f"it says that all is mended, but {wrong} are not")
        if not set(wrong) <= {*self._damaged, *(set(self._good) - set(self.before))}:
            raise Violation("lost", f"{wrong} are damaged now")

    def again(self):
        """Everything is whole."""
        self.repeated()
        if left := [key for key in self._good if not self._is_good(key)]:
            raise Violation("stuck", f"{left} stay damaged")
        there = self.versions("sci")
        for number, items in self._saving.saved.items():
            self.holds(there[number], items)
        self._damaged = {}
        left = [name for _, _, names in os.walk(f"{self.world.root}/cache/repair") for name in names]
        if set(left) - {"lock"}:
            raise Violation("stuck", f"left behind: {left}")

    def _damage(self, key):
        path = f"{self.world.store}/{key}"
        data = bytearray(self._bytes(self.world.store, key))
        data[len(data) // 2] ^= 0x10
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(data)
        self._damaged[key] = bytes(data)

    def _is_good(self, key):
        path = f"{self.world.store}/{key}"
        return os.path.exists(path) and self._bytes(self.world.store, key) == self._good[key]

    def _bytes(self, store, key):
        with open(f"{store}/{key}", "rb") as file:
            return file.read()


class Beginning(Scenario):
    """`envkit store init` of a new directory."""

    def __init__(self, world):
        super().__init__(world)
        self._number = 0

    def prepare(self):
        """Take another directory."""
        self._number += 1
        self._place = f"{self.world.directory}/new/{self._number}"
        self.world.stores = [self._place]
        return self.begin("store", "init", self._place)

    def settle(self, outcome, *, tidy=False):
        """It is a store, or what a store begins as."""
        del tidy
        if outcome.code > 0:
            clear(outcome)
        if outcome.code == 0 or os.path.exists(f"{self._place}/format.json"):
            self._is_store()

    def again(self):
        """It is a store, and whoever makes it again does no harm."""
        for _ in range(2):
            self.repeated()
            before = self._is_store()
        if self._is_store() != before:
            raise Violation("wrong", "another call made another store of it")
        self.world.run("--store", self._place, "list", "--json").ok()

    def _is_store(self):
        with open(f"{self._place}/format.json", "rb") as file:
            document = json.load(file)
        if document["format"] != 1 or not re.fullmatch("[0-9a-f]{32}", document["id"]):
            raise Violation("wrong", f"format.json says {document}")
        return document["id"]


class Submitting(Scenario):
    """`envkit sbatch` to this machine's queue, which nobody runs: its lock is held here, so that jobs stay queued."""

    def __init__(self, world):
        super().__init__(world)
        world.settings["ENVKIT_QUEUE_KIND"] = "local"
        self._script = f"{world.directory}/job.sh"
        with open(self._script, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\necho done\n")
        paths = Paths.at(world.root)
        os.makedirs(paths.queue, mode=0o700, exist_ok=True)
        self._ledger = paths.ledger
        lock = os.open(paths.runner_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        weakref.finalize(self, os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._known = set()

    def prepare(self):
        """Take down which jobs there are."""
        self._known = self._queued()
        return self.begin("sbatch", "-e", "base/tiny", self._script)

    def settle(self, outcome, *, tidy=False):
        """There is no new job, or one that `jobs` shows; one that was acknowledged is there."""
        self.decent(outcome, tidy=tidy)
        queued = self._queued()
        new = queued - self._known
        if len(new) > 1 or not self._known <= queued:
            raise Violation("wrong", f"jobs {sorted(queued)} after {sorted(self._known)}")
        if outcome.code == 0 and new != {int(outcome.stdout)}:
            raise Violation("lost", f"acknowledged {outcome.stdout!r}, new jobs are {sorted(new)}")
        rows = json.loads(self.world.run("jobs", "--json", "--all").ok())
        shown = {row["job"] for row in rows if row["state"] == "queued" and row["digest"]}
        if shown != queued:
            raise Violation("lost", f"the queue has {sorted(queued)}, `jobs` shows {sorted(shown)}")

    def again(self):
        """The next one works, and all of them can be ended."""
        self.prepare()
        self.settle(self.repeated())
        numbers = [str(number) for number in self._queued()]
        told = json.loads(self.world.run("kill", "--yes", "--json", *numbers).ok())
        if sorted(told["killed"]) != sorted(numbers) or self._queued():
            raise Violation("stuck", f"of {numbers} there were ended {told}")

    def _queued(self):
        """Return the jobs that the queue would run, by its own database."""
        if not os.path.exists(self._ledger) or not os.path.getsize(self._ledger):
            return set()
        with contextlib.closing(sqlite3.connect(self._ledger)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone():
                return set()
            return {number for (number,) in db.execute("SELECT number FROM jobs WHERE open > 0")}


_GC = ("gc", "--grace", "1d")

AREAS = {
    "save": lambda world: Saving(world, "sci"),
    "copy": Copying,
    "rename": Renaming,
    "squash": Squashing,
    "gc": Collecting,
    "init": Beginning,
    "repair": Repairing,
    "submit": Submitting,
}
"""Area to a function that makes its scenario in a world."""

_AREA_OF = {"save": "save", "store": "save", "lease": "save", "lease:expired": "gc"}
"""The area of a prefix of crash points, or of a point, where that is not the area's own name."""


OFTEN = ("store:pack", "copy:pack", "rename:copy", "gc:deleted")
"""Points that a command comes by several times."""


def _area(point):
    prefix = point.partition(":")[0]
    return _AREA_OF.get(point, _AREA_OF.get(prefix, prefix))


def points(area):
    """Return the crash points of an area."""
    return [point for point in POINTS if _area(point) == area]


def without_scenario():
    """Return crash points that no scenario covers."""
    return [point for point in POINTS if _area(point) not in AREAS]
