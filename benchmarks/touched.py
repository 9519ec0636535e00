"""Owns which bytes of an environment a command reads: what of its files is in the page cache afterwards.

That is what a node has to fetch for it: pages that were mapped or read, and the kernel's read-ahead around them.
"""

import ctypes
import mmap
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)

Ranges = list[tuple[int, int]]
"""Start and end of pieces of a file."""


def touched(layers: Sequence[Path], command: Sequence[str]) -> list[dict[bytes, Ranges]]:
    """Run a command in an overlay of layers, the topmost first; return for each what of its files it touched."""
    os.sync()
    for layer in layers:
        for path in _regular_files(layer):
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = [_resident(layer) for layer in layers]
    with tempfile.TemporaryDirectory(prefix="envkit-touched-", dir="/var/tmp") as scratch:
        script = 'mount -t overlay -o "ro,lowerdir=$1" overlay "$2" && shift && exec chroot "$@"'
        lower = ":".join(str(layer) for layer in layers)
        subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", lower, scratch, *command], check=True)
    after = [_resident(layer) for layer in layers]
    if any(found for found in before):
        raise SystemExit("files are still in the page cache: somebody else uses them")
    return after


def _regular_files(layer: Path) -> list[bytes]:
    found = []
    for parent, _, names in os.walk(os.fsencode(layer)):
        paths = (os.path.join(parent, name) for name in names)
        found += [path for path in paths if os.path.isfile(path) and not os.path.islink(path)]
    return found


def _resident(layer: Path) -> dict[bytes, Ranges]:
    """Return the ranges of a layer's files that are in the page cache, by path from the layer's root."""
    found = {}
    for path in _regular_files(layer):
        ranges = _resident_ranges(path)
        if ranges:
            found[os.path.relpath(path, os.fsencode(layer))] = ranges
    return found


def _resident_ranges(path: bytes) -> Ranges:
    size = os.path.getsize(path)
    if not size:
        return []
    pages = (size + PAGE - 1) // PAGE
    flags = (ctypes.c_ubyte * pages)()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        view = (ctypes.c_char * size).from_buffer(mapped)
        try:
            if _libc.mincore(ctypes.addressof(view), size, flags):
                raise OSError(ctypes.get_errno(), "mincore", path)
        finally:
            del view
    ranges: Ranges = []
    for number in range(pages):
        if flags[number] & 1:
            start, end = number * PAGE, min(size, (number + 1) * PAGE)
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((start, end))
    return ranges
