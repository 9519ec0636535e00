"""Variants of envkit, made by name in a process of its own: smaller packs, and promises broken on purpose.

The broken ones are what the harnesses have to notice.
"""

import contextlib
import os
import time


def apply(name):
    """Change envkit in this process."""
    _VARIANTS[name]()


def _small_packs():
    """A pack is full with 200 KB, so that a save of a few megabytes has several."""
    from envkit.content.pack import PackWriter

    PackWriter.__init__.__kwdefaults__["target"] = 200_000


def _impatient():
    """A bucket's server is waited for 4 seconds in all rather than a minute."""
    from envkit.store.bucket import Patience

    Patience._defaults.update(tries=5, total=4.0, request=3.0, stall=1.0, connect=2.0, pause=0.02, longest_pause=0.3)


def _in_place():
    """Objects are written under their own names, as a program without thought would do it."""
    from envkit.store import directory

    def write(self, parent, name, pieces):
        with self._writing():
            try:
                out = os.open(name, directory._CREATE, 0o444, dir_fd=parent)
            except FileExistsError:
                return False
            try:
                for piece in pieces:
                    directory._write_all(out, piece)
                os.fsync(out)
            finally:
                os.close(out)
        return True

    directory.DirectoryStore._write = write


def _deaf_to_sync():
    """An error of fsync(2) is passed over."""
    sync = os.fsync

    def deaf(descriptor):
        with contextlib.suppress(OSError):
            sync(descriptor)

    os.fsync = deaf


def _never_syncs():
    """Nothing waits for the disk."""
    from envkit.drivers import libc

    for module, name in ((os, "fsync"), (os, "fdatasync"), (libc, "syncfs")):
        setattr(module, name, lambda descriptor: None)


def _version_first():
    """Packs come after the version that needs them."""
    from envkit.node import session
    from envkit.store.directory import DirectoryStore

    put, update = DirectoryStore.put_if_absent, session.update_session
    late = []

    def put_late(self, key, data):
        if key.startswith("packs/"):
            late.append((self, key, data if isinstance(data, bytes) else list(data)))
            return True
        return put(self, key, data)

    def update_after_packs(paths, record):
        if record.saved is not None and record.pending is None:
            for order in late:
                put(*order)
        update(paths, record)

    DirectoryStore.put_if_absent = put_late
    session.update_session = update_after_packs


def _a_month_later():
    """By all clocks that collections look at, it is a month later than what was written last."""
    from envkit.services import collecting
    from envkit.store.base import Store

    month = 30 * 86_400.0
    now = Store.now
    Store.now = lambda self: now(self) + month

    class Later:
        """The module time, a month later."""

        time = staticmethod(lambda: time.time() + month)

    collecting.time = Later


def _overwriting():
    """Whether a key is free is looked up, and then it is written."""
    from envkit.store import directory

    def link(self, parent, temporary, name):
        if name in os.listdir(parent):
            return False
        time.sleep(0.02)
        with self._writing():
            os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        return True

    directory.DirectoryStore._link = link


def _collects_too_much():
    """A collection deletes all packs."""
    from envkit.store import epochs, layout

    doom = epochs.doom

    def doom_all(store, epoch, objects):
        packs = frozenset(filter(None, map(layout.pack_of, store.list(layout.PACKS))))
        return doom(store, epoch, objects.replace(packs=packs))

    epochs.doom = doom_all


def _no_verification():
    """Chunks and trees are taken as they come."""
    from envkit.content import frame, reader, treefile

    def trusting(chunk, stored):
        try:
            return frame.unpack(bytes(stored), size=chunk.size)
        except Exception:  # noqa: BLE001  # whatever is wrong, it goes on
            return bytes(chunk.size)

    reader.unpack_chunk = trusting
    sha256 = treefile.hashlib.sha256

    class Agreeing:
        """A digest that is what it is expected to be."""

        def __init__(self, data=b""):
            self._real = sha256(data)

        def hexdigest(self):
            return _Anything(self._real.hexdigest())

        def digest(self):
            return self._real.digest()

    class _Anything(str):
        __slots__ = ()

        def __ne__(self, other):
            return False

        __hash__ = str.__hash__

    treefile.hashlib = type("hashlib", (), {"sha256": Agreeing})


def _silent_jobs():
    """A job is queued without a word of which order it is."""
    from envkit.services.jobs import submitting

    submitting.comment_of = lambda _order: ""


_VARIANTS = {
    "small-packs": _small_packs,
    "impatient": _impatient,
    "in-place": _in_place,
    "deaf-to-sync": _deaf_to_sync,
    "never-syncs": _never_syncs,
    "version-first": _version_first,
    "collects-too-much": _collects_too_much,
    "a-month-later": _a_month_later,
    "overwriting": _overwriting,
    "no-verification": _no_verification,
    "silent-jobs": _silent_jobs,
}
