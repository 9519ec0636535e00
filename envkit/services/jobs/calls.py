"""Owns calls of Python functions between the payload that a client made and the files that a task reads.

The function and what it returns are pickles. envkit itself never unpickles anything: the environment does it on the
node, in the container, as the user; and the user's own process, after `envkit result` has checked that the task that
the value belongs to wrote it.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self

from envkit.drivers.caller import find_caller, rights_of
from envkit.drivers.files import io_error
from envkit.errors import Damaged, InvalidInput, NotFound
from envkit.model.order import Input, Order
from envkit.model.payload import (
    ARGUMENTS,
    CALL,
    FUNCTION,
    PLACE,
    TAIL,
    Index,
    index_from_bytes,
    index_size,
)
from envkit.model.version import Version
from envkit.services.context import Context
from envkit.services.jobs.pythons import Stack, python_of, pythons
from envkit.store import layout

_BLOCK = 1 << 20


class PythonDiffers(InvalidInput):
    """The environment runs another minor version of Python than the client: neither could read the other's pickles."""

    def __init__(self, version: Version, path: str, has: str, client: str, other: str | None) -> None:
        another = f'ask for the other one, _python="{other}"' if other else f"use an environment with Python {client}"
        super().__init__(
            f"{version} has Python {has} ({path}), this is Python {client}",
            resolution=f"{another}, or run your script with Python {has}",
        )


class PreparedCall:
    """A call that fits its environment; a context manager, since the payload stays open until it is stored.

    :ivar input: the object that goes with the order; :ivar count: tasks; :ivar command: what each of them runs.
    :ivar name: what to call it in lists.
    """

    def __init__(self, file: BinaryIO, index: Index, command: tuple[str, ...]) -> None:
        self._file = file
        self.count = len(index.parts) - 1
        self.command = command
        self.name = index.name
        size = sum(index.parts)
        ends = [sum(index.parts[:1])]
        for part in index.parts[1:-1]:
            ends.append(ends[-1] + part)
        whole, digests = _digests(file, index.parts)
        self.input = Input(digest=whole, size=size, offsets=tuple(ends), digests=tuple(digests))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of the input.

        :raises InvalidInput: the payload is not what it was.
        """
        digest = hashlib.sha256()
        for block in _blocks(self._file, 0, self.input.size):
            digest.update(block)
            yield block
        if digest.hexdigest() != self.input.digest:
            raise InvalidInput("the payload was changed while it was submitted")


def prepare_call(context: Context, version: Version, path: str) -> PreparedCall:
    """Open a payload and check that a version of an environment can run it.

    :param path: of the payload; `-` for standard input, which may be a pipe.
    :raises InvalidInput: it is no payload, or Python is another version there.
    :raises NotFound: the environment has no Python.
    """
    file = _opened(path)
    try:
        index = _index(file)
        python = _fitting(context, version, index)
        return PreparedCall(file, index, (python, f"{PLACE}/{CALL}/{FUNCTION}", index.name))
    except BaseException:
        file.close()
        raise


def write_call(context: Context, order: Order, index: int, directory: str) -> None:
    """Write what a task of a call reads into `directory`, which the container sees as `/run/envkit/call`.

    :raises Damaged: the store has another input than the one that was submitted.
    """
    given = order.input
    if given is None or len(given.offsets) != order.count:
        raise Damaged(f"the order {order.token} is no call of a function")
    key = layout.input_key(order.owner, order.token, given.digest)
    for number, name in ((0, FUNCTION), (index + 1, ARGUMENTS)):
        start, length, wanted = given.part(number)
        digest = hashlib.sha256()
        path = f"{directory}/{name}"
        try:
            with open(path, "xb") as file:
                os.fchmod(file.fileno(), 0o444)
                for at in range(start, start + length, _BLOCK * 8):
                    data = context.store.get_range(key, at, min(_BLOCK * 8, start + length - at))
                    digest.update(data)
                    file.write(data)
        except OSError as error:
            raise io_error(f"write {path}", error) from error
        if digest.hexdigest() != wanted:
            raise Damaged(f"{key} is not the input that was submitted")


def _fitting(context: Context, version: Version, index: Index) -> str:
    """Return the path of the environment's Python, of the client's minor version."""
    path, has = python_of(context, version, index.interpreter)
    if has != index.python[:2]:
        others = (other for other, its in pythons(Stack(context, version)) if its == index.python[:2])
        client = "{}.{}".format(*index.python)
        raise PythonDiffers(version, path, "{}.{}".format(*has), client, next(others, None))
    return path


def _opened(path: str) -> BinaryIO:
    """Open a payload for reading from anywhere in it."""
    try:
        if path != "-":
            # O_NONBLOCK: opening a FIFO must not hang.
            with rights_of(find_caller(os.environ)):
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise InvalidInput(f"{path} is no file")
            return open(descriptor, "rb")
        if stat.S_ISREG(os.fstat(0).st_mode):
            return open(0, "rb", closefd=False)
        copy = tempfile.TemporaryFile()  # noqa: SIM115  # returned
        with open(0, "rb", closefd=False) as pipe:
            while block := pipe.read(_BLOCK):
                copy.write(block)
        copy.flush()
        return copy
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except OSError as error:
        raise io_error(f"read {path}", error) from error


def _index(file: BinaryIO) -> Index:
    size = os.fstat(file.fileno()).st_size
    end = max(0, size - TAIL.size)
    length = index_size(b"".join(_blocks(file, end, size - end)))
    if length > end:
        raise InvalidInput("the payload was cut short")
    index = index_from_bytes(b"".join(_blocks(file, end - length, length)))
    if sum(index.parts) != end - length:
        raise InvalidInput("the payload was cut short")
    return index


def _digests(file: BinaryIO, lengths: tuple[int, ...]) -> tuple[str, list[str]]:
    """Return the digest of all parts together, and that of each."""
    whole, each, start = hashlib.sha256(), [], 0
    for length in lengths:
        digest = hashlib.sha256()
        for block in _blocks(file, start, length):
            digest.update(block)
            whole.update(block)
        each.append(digest.hexdigest())
        start += length
    return whole.hexdigest(), each


def _blocks(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    """Yield a range of a file.

    :raises InvalidInput: it has become shorter.
    """
    while length:
        data = os.pread(file.fileno(), min(length, _BLOCK), start)
        if not data:
            raise InvalidInput("the payload was cut short")
        yield data
        start += len(data)
        length -= len(data)
