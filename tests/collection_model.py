"""A world of writers and collections over one store, in which every store operation is a step of its own.

Each actor is a thread that runs the real code (`services/publishing`, `services/collecting`) and stops before every
operation until it is told to go on; at any time one thread runs. A put has two steps, since an object gets its time
before it gets its name; a listing has two, since what comes later in it may be newer. Time moves only when told.

After every step the world looks whether each acknowledged version that is not deleted, or not for long, is still
there with all its data. What it looks at are the bytes in the store, not what the code under test thinks of them.
"""

import contextlib
import functools
import hashlib
import os
import threading
from types import SimpleNamespace

from envkit.content import frame, treefile
from envkit.content.pack import header
from envkit.errors import EnvkitError
from envkit.model.history import History
from envkit.model.ids import EnvName
from envkit.model.progress import Progress
from envkit.model.tree import TREE_FORMAT, Chunk, Entry, Kind, Segment, Tree
from envkit.model.version import LayerRef, Version, VersionKind, version_from_json
from envkit.services import collecting, publishing
from envkit.store import layout, leases, parallel, versions
from envkit.store.base import Status, Store
from envkit.store.errors import ObjectNotFound, ObjectTruncated, PacksMissing
from envkit.store.objects import get_tree, put_pack, put_tree, tree_digests

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
GRACE = 7 * DAY
BEGINNING = 1_700_000_000.0


class Lost(AssertionError):
    """Data that somebody may rely on is gone."""


class Killed(BaseException):
    """What an actor meets when it is killed: at this operation, and at each one that it tries on its way out."""


