"""A second reader of stores, written after docs/formats.md and sharing no code with envkit: the oracle of what is there.

It believes nothing: every digest, checksum, length and order that the formats promise is checked. What it has read
once it does not read again as long as the file is the same one.
"""

import hashlib
import json
import os
import re
import zlib
from typing import NamedTuple

import msgspec
import zstandard

_CRC = re.compile(rb'"crc32": "([0-9a-f]{8})"')
_KINDS = {1: "directory", 2: "file", 3: "symlink", 4: "fifo", 5: "hard link", 6: "whiteout"}


class Unreadable(Exception):
    """A store is not what its format promises; says what and where."""


class Item(NamedTuple):
    """What an entry is: kind, mode, owner, group, and the bytes of a file or the target of a link."""

    kind: str
    mode: int
    uid: int
    gid: int
    content: bytes


class SecondReader:
    """Reads a store through `read(key) -> bytes` and `keys() -> iterable`; a directory by its path."""

    def __init__(self, place):
        self._place = place
        self._seen = {}
        self._layers = {}
        self._records = {}

    def keys(self):
        """Return all keys of a directory store, sorted, and none of the temporary files."""
        found = []
        for folder, _, names in os.walk(self._place):
            here = os.path.relpath(folder, self._place)
            found += [name if here == "." else f"{here}/{name}" for name in names if "~" not in name]
        return sorted(found)

    def temporary(self):
        """Return the temporary files of writers."""
        return [f"{place}/{name}" for place, _, names in os.walk(self._place) for name in names if "~" in name]

    def stamps(self):
        """Return what tells whether an object was touched: identity, size and time, by key."""
        found = {}
        for key in self.keys():
            status = os.stat(f"{self._place}/{key}")
            found[key] = (status.st_ino, status.st_size, status.st_mtime_ns)
        return found

    def versions(self, *, deleted=True):
        """Return every version record as `{"owner/name": {number: document}}`, everything below them verified.

        :param deleted: also what only deleted versions need.
        """
        found = {}
        for key in self.keys():
            if key.startswith("envs/"):
                document = self.record(key)
                found.setdefault(f"{document['owner']}/{document['name']}", {})[document["version"]] = document
        for env in found.values():
            gone = {number for document in env.values() for number in document["deletes"]}
            for number, document in env.items():
                if deleted or number not in gone:
                    self._verify(document)
        return found

    def record(self, key):
        """Return one version record, without what it needs."""
        data = self._bytes(key)
        if key in self._records and self._records[key][0] is data:
            return self._records[key][1]
        match = _CRC.search(data)
        plain = data[: match.start(1)] + b"00000000" + data[match.end(1) :] if match else data
        if match is None or int(match[1], 16) != zlib.crc32(plain):
            raise Unreadable(f"{key}: its checksum is wrong")
        document = json.loads(data)
        expected = f"envs/{document['owner']}/{document['name']}/{document['version']:08}.json"
        if key != expected:
            raise Unreadable(f"{key} says that it is {expected}")
        self._records[key] = (data, document)
        return document

    def _verify(self, document):
        for layer in document["layers"]:
            try:
                self.layer(layer["tree"])
            except Unreadable as error:
                what = f"{document['owner']}/{document['name']}@{document['version']}"
                raise Unreadable(f"{what} needs what is not whole: {error}") from error

    def layer(self, digest):
        """Return a layer: path to Item."""
        if (done := self._layers.get(digest)) is not None and self._there(done[1]):
            return done[0]
        key = f"trees/{digest[:2]}/{digest}"
        plain = _unpacked(self._bytes(key), key)
        if hashlib.sha256(plain).hexdigest() != digest:
            raise Unreadable(f"{key}: it has another digest")
        _, entries, chunks, *_ = msgspec.msgpack.decode(plain)
        plains = [self._chunk(*chunk) for chunk in chunks]
        items, last = {}, None
        for path, kind, mode, uid, gid, _, size, target, _, _, segments in entries:
            order = path.replace(b"/", b"\0")
            if last is not None and order <= last:
                raise Unreadable(f"{key}: {path!r} is out of order")
            last = order
            content = target
            if kind == 2:
                data = bytearray(size)
                for start, length, chunk, offset in segments:
                    data[start : start + length] = plains[chunk][offset : offset + length]
                content = bytes(data)
            items[path] = Item(_KINDS[kind], mode, uid, gid, content)
        packs = {f"packs/{chunk[2].hex()[:2]}/{chunk[2].hex()}" for chunk in chunks}
        self._layers[digest] = (items, {name: self._bytes(name) for name in (key, *packs)})
        return items

    def packs(self, digest):
        """Return the keys of the packs that a layer needs."""
        self.layer(digest)
        return {key for key in self._layers[digest][1] if key.startswith("packs/")}

    def _there(self, objects):
        """Tell whether objects that were verified are still the same ones."""
        return all(self._bytes(key) is data for key, data in objects.items())

    def _chunk(self, digest, size, pack, offset, stored):
        key = f"packs/{pack.hex()[:2]}/{pack.hex()}"
        data = self._bytes(key)
        known = self._seen.setdefault((key, "chunks"), {})
        place = (digest, size, offset, stored)
        if place not in known:
            if "digest" not in known:
                if hashlib.sha256(data).digest() != pack:
                    raise Unreadable(f"{key}: it has another digest")
                known["digest"] = pack
            plain = _unpacked(data[offset : offset + stored], f"{key}+{offset}")
            if len(plain) != size or hashlib.sha256(plain).digest() != digest:
                raise Unreadable(f"{key}+{offset}: the chunk is another one")
            known[place] = plain
        return known[place]

    def _bytes(self, key):
        path = f"{self._place}/{key}"
        try:
            status = os.stat(path)
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._seen.get(key, (None,))[0] != stamp:
                with open(path, "rb") as file:
                    self._seen[key] = (stamp, file.read())
                self._seen.pop((key, "chunks"), None)
        except FileNotFoundError as error:
            raise Unreadable(f"{key} is not there") from error
        return self._seen[key][1]


def _unpacked(data, where):
    try:
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise Unreadable(f"{where}: {error}") from error
