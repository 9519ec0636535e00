"""A world whose store is in a bucket behind the proxy that makes faults, and the operations that are tried on it."""

import hashlib
import json
import os
import random
import re
import shutil
import time

import obstore
from fault_proxy import BROKEN, FAULTS, LISTINGS, LOST, Rule
from faults.second_reader import SecondReader, Unreadable
from obstore.store import S3Store
from torture_support import Saving, Violation, World, clear

from envkit.errors import EXIT_RUN_FAILED
from envkit.model.paths import Paths
from envkit.ondemand.client import Client

_TELLTALE = ("testing", "AWS4-HMAC", "Signature", "Authorization")
"""The test server's secret key, and what comes with a signature."""
PATIENCE = 120.0
"""Seconds after which a command hangs, whatever the store does; the variant "impatient" gives each request 4."""
_REFUSED = re.compile(r"note: reads of sci failed: .*(packs/|layer )[0-9a-f]")
_SUM = "cd /opt && find . -type f -exec sha256sum {} +"


def bucket_of(server, url):
    """Return what obstore calls a store, below a URL."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    names = {"endpoint": "AWS_ENDPOINT_URL", "access_key_id": "AWS_ACCESS_KEY_ID"}
    names |= {"secret_access_key": "AWS_SECRET_ACCESS_KEY", "region": "AWS_REGION"}
    config = {name: server.variables[variable] for name, variable in names.items()}
    return S3Store(bucket, prefix=prefix, client_options={"allow_http": True}, **config)


def make_by_hand(server, url):
    """Make a store, as docs/formats.md says."""
    document = {"format": 1, "id": os.urandom(16).hex()}
    obstore.put(bucket_of(server, url), "format.json", json.dumps(document).encode())


class BucketReader(SecondReader):
    """A second reader of a store in a bucket: asks the server itself, past the proxy and envkit."""

    def __init__(self, server, url):
        super().__init__(url)
        self._bucket = bucket_of(server, url)
        self._objects = {}
        self._stamps = {}

    def stamps(self):
        """Return what tells one object from another, by key."""
        found = {meta["path"]: (meta["e_tag"], meta["size"]) for page in obstore.list(self._bucket) for meta in page}
        self._objects = {key: kept for key, kept in self._objects.items() if found.get(key) == kept[0]}
        self._stamps = found
        return found

    def keys(self):
        """Return all keys, sorted."""
        return sorted(self.stamps())

    def temporary(self):
        """A bucket has no temporary files."""
        return []

    def _bytes(self, key):
        if key not in self._objects:
            try:
                data = bytes(obstore.get(self._bucket, key).bytes())
            except FileNotFoundError as error:
                raise Unreadable(f"{key} is not there") from error
            self._objects[key] = (self._stamps.get(key), data)
        return self._objects[key][1]


class BucketWorld(World):
    """A world on a real server, behind a proxy."""

    def __init__(self, directory, zygote, server, proxy, *, seed):
        super().__init__(directory, zygote, seed=seed, store=server.new_url())
        self.server = server
        self.proxy = proxy
        self.settings = server.variables | {"AWS_ENDPOINT_URL": proxy.endpoint}

    def clear(self):
        """Remove what an earlier world left in the same directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def make_store(self):
        """Make the store by hand: looking at what the server can do takes longer than a whole test."""
        make_by_hand(self.server, self.store)

    def reader(self):
        """Return a second reader that asks the server itself."""
        return BucketReader(self.server, self.store)

    def run(self, *argv, variants=(), **options):
        """Run a command line; under faults the backend is less patient, and nothing of its secrets may come out."""
        chosen = ("impatient", *variants) if self.proxy.rules else variants
        outcome = super().run(*argv, variants=chosen, patience=PATIENCE, **options)
        for word in _TELLTALE:
            if word in outcome.stdout or word in outcome.stderr:
                raise Violation("wrong", f"{word!r} is told to the user: {outcome.stderr}")
        return outcome

    def fill_base(self, tree):
        """Make a root file system that can run."""
        super().fill_base(tree)
        for name in ("busybox", "sh"):
            shutil.copy(shutil.which("busybox"), f"{tree}/bin/{name}")
        for name in ("proc", "sys", "dev", "run", "tmp", "root"):
            os.makedirs(f"{tree}/{name}")

    def other_root(self):
        """Return an empty root, as of another machine: nothing serves what was there before."""
        path = f"{self.directory}/other"
        Client.stop(Paths.at(path), force=True)
        shutil.rmtree(path, ignore_errors=True)
        return path


