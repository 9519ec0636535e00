"""What the harnesses that try to break envkit share: a world to break, faults to break it with, and the oracle.

A `World` is an envkit root with a base and a store, all of it seeded. A `Scenario` is one command on it: what has to
be done before, what may be there after a fault, and what has to be true once the command was repeated. What is there is
said by `faults.second_reader`, what should be there by the model that made it; envkit itself is not asked.
"""

import contextlib
import json
import os
import random
import select
import shutil
import signal
import stat
import subprocess
import sys
import time

from commandline import CHECKOUT, Envkit, Outcome
from faults.second_reader import Item, SecondReader, Unreadable

from envkit.drivers.subids import container_range
from envkit.model.ids import EnvName
from envkit.model.session import Session, session_from_json, session_to_json
from envkit.model.version import LayerRef

HANGS_AFTER = 120.0
"""Seconds after which a command is taken to hang."""


class Violation(AssertionError):
    """A promise was broken: `kind` is "lost", "wrong", "unclear", "hang" or "stuck"."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Tally:
    """What came of many faults, as one line."""

    def __init__(self):
        self.faults = self.acked = self.errors = self.killed = self.unused = 0
        self.violations = []

    def add(self, outcome, *, hit=True):
        """Count a command that went through a fault, or one that the fault never met."""
        self.faults += hit
        self.unused += not hit
        self.acked += outcome.code == 0
        self.killed += outcome.code == -signal.SIGKILL
        self.errors += outcome.code > 0

    def __str__(self):
        count = [sum(violation.kind == kind for violation in self.violations) for kind in ("lost", "wrong")]
        others = len(self.violations) - sum(count)
        line = f"{self.faults} faults, {self.acked} acked, {self.killed} killed, {count[0]} lost, {count[1]} wrong"
        line += f", {self.errors} clear errors"
        return line + (f", {others} OTHER VIOLATIONS" if others else "")


class Zygote:
    """Forks envkit command lines: see `faults/zygote.py`. A context manager."""

    def __init__(self, scratch):
        os.makedirs(scratch, exist_ok=True)
        self._streams = [f"{scratch}/{name}" for name in ("out", "err")]

    def __enter__(self):
        for path in self._streams:
            os.mkfifo(path)
        self._pipes = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self._streams]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ENVKIT_")}
        environment |= {"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/tests", "PYTHONDONTWRITEBYTECODE": "1"}
        argv = [sys.executable, f"{CHECKOUT}/tests/faults/zygote.py"]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._said = b""
        self._answer(HANGS_AFTER)
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(HANGS_AFTER)
        self._process.stdout.close()
        for pipe in self._pipes:
            os.close(pipe)

    def run(self, argv, environment, *, variants=(), limits=None, tracer=(), patience=HANGS_AFTER):
        """Run one command line; return its Outcome.

        :param tracer: an argv that `-p PID` is added to; what it makes of the process begins before envkit does.
        """
        for pipe in self._pipes:
            _emptied(pipe)
        out, err = self._streams
        order = {"argv": argv, "env": environment, "out": out, "err": err, "variants": variants}
        order["limits"] = limits or {}
        self._process.stdin.write(json.dumps(order | {"stop": bool(tracer)}).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._answer(patience)["pid"]
        tracing = self._trace(pid, tracer) if tracer else None
        try:
            code = self._answer(patience)["code"]
        except Violation:
            os.kill(pid, signal.SIGKILL)
            self._answer(patience)
            raise
        finally:
            if tracing is not None:
                tracing.wait(HANGS_AFTER)
        return Outcome(code, *(_emptied(pipe) for pipe in self._pipes))

    def _trace(self, pid, tracer):
        _wait(lambda: _state(pid, "State").startswith("T"), "the child stops")
        tracing = subprocess.Popen([*tracer, "-p", str(pid)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait(lambda: _state(pid, "TracerPid") != "0", "the tracer attaches")
        os.kill(pid, signal.SIGCONT)
        return tracing

    def _answer(self, patience):
        deadline = time.monotonic() + patience
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise Violation("hang", f"nothing within {patience:g} s")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            assert data, "the zygote ended"
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return json.loads(line)


def _state(pid, name):
    for line in _content(f"/proc/{pid}/status").decode().splitlines():
        if line.startswith(f"{name}:"):
            return line.split(":", 1)[1].strip()
    raise Violation("hang", f"process {pid} is gone before it began")


def _wait(condition, what):
    deadline = time.monotonic() + HANGS_AFTER
    while not condition():
        if time.monotonic() > deadline:
            raise Violation("hang", f"waited in vain: {what}")
        time.sleep(0.0005)


def _emptied(pipe):
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(pipe, 1 << 16):
            data += piece
    return data


def _content(path):
    with open(path, "rb") as file:
        return file.read()


class Files:
    """The files of a session, as a model, and on disk in its upper directory. `rng` decides everything."""

    def __init__(self, rng, upper, *, count):
        self._rng = rng
        self._upper = upper
        self._ids = container_range()
        self._count = count
        self.items = {b"": Item("directory", 0o755, 0, 0, b""), b"opt": Item("directory", 0o755, 0, 0, b"")}
        self._made = 0

    def change(self):
        """Change, add and remove some files; the first time, make all of them."""
        files = sorted(path for path, item in self.items.items() if item.kind == "file")
        fresh = self._count - len(files)
        for path in self._rng.sample(files, len(files) // 20):
            os.unlink(self._place(path))
            del self.items[path]
        for path in self._rng.sample(files, len(files) // 10):
            if path in self.items:
                self._write(path)
        for _ in range(max(fresh, 0) + len(files) // 20 + 1):
            self._made += 1
            folder = b"opt/d%d" % self._rng.randrange(12)
            self._directory(folder)
            self._write(b"%s/f%d" % (folder, self._made))
        self._made += 1
        link = b"opt/link%d" % self._made
        os.symlink(f"to/{self._made}", self._place(link))
        os.lchown(self._place(link), self._ids, self._ids)
        self.items[link] = Item("symlink", 0o777, 0, 0, b"to/%d" % self._made)

    def hide(self, path):
        """Delete a file of the base."""
        parts = path.split(b"/")
        for end in range(1, len(parts)):
            self._directory(b"/".join(parts[:end]))
        os.mknod(self._place(path), stat.S_IFCHR, os.makedev(0, 0))
        self.items[path] = Item("whiteout", 0, 0, 0, b"")

    def _place(self, path):
        return f"{self._upper}/{os.fsdecode(path)}"

    def _directory(self, path):
        if not os.path.isdir(self._place(path)):
            os.mkdir(self._place(path))
            os.chown(self._place(path), self._ids, self._ids)
        os.chmod(self._place(path), 0o755)
        self.items[path] = Item("directory", 0o755, 0, 0, b"")

    def _write(self, path):
        size = self._rng.choice((0, 10, 700, 3000, 3000, 9000, 20_000))
        if self._rng.random() < 0.02:
            size = self._rng.randrange(200_000, 900_000)
        data = self._rng.randbytes(size)
        mode = self._rng.choice((0o644, 0o755, 0o600))
        user = self._rng.choice((0, 0, 1000))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._place(path))
        with open(self._place(path), "wb") as file:
            file.write(data)
        os.chown(self._place(path), self._ids + user, self._ids)
        os.chmod(self._place(path), mode)
        self.items[path] = Item("file", mode, user, 0, data)


class World:
    """A root with a tiny base, and sessions that no container runs for, as after a reboot of the machine."""

    def __init__(self, directory, zygote, *, seed, store=None, settings=None):
        self.directory = str(directory)
        self.root = f"{self.directory}/root"
        self.store = store or f"{self.directory}/store"
        self.seed = seed
        self.rng = random.Random(seed)
        self.zygote = zygote
        self.settings = settings or {}
        self.stores = [self.store]
        self.envkit = Envkit(self.root, store=self.store)
        os.makedirs(self.directory, exist_ok=True)

    def begin(self):
        """Make the store and import the base."""
        self.make_store()
        tree = f"{self.directory}/base"
        self.fill_base(tree)
        self.run("base", "import", "tiny", tree).ok()
        return self

    def make_store(self):
        """Make the store."""
        self.run("store", "init", self.store).ok()

    def fill_base(self, tree):
        """Make the files of the base."""
        texts = {"bin/sh": "x", "usr/share/old": "from the base", "etc/passwd": "root:x:0:0::/root:/bin/sh\n"}
        for path, text in texts.items():
            os.makedirs(os.path.dirname(f"{tree}/{path}"), exist_ok=True)
            with open(f"{tree}/{path}", "w", encoding="utf-8") as file:
                file.write(text)
        os.makedirs(f"{tree}/opt", exist_ok=True)

    def run(self, *argv, env=None, root=None, broken=None, variants=(), **options):
        """Run a command line in the zygote, with small packs; `broken` names a variant that breaks a promise."""
        environment = self.envkit.environment(more=self.settings | (env or {}))
        if root is not None:
            environment["ENVKIT_ROOT"] = root
        chosen = ["small-packs", *variants, *([broken] if broken else [])]
        return self.zygote.run(list(argv), environment, variants=chosen, **options)

    def reader(self):
        """Return a second reader of the store."""
        return SecondReader(self.store)

    def session(self, name, *, count=120, parent="base/tiny@1", known=0):
        """Write down a session on a version, the base by default, as of after a reboot; return the model of its files."""
        document = json.loads(self.run("info", parent, "--json").ok())
        layers = tuple(LayerRef(**{key: layer[key] for key in LayerRef._fields}) for layer in document["layers"])
        session = Session(
            env=EnvName(owner="lab", name=name),
            identity=self.rng.randbytes(5).hex(),
            base="base/tiny@1",
            parent=parent,
            layers=layers,
            arch="x86_64",
            known=known,
        )
        directory = self.envkit.directory(name)
        upper = f"{directory}/upper"
        os.makedirs(f"{upper}/opt", mode=0o755)
        for path in (upper, f"{upper}/opt"):
            os.chown(path, container_range(), container_range())
            os.chmod(path, 0o755)
        with open(f"{directory}/session.json", "wb") as file:
            file.write(session_to_json(session))
        return Files(random.Random(f"{self.seed} {name} {known}"), upper, count=count)

    def end_session(self, name):
        """Forget a session."""
        shutil.rmtree(self.envkit.directory(name))

    def unfinished(self):
        """Return files of the root that were being written."""
        found = []
        for place, folders, names in os.walk(self.root):
            folders[:] = [folder for folder in folders if folder not in ("upper", "work")]
            found += [f"{place}/{name}" for name in names if name.endswith(".new")]
        return found

    def record(self, name):
        """Return a session's record as it is on disk."""
        path = f"{self.envkit.directory(name)}/session.json"
        return session_from_json(_content(path), where=path)


