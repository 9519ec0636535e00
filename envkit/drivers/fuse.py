"""Owns the kernel's FUSE protocol (linux/fuse.h), as much of it as a server of read-only files needs; no library.

A request is a header and its arguments, read whole from /dev/fuse; an answer carries the request's `unique` number.
Nothing here knows what is served. Names are those of the kernel's header.
"""

import errno
import os
import signal
import stat
import struct

from envkit.drivers import libc
from envkit.drivers.errors import KernelRefused
from envkit.model.record import Record

LOOKUP = 1
FORGET = 2
GETATTR = 3
OPEN = 14
READ = 15
STATFS = 17
RELEASE = 18
FLUSH = 25
INIT = 26
OPENDIR = 27
READDIR = 28
RELEASEDIR = 29
INTERRUPT = 36
DESTROY = 38
BATCH_FORGET = 42

UNANSWERED = (FORGET, BATCH_FORGET, INTERRUPT)
"""Operations that the kernel waits for no answer to."""

ROOT = 1
"""The node number of the root directory."""
MIN_READ_BUFFER = 8192
"""The kernel refuses to hand requests to a smaller buffer."""
MAX_READ = 1 << 20
"""Bytes that the kernel asks for at once, at most."""
FOREVER = 10**9
"""Seconds for which the kernel need not ask again: what is served never changes."""

_MAJOR = 7
_MINOR = 31  # since Linux 5.4; nothing later is needed
_ASYNC_READ = 1 << 0
_PARALLEL_DIROPS = 1 << 18
_MAX_PAGES = 1 << 22
_FOPEN_KEEP_CACHE = 1 << 1
# More than what several containers read ahead together would only wait in the kernel.
_MAX_BACKGROUND = 128
_CONGESTION = 96
_MAX_READAHEAD = 128 << 10

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_READ_IN = struct.Struct("<QQII")
_INTERRUPT_IN = struct.Struct("<Q")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
_OPEN_OUT = struct.Struct("<QIi")
_DIRENT = struct.Struct("<QQII")
_STATFS = struct.Struct("<QQQQQIIII24x")
HEADER = _IN.size
_UNIQUE_OFFSET = 8
_SIGKILL = 1 << (signal.SIGKILL - 1)


class Request(Record):
    """One request of the kernel: what to do (`opcode`) with which node, and the arguments as bytes.

    `pid` is the thread that waits for the answer, 0 where none does.
    """

    opcode: int
    unique: int
    node: int
    body: bytes
    pid: int = 0

    @property
    def name(self) -> bytes:
        """The name that LOOKUP looks for."""
        return self.body.partition(b"\0")[0]

    @property
    def range(self) -> tuple[int, int]:
        """Offset and length that READ or READDIR asks for."""
        _, offset, size, _ = _READ_IN.unpack_from(self.body)
        return offset, size

    @property
    def interrupted(self) -> int:
        """The `unique` of the request that INTERRUPT is about."""
        return int(_INTERRUPT_IN.unpack_from(self.body)[0])


def mount(target: str, *, source: str = "envkit") -> int:
    """Mount a FUSE file system; return the descriptor of /dev/fuse that its server reads and answers.

    The first request is INIT. The file system works as long as any process has the descriptor open.
    """
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            data = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,max_read={MAX_READ}"
            flags = libc.MS_RDONLY | libc.MS_NOSUID | libc.MS_NODEV
            libc.mount(source, target, "fuse.envkit", flags, data)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        raise KernelRefused(
            f"mount the image server on {target}", error, resolution="use --eager, or load the module fuse"
        ) from error
    return descriptor


def read_request(buffer: "bytearray | memoryview", length: int) -> Request | None:
    """Return the request that the first `length` bytes of a buffer hold; None where they are none."""
    if length < HEADER:
        return None
    total, opcode, unique, node, _, _, pid, *_ = _IN.unpack_from(buffer)
    if not HEADER <= total <= length:
        return None
    return Request(opcode=opcode, unique=unique, node=node, body=bytes(buffer[HEADER:total]), pid=pid)