def _sums(items):
    """Return what _SUM prints of the files of a version."""
    files = {path: item for path, item in items.items() if item.kind == "file"}
    return {f"./{path[4:].decode()}": hashlib.sha256(item.content).hexdigest() for path, item in files.items()}


class Bucket:
    """The operations on a world, each a method that runs one command under the proxy's rules and judges it."""

    def __init__(self, world, *, count=40):
        self.world = world
        self.saving = Saving(world, "sci", count=count)
        self._collects = False
        for _ in range(2):
            self.saving.prepare()
            self.saving.again()

    def own_packs(self):
        """Return the packs that only the newest version needs, not its base."""
        reader = self.saving.reader
        versions = reader.versions()
        base = reader.packs(versions["base/tiny"][1]["layers"][-1]["tree"])
        return sorted(reader.packs(versions["lab/sci"][max(self.saving.saved)]["layers"][-1]["tree"]) - base)

    def save(self):
        """Save other changes."""
        argv = self.saving.prepare()

        def judge(outcome):
            try:
                self.saving.settle(outcome)
            finally:
                self.world.proxy.rules = []
                self.saving.again()

        return self.world.run(*argv), judge

    def run(self):
        """Run the newest version on a machine that has nothing of it."""
        outcome = self.world.run(
            "run", "-e", "sci", "--", "/bin/busybox", "sh", "-c", _SUM, root=self.world.other_root()
        )

        def judge(outcome):
            # Where the server hides the newest versions, an older one is the newest.
            numbers = self.saving.saved if self.world.proxy.hides else [max(self.saving.saved)]
            found = {line[66:]: line[:64] for line in outcome.stdout.splitlines()}
            if outcome.code == 0 and found not in [_sums(self.saving.saved[number]) for number in numbers]:
                raise Violation("wrong", f"{len(found)} files are not those of the newest version")

        return outcome, judge

    @staticmethod
    def clear_run(outcome):
        """The command's own error is told by it, so envkit has to add why its reads failed."""
        if outcome.code >= EXIT_RUN_FAILED:
            clear(outcome)
            return
        lines = [line for line in outcome.stderr.splitlines() if not line.startswith("sha256sum: ")]
        if not lines or not all(_REFUSED.match(line) for line in lines):
            raise Violation("unclear", f"exit code {outcome.code} with\n{outcome.stderr[-3000:]}")

    def list(self):
        """List environments; a listing that the server made up may hide some, but shows none that is not there."""
        outcome = self.world.run("list", "--json", root=self.world.other_root())

        def judge(outcome):
            if outcome.code == 0:
                rows = [(row["environment"], row["version"]) for row in json.loads(outcome.stdout)]
                if not all(env == "lab/sci" and version in self.saving.saved for env, version in rows):
                    raise Violation("wrong", f"lists {rows}")

        return outcome, judge

    def log(self):
        """Look at the history; as with `list`."""
        outcome = self.world.run("log", "sci", "--json", root=self.world.other_root())

        def judge(outcome):
            if outcome.code == 0:
                numbers = [row["version"] for row in json.loads(outcome.stdout)]
                if not set(numbers) <= set(self.saving.saved):
                    raise Violation("wrong", f"tells of versions {numbers}")

        return outcome, judge

    def files(self):
        """List the files of the newest version."""
        newest = max(self.saving.saved)
        outcome = self.world.run("files", f"sci@{newest}", "--changed", "--json", root=self.world.other_root())

        def judge(outcome):
            if outcome.code == 0:
                paths = {row["path"] for row in json.loads(outcome.stdout)}
                if paths != {f"/{path.decode()}" for path in self.saving.files.items}:
                    raise Violation("wrong", f"lists {len(paths)} files")

        return outcome, judge

    def prepare_gc(self):
        """Delete the oldest version; every other time, have it condemned."""
        self.saving.prepare()
        self.saving.again()
        oldest = min(self.saving.saved)
        self.world.run("delete", f"sci@{oldest}", "--yes").ok()
        del self.saving.saved[oldest]
        self.saving.taken.add(max(self.saving.versions("sci")))
        if self._collects:
            self._gc().ok()
        self._collects = not self._collects

    def gc(self):
        """Collect: condemn what was deleted, or delete what is condemned."""
        outcome = self._gc()

        def judge(outcome):
            # A collection that was not shown a record deletes what only that needs, and the record with the next one.
            self._is_whole(deleted=not self.world.proxy.hides)
            self.world.proxy.rules = []
            for _ in range(2):
                self._gc().ok()
            self._is_whole(deleted=True)

        return outcome, judge

    def _gc(self):
        return self.world.run("gc", "--grace", "1d", variants=("a-month-later",))

    def _is_whole(self, *, deleted):
        there = self.saving.live(deleted=deleted)
        if set(there) != set(self.saving.saved):
            raise Violation("lost", f"there are versions {sorted(there)} instead of {sorted(self.saving.saved)}")
        for number, items in self.saving.saved.items():
            self.saving.holds(there[number], items)

    def copy(self):
        """Copy the newest version to a store in a directory."""
        place = f"{self.world.directory}/copy"
        shutil.rmtree(place, ignore_errors=True)
        self.world.run("store", "init", place).ok()
        newest = max(self.saving.saved)
        argv = ("copy", f"sci@{newest}", "--to", place)
        outcome = self.world.run(*argv)

        def judge(outcome):
            reader = SecondReader(place)
            self._copied(reader, needed=outcome.code == 0)
            self.world.proxy.rules = []
            self.world.run(*argv).ok()
            self._copied(reader, needed=True)

        return outcome, judge

    def _copied(self, reader, *, needed):
        try:
            found = reader.versions().get("lab/sci", {})
        except Unreadable as error:
            raise Violation("lost", f"in the copy: {error}") from error
        if needed and list(found) != [1]:
            raise Violation("lost", f"the copy has versions {list(found)}")
        for document in found.values():
            if reader.layer(document["layers"][-1]["tree"]) != self.saving.files.items:
                raise Violation("wrong", "the copy is another one")