class Handle(Store):
    """The store as the actors see it; each operation is a step of the actor whose thread it is."""

    def __init__(self, world):
        super().__init__("memory")
        self._world = world

    def _get(self, key, limit):
        threading.current_thread().turn("get", key)
        return self._found(key)[0]

    def _get_range(self, key, start, length):
        threading.current_thread().turn("get", key)
        data = self._found(key)[0]
        if start + length > len(data):
            raise ObjectTruncated(self.url, key, len(data), start + length)
        return data[start : start + length]

    def _found(self, key):
        if key not in self._world.objects:
            raise ObjectNotFound(self.url, key)
        return self._world.objects[key]

    def _put_if_absent(self, key, pieces):
        data = b"".join(pieces)
        threading.current_thread().turn("write", key)
        written = self._world.now
        threading.current_thread().turn("put", key)
        if key in self._world.objects:
            return False
        self._world.objects[key] = (data, written)
        return True

    def _status(self, key):
        threading.current_thread().turn("status", key)
        found = self._world.objects.get(key)
        return None if found is None else Status(size=len(found[0]), modified=found[1])

    def _delete(self, key):
        threading.current_thread().turn("delete", key)
        if self._world.objects.pop(key, None) is not None and key.startswith(("envs", "trees", "packs")):
            self._world.deleted.append(key)

    def _list(self, prefix):
        return (key for key, _ in self._list_status(prefix))

    def _list_status(self, prefix):
        return ((key, status) for key, status in self._everything(prefix) if not self._world.hides(key))

    def _everything(self, prefix):
        threading.current_thread().turn("list", prefix)
        shown = sorted(key for key in self._world.objects if key.startswith(prefix))
        first = shown[: len(shown) // 2]
        page = [(key, self._world.objects[key]) for key in first]
        threading.current_thread().turn("list", prefix)
        after = first[-1] if first else ""
        rest = sorted(key for key in self._world.objects if key.startswith(prefix) and key > after)
        page += [(key, self._world.objects[key]) for key in rest]
        for key, (data, modified) in page:
            yield key, Status(size=len(data), modified=modified)


class Actor(threading.Thread):
    """Something that happens at the store, in steps."""

    def __init__(self, world, name, work):
        super().__init__(name=name, daemon=True)
        self.world = world
        self.store = Handle(world)
        self.next = ("start", "")
        self.finished = False
        self.killed = False
        self.failure = None
        self.lease = None
        self.renewing = None
        self.waits_for = None
        self.unseen = 0.0
        """Seconds that this actor's clock did not count: its virtual machine was stopped."""
        self._work = work
        self._go = threading.Semaphore(0)
        self._parked = threading.Semaphore(0)

    def run(self):
        try:
            self.turn("start", "")
            self._work(self)
        except Killed:
            pass
        except EnvkitError as error:
            self.failure = error
        except BaseException as error:  # noqa: BLE001  # a mistake in the code under test, or in here
            self.failure = error
            self.world.mistakes.append(error)
        self.finished = True
        self._parked.release()

    def begin(self):
        self.start()
        self._parked.acquire()

    def turn(self, verb, key):
        """Wait for the next step; called in the actor's own thread."""
        if self.killed:
            raise Killed
        self.next = (verb, key)
        self._parked.release()
        self._go.acquire()
        if self.killed:
            raise Killed

    def advance(self):
        """Let it do one operation."""
        self._go.release()
        self._parked.acquire()

    def die(self):
        self.killed = True
        while not self.finished:
            self.advance()


class StepLock:
    """A lock whose waiting is a step, as everything is."""

    def __init__(self):
        self.holder = None

    def __enter__(self):
        actor = threading.current_thread()
        while self.holder is not None:
            actor.waits_for = self.holder
            actor.turn("lock", "")
        actor.waits_for = None
        self.holder = actor

    def __exit__(self, *_):
        self.holder = None


class Index(dict):
    """What one machine knows of the store's chunks; a hint that nobody takes back when packs are deleted."""

    def __init__(self):
        super().__init__()
        self.trees = set()

    def learn(self, digest, chunks):
        self.trees.add(digest)
        self.update({chunk.digest: chunk for chunk in chunks})


class World:
    """The store, its clock, everybody at it, and what was acknowledged. A context manager."""

    def __init__(self):
        self.objects = {}
        self.deleted = []
        self.now = BEGINNING
        self.actors = []
        self.indexes = [Index(), Index()]
        self.acknowledged = {}
        self.restored = set()
        self.mistakes = []
        self.collections = []
        self.reused = 0
        self.hidden = frozenset()
        """Environments that listings leave out: of those that a collection has seen, and only for collections."""
        self._patches = contextlib.ExitStack()

    def __enter__(self):
        numbers = iter(range(1, 1 << 60))
        self._patch(parallel, "REQUESTS", 1)
        self._patch(os, "urandom", lambda size: hashlib.sha256(b"%d" % next(numbers)).digest()[:size])
        self._patch(collecting, "time", SimpleNamespace(time=lambda: self.now))
        self._patch(publishing, "Lease", self._lease)
        return self

    def __exit__(self, *_):
        for actor in self.actors:
            actor.die()
            actor.join()
        self._patches.close()

    def _patch(self, owner, name, value):
        self._patches.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def _lease(self, store):
        actor = threading.current_thread()
        lease = leases.Lease(store, clock=lambda: self.now - actor.unseen)
        lease._lock = StepLock()
        actor.lease = lease
        return lease

    def context(self, actor):
        return SimpleNamespace(store=actor.store, progress=Progress(), paths=SimpleNamespace(trees="/nonexistent"))

    # Who there is

    def start(self, name, work):
        actor = Actor(self, name, work)
        self.actors.append(actor)
        actor.begin()
        return actor

    def writer(self, env, texts, *, node=0, on=None):
        """Start somebody who saves a version of an environment with one file a text; `on` is what it goes on from."""
        return self.start(f"writer {env} {texts}", functools.partial(_write, self, env, texts, node, on))

    def collection(self, *, grace=GRACE):
        return self.start("gc", functools.partial(_collect, self, grace))

    def deletion(self, env, number):
        return self.start(f"delete {env}@{number}", functools.partial(_delete, env, number))

    def restoration(self, env, number):
        return self.start(f"undelete {env}@{number}", functools.partial(_undelete, self, env, number))

    def renewal(self, writer):
        """Start a sign of life of a writer, at the same time as what else it does."""
        if writer.lease is None or writer.finished or (writer.renewing and not writer.renewing.finished):
            return None
        lease = writer.lease

        writer.renewing = self.start(f"renewal of {writer.name}", lambda _actor: lease.renew())
        return writer.renewing

    def hides(self, key):
        """Tell whether the listing that is under way leaves out a key."""
        place = layout.version_of(key)
        return place is not None and place[0] in self.hidden and threading.current_thread().name == "gc"

    def hide(self, envs):
        """Have listings leave out those of some environments that a collection has written down, and no others."""
        lists = sorted(key for key in self.objects if key.startswith("roots/"))
        written = self.objects[lists[-1]][0].decode() if lists else ""
        self.hidden = frozenset(env for env in envs if f'"envs/{env}/' in written)

    # What happens

    def step(self, actor, times=1):
        for _ in range(times):
            if actor.finished:
                return
            if actor.next[0] == "lock" and actor.waits_for.next[0] != "lock" and not actor.waits_for.finished:
                actor.waits_for.advance()
                self.look()
            actor.advance()
            self.look()

    def run(self, actor, patience=20_000):
        while not actor.finished:
            self.step(actor)
            patience -= 1
            assert patience, f"{actor.name} goes on for ever"
        return actor

    def run_until(self, actor, verb, prefix):
        """Go on until the next operation is `verb` on a key with a prefix; return whether that came."""
        while not actor.finished and not (actor.next[0] == verb and actor.next[1].startswith(prefix)):
            self.step(actor)
        return not actor.finished

    def pass_time(self, seconds, *, asleep=(), stopped=()):
        """Let time pass. Writers that are awake give signs of life; those asleep or whose machine stopped do not."""
        while seconds > 0:
            some = min(seconds, 5 * HOUR)
            self.now += some
            seconds -= some
            for actor in stopped:
                actor.unseen += some
            for actor in list(self.actors):
                if not actor.finished and actor not in asleep and actor not in stopped and self._can_renew(actor):
                    self.run(self.renewal(actor))
        self.actors = [actor for actor in self.actors if not actor.finished]
        self.look()

    def _can_renew(self, actor):
        renewing = actor.renewing is not None and not actor.renewing.finished
        return actor.lease is not None and not renewing and actor.lease._lock.holder is None

    def kill(self, actor):
        actor.die()
        if actor.renewing is not None:
            actor.renewing.die()

    # What must be true

    def look(self):
        """Look whether anything is lost."""
        if self.mistakes:
            raise self.mistakes[0]
        for (env, number), needed in self.acknowledged.items():
            deleted = self._deleted(env, number)
            if deleted is None or deleted > self.now - GRACE:
                missing = sorted(key for key in needed if key not in self.objects)
                if missing:
                    raise Lost(f"{env}@{number} is there{' (deleted)' * bool(deleted)}, but not {', '.join(missing)}")

    def _deleted(self, env, number):
        """Return when a version was deleted, or None; what was brought back counts when that was acknowledged."""
        prefix = f"{layout.versions_prefix(env)}"
        keys = tuple(sorted(key for key in self.objects if key.startswith(prefix)))
        tombstone = _tombstones(self, keys).get(number)
        return None if tombstone is None else self.objects[tombstone][1]

    def acknowledge(self, version):
        """Remember what a version needs, from the bytes in the store."""
        needed = {layout.version_key(version.env, version.number)}
        for layer in version.layers:
            needed.add(layout.tree_key(layer.tree))
            if layout.tree_key(layer.tree) in self.objects:
                chunks = treefile.decode_chunks(self.objects[layout.tree_key(layer.tree)][0], layer.tree)
                needed |= {layout.pack_key(chunk.pack.hex()) for chunk in chunks}
        self.acknowledged[version.env, version.number] = needed
        self.look()

    def live(self):
        """Return the versions that are not deleted."""
        return [place for place in self.acknowledged if self._deleted(*place) is None]


_histories = {}


def _tombstones(world, keys):
    """Return the key of the tombstone of each deleted version, from the records themselves."""
    ours = frozenset(world.restored.intersection(keys))
    texts = (ours, *(world.objects[key][0] for key in keys))
    if texts not in _histories:
        if len(_histories) > 10_000:
            _histories.clear()
        records = [version_from_json(text, where=key) for key, text in zip(keys, texts[1:], strict=True)]
        told = [r for r in records if not r.restores or layout.version_key(r.env, r.number) in ours]
        history = History(told)
        _histories[texts] = {
            number: layout.version_key(tombstone.env, tombstone.number)
            for number in history.deleted
            if (tombstone := history.tombstone_of(number)) is not None
        }
    return _histories[texts]


# What actors do


def _write(world, env, texts, node, on, actor):
    index = world.indexes[node]
    lower = ()
    if on is not None:
        lower = versions.load(actor.store, *on).layers
    with publishing.writing(world.context(actor)) as writer:
        for digest in [digest for digest in tree_digests(actor.store) if digest not in index.trees]:
            with contextlib.suppress(EnvkitError):
                index.learn(digest, treefile.decode(get_tree(actor.store, digest), digest).chunks)
        try:
            layer = _store_layer(world, writer, index, texts)
        except PacksMissing as error:
            gone = {bytes.fromhex(digest) for digest in error.digests}
            for digest in [digest for digest, chunk in index.items() if chunk.pack in gone]:
                del index[digest]
            layer = _store_layer(world, writer, index, texts)
        draft = Version(env=env, number=1, kind=VersionKind.ENVIRONMENT, layers=(*lower, layer))
        version = writer.publish(draft, expected=None)
    world.acknowledge(version)


def _store_layer(world, writer, index, texts):
    """What `services/storing` does, on one chunk a file."""
    chunks, frames, reused = [], [header(writer.epoch)], {}
    for text in texts:
        plain = text.encode() * 100
        digest = hashlib.sha256(plain).digest()
        known = index.get(digest)
        if known is not None and writer.may_reuse(known):
            reused[known.pack.hex()] = max(reused.get(known.pack.hex(), 0), known.offset + known.stored)
            chunks.append(known)
            world.reused += 1
        else:
            stored = bytes(frame.compressor().compress(plain))
            chunks.append(Chunk(digest, len(plain), b"", sum(map(len, frames)), len(stored)))
            frames.append(stored)
    if len(frames) > 1:
        pack = hashlib.sha256(b"".join(frames)).digest()
        put_pack(writer.store, pack.hex(), frames)
        chunks = [
            chunk if chunk.pack else Chunk(chunk.digest, chunk.size, pack, chunk.offset, chunk.stored)
            for chunk in chunks
        ]
    entries = [Entry(b"", Kind.DIRECTORY, 0o755)]
    for number, (text, chunk) in enumerate(zip(texts, chunks, strict=True)):
        entries.append(
            Entry(text.encode(), Kind.FILE, 0o644, size=chunk.size, segments=(Segment(0, chunk.size, number, 0),))
        )
    digest, data = treefile.encode(Tree(TREE_FORMAT, entries, chunks, writer.epoch))
    if not put_tree(writer.store, digest, data):
        treefile.decode(get_tree(writer.store, digest), digest)
    writer.verify(reused)
    index.learn(digest, chunks)
    return LayerRef(tree=digest, entries=len(entries), size=0, stored=0)


def _collect(world, grace, actor):
    world.collections.append(collecting.collect(world.context(actor), grace=grace))


def _delete(env, number, actor):
    versions.delete(actor.store, env, [number], author="", created="")


def _undelete(world, env, number, actor):
    with publishing.writing(world.context(actor)) as writer:
        version = versions.load(actor.store, env, number)
        writer.check_alive(version)
        draft = Version(env=env, number=1, kind=VersionKind.RESTORE, restores=(number,))
        record = writer.publish(draft, expected=None)
    world.restored.add(layout.version_key(record.env, record.number))
    world.acknowledge(version)


def name(text):
    return EnvName(owner="lab", name=text)