def request_in(buffer: memoryview) -> Request | None:
    """Return the request that lies in a buffer of its own, `None` after `clear_request`."""
    total, _, unique, *_ = _IN.unpack_from(buffer)
    return read_request(buffer, total) if unique and total <= len(buffer) else None


def clear_request(buffer: memoryview) -> None:
    """Mark a buffer as holding no request; the kernel numbers them from 2 on."""
    buffer[_UNIQUE_OFFSET : _UNIQUE_OFFSET + 8] = bytes(8)


def answer(descriptor: int, unique: int, *payload: "bytes | memoryview") -> bool:
    """Answer a request; return False where nobody waits for it any more."""
    length = _OUT.size + sum(map(len, payload))
    return _write(descriptor, [_OUT.pack(length, 0, unique), *payload])


def refuse(descriptor: int, unique: int, number: int) -> bool:
    """Answer a request with an error number; return False where nobody waits for it any more."""
    return _write(descriptor, [_OUT.pack(_OUT.size, -number, unique)])


def _write(descriptor: int, parts: "list[bytes | memoryview]") -> bool:
    try:
        os.writev(descriptor, parts)
    except OSError as error:
        # ENOENT: it was interrupted, or answered by a server that was killed then. ENODEV: it is unmounted.
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise
    return True


def negotiated(request: Request) -> bytes:
    """Return the answer to INIT.

    :raises KernelRefused: this kernel's protocol is too old.
    """
    major, minor, _, flags = _INIT_IN.unpack_from(request.body)
    if major != _MAJOR or minor < _MINOR:
        reason = OSError(errno.EPROTO, f"its protocol is {major}.{minor}")
        raise KernelRefused("serve files through FUSE", reason, resolution="use --eager, or Linux 5.4 or newer")
    wanted = flags & (_ASYNC_READ | _PARALLEL_DIROPS | _MAX_PAGES)
    pages = MAX_READ // 4096
    background = (_MAX_BACKGROUND, _CONGESTION)
    return _INIT_OUT.pack(_MAJOR, _MINOR, _MAX_READAHEAD, wanted, *background, 4096, 1, pages, 0, 0, 0)


def attributes(node: int, size: int) -> bytes:
    """Return the attributes of a file of `size` bytes, or of the root directory, with how long they hold."""
    return _ATTR_OUT.pack(FOREVER, 0, 0) + _attributes(node, size)


def entry(node: int, size: int) -> bytes:
    """Return the answer to LOOKUP: a file's node number and attributes."""
    return _ENTRY.pack(node, 0, FOREVER, FOREVER, 0, 0) + _attributes(node, size)


def _attributes(node: int, size: int) -> bytes:
    mode, links = (stat.S_IFDIR | 0o500, 2) if node == ROOT else (stat.S_IFREG | 0o400, 1)
    blocks = (size + 511) // 512
    return _ATTR.pack(node, size, blocks, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)


def opened() -> bytes:
    """Return the answer to OPEN and OPENDIR: no handle, and what is cached stays so."""
    return _OPEN_OUT.pack(0, _FOPEN_KEEP_CACHE, 0)


def statistics_of(size: int, files: int) -> bytes:
    """Return the answer to STATFS: bytes of all files, and how many there are."""
    return _STATFS.pack(-(-size // 4096), 0, 0, files, 0, 4096, 255, 4096, 0)


def directory_entries(names: "list[tuple[int, bytes]]", offset: int, limit: int) -> bytes:
    """Return the answer to READDIR: (node, name) from position `offset` on, as many as fit into `limit` bytes."""
    parts, used = [], 0
    for position, (node, name) in enumerate(names[offset:], offset + 1):
        kind = (stat.S_IFDIR if node == ROOT else stat.S_IFREG) >> 12
        length = _DIRENT.size + len(name)
        padded = length + -length % 8
        if used + padded > limit:
            break
        parts.append(_DIRENT.pack(node, position, len(name), kind) + name + bytes(padded - length))
        used += padded
    return b"".join(parts)


def is_being_killed(pid: int) -> bool:
    """Tell whether a thread has SIGKILL pending: it ends as soon as what it waits for is answered."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    pending = [int(line.split()[1], 16) for line in lines if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    return any(mask & _SIGKILL for mask in pending)
