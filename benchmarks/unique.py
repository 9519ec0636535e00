"""Owns the size that an upload is compared with: a layer's files that the base does not have, each once, compressed."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import zstandard

_LEVEL = 3


def compressed(layer: Path, base: Path, *, one_stream: bool = False) -> int:
    """Return the bytes of the unique files, in path order, compressed each by itself or all in one stream."""
    seen = {digest for digest, _ in _contents(base)}
    stream = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
    single = zstandard.ZstdCompressor(level=_LEVEL)
    total = 0
    for digest, content in _contents(layer):
        if content and digest not in seen:
            seen.add(digest)
            total += len(stream.compress(content) if one_stream else single.compress(content))
    return total + (len(stream.flush()) if one_stream else 0)


def _contents(directory: Path) -> Iterator[tuple[bytes, bytes]]:
    for parent, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                yield hashlib.sha256(content).digest(), content