def _nothing():
    """Most operations need no more than what is there."""


OPERATIONS = ("save", "run", "list", "log", "files", "copy", "gc")


def requests(bucket, operation):
    """Run an operation without a fault; return the methods and kinds of its requests."""
    getattr(bucket, f"prepare_{operation}", _nothing)()
    bucket.world.proxy.rules = []
    outcome, judge = getattr(bucket, operation)()
    made = list(bucket.world.proxy.requests)
    outcome.ok()
    judge(outcome)
    return made


def rules(fault, made, rng):
    """Return rules with a fault somewhere among the requests that an operation makes, once or from then on."""
    listing = (
        True if fault in LISTINGS else False if fault in ("flip", "error-body", "short", "long", "other") else None
    )
    methods = [method for method, _, _ in made]
    if fault in (*BROKEN, *LISTINGS):
        method = "GET"
    elif fault in LOST and "PUT" in methods:
        method = rng.choice(("PUT", rng.choice(methods)))
    else:
        method = rng.choice(methods)
    number = rng.randint(1, max(1, methods.count(method) // (3 if listing is not None else 1)))
    times = rng.choice((1, 1, 3, None))
    return [Rule(fault, method=method, nth=number, times=times, listing=listing)]


def tried(bucket, operation, chosen, tally):
    """Run an operation under rules, and judge what came of it; a Violation goes into the tally."""
    world = bucket.world
    getattr(bucket, f"prepare_{operation}", _nothing)()
    world.proxy.rules = chosen
    began = time.monotonic()
    name = f"{operation} under {chosen}"
    try:
        outcome, judge = getattr(bucket, operation)()
        tally.add(outcome, hit=world.proxy.met > 0)
        judge(outcome)
        if outcome.code:
            getattr(bucket, f"clear_{operation}", clear)(outcome)
    except (Violation, AssertionError) as error:
        violation = error if isinstance(error, Violation) else Violation("stuck", str(error))
        violation.fault = f"{name} seed {world.seed}, after {time.monotonic() - began:.1f} s"
        tally.violations.append(violation)
        return False
    finally:
        world.proxy.rules = []
    return True


def sample(seed, count):
    """Return some pairs of an operation and a fault, every fault at least once where there is room for it."""
    rng = random.Random(seed)
    faults = rng.sample(FAULTS, len(FAULTS))
    return [(rng.choice(OPERATIONS), faults[number % len(faults)]) for number in range(count)]
