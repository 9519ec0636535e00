"""Owns what killed processes leave half-written in a root: `NAME.PID.new` (`drivers.files.write_atomic`), and images
that were being filled.

Removed where sessions are opened and by `envkit doctor --fix`. What is still being written is left alone: its process
lives. Upper directories are nobody's business here.
"""

import contextlib
import glob
import os
from collections.abc import Iterator

from envkit.drivers import process
from envkit.drivers.files import try_lock
from envkit.model.paths import Paths
from envkit.node.instance import session_directories

_SUFFIX = ".new"


def sweep_unfinished(paths: Paths) -> list[str]:
    """Remove files that a process which is gone was writing; return their paths."""
    removed = []
    for path in _written(paths):
        pid = path.removesuffix(_SUFFIX).rpartition(".")[2]
        if pid.isdigit() and process.start_time(int(pid)) is None:
            try:
                os.unlink(path)
            except OSError:  # somebody else was faster, or the disk cannot be written just now
                continue
            removed.append(path)
    return removed + _sweep_images(paths.layers)


def _sweep_images(layers: str) -> list[str]:
    """Remove unfinished images of layers that nobody fills now; they can be as large as the layer."""
    removed = []
    for path in glob.iglob(f"{glob.escape(layers)}/*/image{_SUFFIX}"):
        with contextlib.suppress(OSError):
            lock = try_lock(f"{os.path.dirname(path)}/lock")
            if lock is not None:
                try:
                    os.unlink(path)
                    removed.append(path)
                finally:
                    os.close(lock)
    return removed


def _written(paths: Paths) -> Iterator[str]:
    for directory in (paths.trees, *session_directories(paths)):
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        yield from (f"{directory}/{name}" for name in names if name.endswith(_SUFFIX))
    for directory, _, names in os.walk(paths.records):
        yield from (f"{directory}/{name}" for name in names if name.endswith(_SUFFIX))
