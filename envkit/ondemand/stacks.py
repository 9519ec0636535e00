"""Owns the stacks that containers run on now: which start pack helps each, what each touches first, what it has cost.

A client begins a stack, makes the layers' places in the cache while the start pack is looked for, and asks then how to
mount. If no start pack is known, or it is to be found out whether the one that is used is still good, one client of a
stack mounts files of its own and its reads are recorded.
"""

import math
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping

from envkit.cache.complete import has_place
from envkit.cache.layer import GRANULE, CacheLost
from envkit.content.startpack import Granule
from envkit.drivers import mount
from envkit.drivers.files import DiskFull
from envkit.errors import EnvkitError
from envkit.model.paths import Paths
from envkit.model.startpack import ImageLayer
from envkit.ondemand.fetcher import Fetcher, Priority
from envkit.ondemand.layers import Layers
from envkit.ondemand.log import complain
from envkit.ondemand.recording import Recording, build, is_worthwhile, joined, same_images
from envkit.ondemand.sources import Stores
from envkit.ondemand.stack import Stack
from envkit.ondemand.startplaces import Found, StartPlaces
from envkit.ondemand.streaming import Stream
from envkit.store.starts import Start

_FINDING = 5.0
"""Seconds for which a start waits to hear whether there is a start pack."""
_PREPARING = 120.0
_LOW_PRIORITY = 10
_BELIEVED = 300.0
"""Seconds for which a start pack that was found is not looked for again; the other one is for none that was found."""
_MISSED = 10.0
_MAX_FOUND = 64
_MAX_REASONS = 3
_AT_WORK = 3.0
_MISSES = 3
"""A container has started so many seconds after its start pack has come, or reads that had to wait for more."""
_READ_AHEAD = 128
"""KiB that the kernel reads ahead once a stack has started, as it would by itself: more costs who maps libraries."""
_DEVICE = re.compile(r"erofs-[0-9]{1,20}")