def clear(outcome):
    """An error has to be one line that says what and where, then facts and a hint at most; nothing else."""
    text = outcome.stderr
    lines = text.splitlines()
    if "Traceback" in text or "Exception ignored" in text or "Fatal Python" in text:
        raise Violation("unclear", f"exit code {outcome.code} with\n{text[-3000:]}")
    if len(lines) == 1 and lines[0].startswith('{"event": "error"'):
        event = json.loads(lines[0])
        lines = [f"error: {event['message']}"]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors and "standard output" in errors[0]:
        return  # what it did is done and said, but for the result
    if len(errors) != 1 or any(not line.startswith(("  ", "hint: ", "error: ", "note: ")) for line in lines):
        raise Violation("unclear", f"exit code {outcome.code} with\n{text[-3000:]}")
    if outcome.out:
        raise Violation("unclear", f"exit code {outcome.code}, but it says {outcome.stdout!r}")


class Scenario:
    """One command under faults. `prepare` makes something to do and returns the argv, `settle` judges what is there
    after it, `again` repeats it without a fault. All of them raise Violation."""

    def __init__(self, world, store=None):
        self.world = world
        self.reader = world.reader() if store is None else SecondReader(store)
        self.argv = ()
        self.before = {}

    def begin(self, *argv):
        """Take down what is there; return the argv."""
        self.argv, self.before = argv, self.reader.stamps()
        return argv

    def versions(self, name, **which):
        """Return an environment's version records by number; whatever any version in the store needs is there."""
        try:
            return self.reader.versions(**which).get(f"lab/{name}", {})
        except Unreadable as error:
            raise Violation("lost", str(error)) from error

    def untouched(self):
        """Whatever was in the store is in it as it was."""
        now = self.reader.stamps()
        for key, stamp in self.before.items():
            if not key.startswith(_VOLATILE) and now.get(key) != stamp:
                raise Violation("lost", f"{key} was changed or removed")

    def tidy(self):
        """Nothing half-written is left."""
        if left := [*self.reader.temporary(), *self.world.unfinished()]:
            raise Violation("stuck", f"left behind: {left}")

    def decent(self, outcome, *, tidy=False):
        """Nothing that was there was touched, an error is clear, and if `tidy`, nothing half-written is left."""
        self.untouched()
        if tidy:
            self.tidy()
        if outcome.code > 0:
            clear(outcome)

    def repeated(self):
        """Run the command again; it works at once."""
        outcome = self.world.run(*self.argv)
        if outcome.code != 0:
            raise Violation("stuck", f"the next {self.argv[0]} fails with {outcome.code}\n{outcome.stderr}")
        return outcome

    def holds(self, document, items):
        """A version's own layer is what it should be."""
        found = self.reader.layer(document["layers"][-1]["tree"])
        if found != items:
            what = f"{document['owner']}/{document['name']}@{document['version']}"
            raise Violation("wrong", f"{what} is not what was saved: {_difference(items, found)}")


