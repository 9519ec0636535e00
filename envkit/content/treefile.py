"""Owns the stored form of trees: canonical msgpack, named by the SHA-256 of its plain bytes, kept as one zstd frame."""

import hashlib
from collections.abc import Callable
from typing import Annotated

import msgspec

from envkit.content import frame
from envkit.content.errors import DamagedFrame, DamagedTree, NewerTree
from envkit.errors import Damaged, EnvkitError
from envkit.model.collector import no_collector
from envkit.model.tree import TREE_FORMAT, Chunk, Entry, Tree, check_frame, check_tree

MAX_PLAIN = 1 << 30
MAX_ENTRIES = 1 << 22
MAX_CHUNKS = 1 << 22


class _Limited(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A tree as it is read: msgspec looks at these limits before it makes the lists."""

    format: int
    entries: Annotated[list[Entry], msgspec.Meta(max_length=MAX_ENTRIES)]
    chunks: Annotated[list[Chunk], msgspec.Meta(max_length=MAX_CHUNKS)]
    epoch: int = 0


class _Places(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A tree as it is read by who asks only for its chunks."""

    format: int
    entries: msgspec.Raw
    chunks: Annotated[list[Chunk], msgspec.Meta(max_length=MAX_CHUNKS)]
    epoch: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Limited)
_places_decoder = msgspec.msgpack.Decoder(_Places)


def encode(tree: Tree) -> tuple[str, bytes]:
    """Return a tree's digest in hexadecimal and its stored form.

    :raises Damaged: the tree breaks a rule of the format.
    :raises EnvkitError: it is larger than what a reader accepts.
    """
    from concurrent.futures import ThreadPoolExecutor  # not for those who only read: 4 ms

    plain = _encoder.encode(tree)
    if len(plain) > MAX_PLAIN or len(tree.entries) > MAX_ENTRIES or len(tree.chunks) > MAX_CHUNKS:
        raise EnvkitError(
            f"this layer is too large: {len(tree.entries)} entries, {len(tree.chunks)} chunks",
            resolution="save in several steps, or keep bulk data outside and mount it with -v",
        )
    with ThreadPoolExecutor(1, thread_name_prefix="envkit-tree") as pool:
        # Compressing lets go of the interpreter lock, and takes half as long as the check.
        stored = pool.submit(frame.compressor().compress, plain)
        check_tree(tree)
        return hashlib.sha256(plain).hexdigest(), stored.result()


def decode(data: bytes, digest: str, *, known: bool = False) -> Tree:
    """Return the tree with this digest from its stored form; nothing of it needs a second look.

    :param known: this machine has encoded it, so what has this digest follows the rules of the format.

    :raises DamagedTree: the bytes are not those of this digest, or break a rule of the format.
    :raises NewerTree: it was written by a later envkit.
    """
    return _decoded(data, digest, (lambda tree: None) if known else check_tree)


def decode_unchecked(data: bytes, digest: str) -> Tree:
    """Return the tree with this digest, whose entries nobody has looked at: types are right, and no more.

    For who checks every rule itself as it goes through them, as `image.erofs.build` does.

    :raises DamagedTree: as `decode`, but not for what is wrong with an entry.
    :raises NewerTree: as `decode`.
    """
    return _decoded(data, digest, check_frame)


def _decoded(data: bytes, digest: str, check: Callable[[Tree], None]) -> Tree:
    plain = _plain(data, digest)
    try:
        with no_collector():
            limited = _decoder.decode(plain)
            tree = Tree(limited.format, limited.entries, limited.chunks, limited.epoch)
            check(tree)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DamagedTree(digest, str(error)) from error
    except Damaged as error:
        raise DamagedTree(digest, error.brief) from error
    return tree


def decode_chunks(data: bytes, digest: str) -> list[Chunk]:
    """Return the chunk table of the tree with this digest, without looking at its entries: 15 times as fast.

    :raises DamagedTree: as `decode`, but rules about entries and places of chunks are not checked.
    :raises NewerTree: as `decode`.
    """
    plain = _plain(data, digest)
    try:
        with no_collector():
            chunks = _places_decoder.decode(plain).chunks
    except (msgspec.DecodeError, RecursionError) as error:
        raise DamagedTree(digest, str(error)) from error
    if any(len(chunk.pack) != 32 or len(chunk.digest) != 32 for chunk in chunks):
        raise DamagedTree(digest, "a chunk has a digest of the wrong length")
    return chunks


def _plain(data: bytes, digest: str) -> bytes:
    """Return the plain bytes of the tree with this digest, of a format that is known."""
    try:
        size = frame.content_size(data)
        if size > MAX_PLAIN:
            raise DamagedTree(digest, f"it declares {size} bytes, more than the {MAX_PLAIN} that a tree may have")
        plain = frame.unpack(data, size=size)
    except DamagedFrame as error:
        raise DamagedTree(digest, error.brief) from error
    if hashlib.sha256(plain).hexdigest() != digest:
        raise DamagedTree(digest, "its content has another digest")
    found = _format(plain)
    if found is not None and found > TREE_FORMAT:
        raise NewerTree(digest, found, TREE_FORMAT)
    return plain


def _format(plain: bytes) -> int | None:
    """Return the first element of a msgpack array if it is a small number: the format, whatever follows it."""
    first = plain[:1]
    start = 1 if b"\x90" <= first <= b"\x9f" else {b"\xdc": 3, b"\xdd": 5}.get(first)
    if start is None:
        return None
    kind = plain[start : start + 1]
    if kind and kind < b"\x80":
        return kind[0]
    length = {b"\xcc": 1, b"\xcd": 2, b"\xce": 4, b"\xcf": 8}.get(kind)
    return None if length is None else int.from_bytes(plain[start + 1 : start + 1 + length], "big")