class Stacks:
    """All stacks in use, by an identity that their client gets. `layers` is set once, before anything else."""

    layers: Layers

    def __init__(self, paths: Paths, fetcher: Fetcher, stores: Stores) -> None:
        self._paths = paths
        self._fetcher = fetcher
        self._stores = stores
        self._stacks: dict[str, Stack] = {}
        self._helped: dict[str, Stack] = {}  # those with a start pack on its way, also if they have ended
        self._building = 0
        self._found: dict[tuple[str, str, str], tuple[float, Found | None]] = {}
        self._lock = threading.Lock()
        self._streaming = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether something is still to be done for stacks that have ended."""
        return self._building > 0

    def begin(self, message: Mapping[str, object]) -> dict[str, object]:
        """Take note of a stack that somebody starts, and look for its start pack meanwhile.

        :raises EnvkitError: the message is malformed.
        """
        stack = Stack(os.urandom(4).hex(), message, str(message["store"]))
        stack.requests = sum(self._fetcher.counters().requests)
        with self._lock:
            self._stacks[stack.identity] = stack
        if stack.environment is not None and stack.wants_pack and not stack.trace:
            threading.Thread(target=self._help, args=(stack,), name="start pack", daemon=True).start()
        else:
            stack.looked.set()
        return {"stack": stack.identity}

    def prepared(self, message: Mapping[str, object]) -> dict[str, object]:
        """Take note that the layers have their places in the cache; say which recording the client is to mount.

        An empty recording means: none, mount the layers that others mount, too.
        """
        stack = self._stacks.get(str(message["stack"]))
        if stack is None:
            raise EnvkitError("the image server was restarted while a container started", resolution="try again")
        for digest in stack.served:
            layer = self.layers.layer(digest)
            stack.fetched[digest] = (layer.fetched_bytes, layer.stalled, layer.refusals.counts())
        stack.prepared.set()
        stack.looked.wait(_FINDING)
        recorded = self._record(stack)
        whole = recorded and stack.found is None
        streaming = stack.found is not None and bool(stack.served)
        return {"recording": stack.identity if recorded else "", "whole": whole, "streaming": streaming}

    def mounted(self, identity: str, devices: Collection[str]) -> None:
        """Take note in which devices the kernel reads ahead only a little for a stack that starts."""
        stack = self._stacks.get(identity)
        if stack is not None:
            stack.limited = frozenset(name for name in devices if _DEVICE.fullmatch(name))

    def end(self, identity: str, *, code: int | None) -> dict[str, object]:
        """Take note that a container has ended, None if nobody knows how; return what its stack has cost."""
        with self._lock:
            stack = self._stacks.pop(identity, None)
        if stack is None:
            return {}
        stack.prepared.set()
        self._widen(stack)
        seconds = time.monotonic() - stack.began
        cost = self._cost(stack, seconds)
        recording = stack.recording
        if recording is None or code is None:
            return cost
        recording.end()
        if stack.trace:
            kept = self._build(stack, recording) if code == 0 else None
            return {**cost, "start_pack": 0 if kept is None else kept.size}
        used = None if stack.found is None else stack.found.pack
        if is_worthwhile(recording, stack.entry, used, code=code, seconds=seconds):
            with self._lock:
                self._building += 1
            threading.Thread(target=self._build_slowly, args=(stack, recording), name="packer", daemon=True).start()
        return cost

    def touched(self, recording: str, digest: str, offset: int, length: int, *, missed: bool) -> None:
        """Take note of a read of somebody whose first touches are recorded."""
        stack = self._stacks.get(recording)
        if stack is not None and stack.recording is not None and digest in stack.digests:
            stack.recording.touch(stack.digests.index(digest), offset, length, missed=missed)

    def expected(self, digest: str, granule: int) -> bool:
        """Tell whether a granule of a layer is on its way."""
        return any(stream.expected(number, granule) for stream, number in self._streams(digest))

    def wait(self, digest: str, granule: int, waiter: Callable[[bool], None]) -> bool:
        """Have somebody told when a granule has come or will not come; False if it is not on its way."""
        return any(stream.wait(number, granule, waiter) for stream, number in self._streams(digest))

    def _streams(self, digest: str) -> Iterator[tuple[Stream, int]]:
        """Yield the streams that may bring something of a layer, each with the layer's number in its stack."""
        for stack in list(self._helped.values()):
            if stack.stream is not None and digest in stack.served:
                yield stack.stream, stack.digests.index(digest)

    def round(self) -> None:
        """Tell those who have waited too long for a start pack to look elsewhere; to be called every second."""
        for stack in list(self._helped.values()):
            if stack.stream is not None:
                stack.stream.expire()
                if not stack.stream.active:
                    self._helped.pop(stack.identity, None)
        for stack in list(self._stacks.values()):
            if stack.limited and self._has_started(stack):
                self._widen(stack)

    def _has_started(self, stack: Stack) -> bool:
        """Tell whether a container is beyond what is recorded, or comes with a start pack.

        When the pack has come it is still at work on it, and the longer the more others start beside it.
        """
        if stack.recording is not None and not stack.recording.ended:
            return False
        if stack.stream is None or stack.stream.active:
            return stack.stream is None
        if not stack.stream.progress().done:  # all of it was here
            return True
        waits = sum(self.layers.layer(digest).waits for digest in stack.served)
        if stack.came is None:
            stack.came = time.monotonic(), waits
        since, before = stack.came
        return waits >= before + _MISSES or time.monotonic() > since + _AT_WORK

    @staticmethod
    def _widen(stack: Stack) -> None:
        """Let the kernel read ahead: a stack has started."""
        limited, stack.limited = stack.limited, frozenset()
        mount.set_read_ahead(limited, _READ_AHEAD)

    def _help(self, stack: Stack) -> None:
        """Look for the start pack of a stack, and stream it: to memory, until its layers have their places."""
        try:
            stack.found = self._find(stack)
            stack.looked.set()
            if stack.found is not None:
                if self._is_new(stack):
                    self._stream(stack, stack.found, held=True)
                self._release(stack, stack.found)
        except Exception as error:  # noqa: BLE001  # it is a hint: without it the start is slower, no more
            complain(f"no start pack is used: {type(error).__name__}: {error}")
        finally:
            stack.looked.set()

    def _find(self, stack: Stack) -> Found | None:
        """Return the start pack of a stack, as it was found not long ago, or by asking the store."""
        if stack.environment is None:
            return None
        now = time.monotonic()
        when, found = self._found.get(stack.key, (-math.inf, None))
        if now - when > (_BELIEVED if found is not None else _MISSED):
            found = self._places(stack).find(stack.environment, stack.digests, stack.entry)
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            self._found[stack.key] = (now, found)
        return found

    def _is_new(self, stack: Stack) -> bool:
        """Tell whether no served layer of a stack has a place on this node yet, so that all of a pack is wanted."""
        return not any(has_place(self._paths.layer(digest)) for digest in stack.served)

    def _release(self, stack: Stack, found: Found) -> None:
        """Hand on a start pack once the layers of its stack have their places; give it up if that never comes."""
        if stack.prepared.wait(_PREPARING) and stack.identity in self._stacks:
            if stack.stream is None:
                self._stream(stack, found, held=False)
            if stack.stream is not None:
                stack.stream.release(self._same(stack, found))
        elif stack.stream is not None and not self._is_shared(stack):
            stack.stream.stop()

    def _is_shared(self, stack: Stack) -> bool:
        others = [other for other in list(self._stacks.values()) if other is not stack]
        return any(other.stream is stack.stream for other in others)

    def _stream(self, stack: Stack, found: Found, *, held: bool) -> None:
        """Bring a start pack; if several stacks want it at the same time, it is brought once."""
        with self._streaming:
            for other in list(self._helped.values()):
                same = other.found is not None and (other.found.key, other.served) == (found.key, stack.served)
                if same and other.stream is not None and other.stream.active:
                    stack.stream = other.stream
                    return
            stack.stream = self._made(stack, found, held=held)
            self._helped[stack.identity] = stack
        stack.stream.start()

    def _same(self, stack: Stack, found: Found) -> set[int]:
        """Return the numbers of the served layers whose images are those that a start pack is of."""
        same = same_images(found.pack, self._images(stack))
        return {number for number in same if stack.digests[number] in stack.served}

    def _made(self, stack: Stack, found: Found, *, held: bool) -> Stream:
        served = {number for number, digest in enumerate(stack.digests) if digest in stack.served}
        return Stream(
            found.pack,
            self._fetcher,
            found.source,
            found.key,
            put=lambda layer, granule, data: self._put(stack, layer, granule, data),
            layers=served if held else self._same(stack, found),
            wanted=lambda layer, granule: held or self._wanted(stack, layer, granule),
            head=found.head,
            held=held,
            ended=lambda: self._stream_ended(stack),
        )

    def _stream_ended(self, stack: Stack) -> None:
        """Look anew for a start pack of which something could not be had: a newer one may have taken its place."""
        if stack.stream is not None and stack.stream.progress().gone:
            self._found.pop(stack.key, None)

    def _wanted(self, stack: Stack, layer: int, granule: int) -> bool:
        try:
            return not self.layers.layer(stack.digests[layer]).cached.has_granule(granule)
        except CacheLost:
            return True

    def _put(self, stack: Stack, number: int, granule: int, data: "bytes | memoryview") -> None:
        layer = self.layers.layer(stack.digests[number])
        layer.cached.put_granule(granule, data)

    def _record(self, stack: Stack) -> bool:
        """Decide whether a stack is recorded, and begin."""
        if stack.environment is None or not stack.wants_pack or not self.layers.room_for_names:
            return False
        with self._lock:
            for other in self._stacks.values():
                if other.recording is not None and other.key == stack.key and not stack.trace:
                    return False
            stack.recording = Recording(self._images(stack))
        return True

    def _images(self, stack: Stack) -> list[ImageLayer]:
        images = []
        for digest in stack.digests:
            known = self.layers.layer(digest).cached.map
            images.append(ImageLayer(digest=digest, uuid=known.uuid, size=known.size, data=known.metadata))
        return images

    def _build_slowly(self, stack: Stack, recording: Recording) -> None:
        """Make a start pack when there is nothing better to do."""
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
            self._build(stack, recording)
        finally:
            with self._lock:
                self._building -= 1

    def _build(self, stack: Stack, recording: Recording) -> Start | None:
        """Make the next start pack of a stack and leave it where others find it; return that."""
        try:
            found = stack.found
            earlier = None if found is None or found.pack.entry_point != stack.entry else found.pack
            unwatched = () if found is None else [n for n, d in enumerate(stack.digests) if d not in stack.served]
            self._fetch_chunks(stack, joined(recording, earlier, unwatched=unwatched))
            made = build(
                recording,
                stack.entry,
                lambda layer, granule: self._verified(stack, layer, granule),
                earlier=earlier,
                unwatched=unwatched,
            )
            if made is not None and stack.environment is not None:
                self._found.pop(stack.key, None)
                return self._places(stack).keep(stack.environment, made)
        except Exception as error:  # noqa: BLE001  # it is a hint, and nothing depends on it
            complain(f"no start pack was made: {type(error).__name__}: {error}")
        return None

    def _fetch_chunks(self, stack: Stack, granules: list[Granule]) -> None:
        """Have all chunks of granules: only what is verified goes into a start pack.

        Others lack those that came with a start pack, or of which the granule has the end of a file that nobody read.
        """
        needed: dict[int, set[int]] = {}
        for granule in granules:
            cached = self.layers.layer(stack.digests[granule.layer]).cached
            chunks = {extent.chunk for extent in cached.map.blocks.lookup(granule.number * GRANULE, GRANULE)}
            needed.setdefault(granule.layer, set()).update(n for n in chunks if not cached.chunk_ready(n))
        until = time.monotonic() + _PREPARING
        for number, chunks in needed.items():
            layer = self.layers.layer(stack.digests[number])
            # Not in the background, where it would be forgotten whenever a reader needs the link; again after failures.
            while time.monotonic() < until and (missing := [n for n in chunks if not layer.cached.chunk_ready(n)]):
                layer.fetch(missing, Priority.AHEAD)
                time.sleep(0.2)

    def _verified(self, stack: Stack, number: int, granule: int) -> bytes | None:
        """Return a granule that comes from verified chunks only; None where it does not."""
        cached = self.layers.layer(stack.digests[number]).cached
        offset = granule * GRANULE
        try:
            if not all(cached.chunk_ready(extent.chunk) for extent in cached.map.blocks.lookup(offset, GRANULE)):
                return None
            return cached.read(offset, min(GRANULE, cached.map.size - offset))
        except (CacheLost, DiskFull):
            return None

    def _places(self, stack: Stack) -> StartPlaces:
        store = self._stores.store(stack.store)
        return StartPlaces(store, self._stores.source(stack.store), self._paths.starts)

    def _cost(self, stack: Stack, seconds: float) -> dict[str, object]:
        fetched, stalled, ready, total = 0, 0.0, 0, 0
        refused: dict[str, int] = {}
        for digest, (before, waited, known) in stack.fetched.items():
            layer = self.layers.layer(digest)
            fetched += layer.fetched_bytes - before
            stalled += layer.stalled - waited
            ready += layer.cached.ready_bytes()
            total += layer.cached.total_bytes
            refused |= layer.refusals.since(known)
        streamed = 0 if stack.stream is None else stack.stream.progress().bytes
        return {
            "seconds": round(seconds, 3),
            "bytes": fetched + streamed,
            "chunk_bytes": fetched,
            "start_pack_bytes": streamed,
            "requests": sum(self._fetcher.counters().requests) - stack.requests,
            "stalled": round(stalled, 3),
            "ready": ready,
            "size": total,
            "refused_reads": sum(refused.values()),
            "refused_because": sorted(refused, key=lambda why: -refused[why])[:_MAX_REASONS],
        }