class Saving(Scenario):
    """`envkit save` of a session with a few hundred files; each round saves other changes."""

    def __init__(self, world, name, *, count=120):
        super().__init__(world)
        self.name = name
        self.files = world.session(name, count=count)
        self.files.hide(b"usr/share/old")
        self.saved = {}
        # Numbers that tombstones took.
        self.taken = {0}

    def prepare(self):
        """Change files."""
        self.files.change()
        return self.begin("save", self.name)

    def settle(self, outcome, *, tidy=False):
        """The old state or the new one, everything that was there untouched, errors clear; `tidy` where it could be."""
        self.decent(outcome, tidy=tidy)
        there = self.live()
        new = self._next()
        if outcome.code == 0:
            if outcome.stdout.strip() != f"lab/{self.name}@{new}":
                raise Violation("wrong", f"acknowledged {outcome.stdout!r} instead of version {new}")
            if new not in there:
                raise Violation("lost", f"acknowledged version {new} is not there, only {sorted(there)}")
        if not set(self.saved) <= set(there) <= {*self.saved, new}:
            raise Violation("lost", f"versions {sorted(there)} after {sorted(self.saved)}")
        for number, document in there.items():
            self.holds(document, self.saved.get(number, self.files.items))
        if not self.world.record(self.name):
            raise Violation("lost", "the session is gone")

    def again(self):
        """It works at once, the newest version is what was to be saved, and once more there is nothing to save."""
        self.repeated()
        self.untouched()
        there = self.live()
        newest = max(there)
        if newest != self._next():
            raise Violation("lost", f"versions {sorted(there)} after {sorted(self.saved)} and another save")
        self.holds(there[newest], self.files.items)
        self.saved[newest] = dict(self.files.items)
        outcome = self.world.run(*self.argv)
        if (outcome.code, outcome.stderr) != (0, f"nothing changed since lab/{self.name}@{newest}\n"):
            raise Violation("stuck", f"the session does not know that it saved version {newest}: {outcome}")

    def live(self, **which):
        """Return the records of versions that are not deleted."""
        there = self.versions(self.name, **which)
        deleted = {number for document in there.values() for number in document["deletes"]}
        return {n: document for n, document in there.items() if document["layers"] and n not in deleted}

    def _next(self):
        return max({*self.saved, *self.taken}) + 1


_VOLATILE = ("leases/", "gc/", "roots/", "clock/", "probe/")


def _difference(expected, found):
    both = sorted(path for path in {*expected, *found} if expected.get(path) != found.get(path))
    shown = [f"{os.fsdecode(path)}: {_short(expected.get(path))} became {_short(found.get(path))}" for path in both[:5]]
    return "; ".join(shown)


def _short(item):
    return None if item is None else item._replace(content=item.content[:12])
