"""Owns stores in a bucket on a server: S3 and what speaks like it, Google Cloud Storage, Azure; through obstore.

Retries are envkit's own, bounded in number and time. The point of them is the put: one whose first try failed without
an answer may have been stored, and its repetition then finds the key taken by itself. So the bytes are compared then,
and only then.

A process that was forked cannot use what its parent used: obstore's threads are not there, and it would wait for them.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from envkit.model.record import Record
from envkit.store.base import Status, Store
from envkit.store.errors import (
    ObjectNotFound,
    ObjectTooLarge,
    ObjectTruncated,
    StoreUnreadable,
    UnusableCredentials,
)
from envkit.store.faults import Fault, Place, is_no_bucket, read_fault, tell

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore

T = TypeVar("T")
# Less than what servers give at once, so that a listing that goes round in circles is soon seen.
_PAGE = 250
_LOOK_FIRST = 256 << 10
"""Bytes of an object from which on asking whether it is there costs less than sending it in vain."""
_FEW = 3
# The process whose threads obstore uses; 0 before the first request.
_process = 0


class Patience(Record):
    """How long a store is waited for, in seconds; no try begins after `total`, none takes longer than `request`.

    `stall` is how long nothing may come of an answer. Pauses between tries double from `pause` to `longest_pause`.
    """

    tries: int = 6
    total: float = 60.0
    request: float = 60.0
    stall: float = 15.0
    connect: float = 5.0
    pause: float = 0.2
    longest_pause: float = 5.0


Connect = Callable[["ClientConfig"], "ObjectStore"]


class BucketStore(Store):
    """A store below `prefix` ("" or with a slash at its end) in a bucket. `connect` makes a client of obstore."""

    def __init__(self, place: Place, connect: Connect, prefix: str, patience: Patience | None = None) -> None:
        super().__init__(url=place.url)
        self._place = place
        self._prefix = prefix
        self._patience = patience or Patience()
        self._connect = connect
        # An upload is silent for as long as it takes, so that only reading can be watched for stalls.
        self._reads = self._client(stall=self._patience.stall)
        self._writes: ObjectStore | None = None
        self._reached = False

    def _get(self, key: str, limit: int) -> bytes:
        return self._retried(lambda: self._read(key, limit))

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        end = start + length
        if length:
            data = self._retried(lambda: self._read_range(key, start, end))
            if data is not None:
                return data
        status = self._status(key)
        if status is None:
            raise ObjectNotFound(self.url, key)
        if status.size < end:
            raise ObjectTruncated(self.url, key, status.size, end)
        if length:
            raise StoreUnreadable(self.url, f"{key} is said to have no bytes {start} to {end}, but to be longer")
        return b""

    def _status(self, key: str) -> Status | None:
        return self._retried(lambda: self._head(key))

    def _put_if_absent(self, key: str, pieces: Iterable[bytes]) -> bool:
        data = b"".join(pieces)
        if len(data) >= _LOOK_FIRST and self._status(key) is not None:
            return False
        if self._writes is None:
            self._writes = self._client(stall=None)
        writes, doubtful = self._writes, False

        def put() -> bool:
            nonlocal doubtful
            try:
                obstore.put(writes, self._prefix + key, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                return self._is_ours(key, data, error, doubtful=doubtful)
            except (BaseError, OSError) as error:
                doubtful = doubtful or read_fault(error).doubtful
                raise
            return True

        return self._retried(put, writing=True)

    def _delete(self, key: str) -> None:
        def delete() -> None:
            try:
                obstore.delete(self._reads, self._prefix + key)
            except FileNotFoundError as error:
                if is_no_bucket(read_fault(error)):
                    raise

        self._retried(delete, writing=True)

    def _list(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self._list_status(prefix))

    def _list_status(self, prefix: str) -> Iterator[tuple[str, Status]]:
        start, last = self._prefix + prefix, ""
        for page in self._pages(start.rstrip("/")):
            for meta in page:
                path, size = meta["path"], meta["size"]
                if path + "/" == start or (not size and path <= last < path + "/"):
                    continue  # a folder, as some tools make them: obstore takes the slash off its name
                if path <= last or not path.startswith(start):
                    raise StoreUnreadable(
                        self.url,
                        f"the listing of {self._place.server} is out of order",
                        resolution="use a server that lists in order, as S3 does",
                    )
                last = path
                yield path[len(self._prefix) :], _status_of(meta)

    def _pages(self, prefix: str) -> Iterator["list[ObjectMeta]"]:
        pages: Iterator[Any] | None = None
        last: str | None = None

        def page() -> "list[ObjectMeta]":
            nonlocal pages
            if pages is None:
                pages = iter(obstore.list(self._reads, prefix or None, offset=last, chunk_size=_PAGE))
            try:
                return next(pages, [])
            except BaseException:
                pages = None  # after a failure it goes on behind what was listed
                raise

        # obstore asks for page after page until it has enough: without a limit, empty pages could go on for ever.
        while found := self._retried(page, limit=self._patience.total):
            yield found
            last = found[-1]["path"]

    def _read(self, key: str, limit: int) -> bytes:
        result = self._found(key, lambda: obstore.get(self._reads, self._prefix + key))
        size = result.meta["size"]
        if size > limit:
            raise ObjectTooLarge(self.url, key, size, limit)
        return _whole(result.bytes(), size)

    def _read_range(self, key: str, start: int, end: int) -> bytes | None:
        """Return a range; None if the object ends before it."""
        try:
            result = self._found(
                key, lambda: obstore.get(self._reads, self._prefix + key, options={"range": (start, end)})
            )
        except BaseError as error:
            if read_fault(error).status == 416:
                return None
            raise
        if tuple(result.range) != (start, end):
            return None
        return _whole(result.bytes(), end - start)

    def _head(self, key: str) -> Status | None:
        try:
            meta = self._found(key, lambda: obstore.head(self._reads, self._prefix + key))
        except ObjectNotFound:
            return None
        except BaseError as error:
            if read_fault(error).status in (301, 307, 400, 401, 403):
                # The answer to a HEAD has no body, so that it does not say why.
                obstore.get(self._reads, self._prefix + key)
            raise
        return _status_of(meta)

    def _found(self, key: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except FileNotFoundError as error:
            if is_no_bucket(read_fault(error)):
                raise
            raise ObjectNotFound(self.url, key) from None

    def _is_ours(self, key: str, data: bytes, error: Exception, *, doubtful: bool) -> bool:
        """Tell whether the object that is there came from this put; it can only if an earlier try is in doubt."""
        if not doubtful:
            # A server that is busy with the same key says 409, and that is not yet an answer.
            if read_fault(error).status == 409 and self._head(key) is None:
                raise _Unclear
            return False
        try:
            return self._read(key, len(data)) == data
        except ObjectTooLarge:
            return False
        except ObjectNotFound:
            raise _Unclear from None

    def _retried(self, request: Callable[[], T], *, writing: bool = False, limit: float | None = None) -> T:
        """Make a request, again where that may help; tell what is wrong with it otherwise."""
        _check_process()
        patience, started = self._patience, time.monotonic()
        for number in range(patience.tries):
            try:
                result = _interruptible(request, limit)
                self._reached = True
                return result
            except _Endless:
                raise tell(Fault(kind="timeout"), self._place, writing=writing) from None
            except (BaseError, OSError, _Unclear) as error:
                fault = read_fault(error)
                pause = random.uniform(0.5, 1) * min(patience.pause * 2**number, patience.longest_pause)  # noqa: S311
                late = time.monotonic() + pause - started > patience.total
                if late or not self._may_help(fault, number):
                    # Without what obstore said: the server's whole answer is in it.
                    raise tell(fault, self._place, writing=writing) from None
            time.sleep(pause)
        raise AssertionError("at least one try")

    def _may_help(self, fault: Fault, number: int) -> bool:
        """Tell whether another try may help after the one of this number, from 0."""
        if not self._reached and fault.unreachable and number + 1 >= _FEW:
            return False  # a server that was never there is more likely misspelt than away for a moment
        return fault.passing and number + 1 < self._patience.tries

    def _client(self, *, stall: float | None) -> "ObjectStore":
        patience = self._patience
        options: ClientConfig = {
            "timeout": _duration(patience.request),
            "connect_timeout": _duration(patience.connect),
            "allow_http": self._place.server.startswith("http://"),
            "user_agent": "envkit",
        }
        if stall is not None:
            options["read_timeout"] = _duration(stall)
        try:
            return self._connect(options)
        except (BaseError, OSError, ValueError, TypeError):
            # Without what obstore said: it repeats what it cannot read.
            raise UnusableCredentials(
                f"cannot use the settings and keys for {self.url} ({self._place.keys})",
                resolution="check the variables and files of that cloud's tools, see docs/operating.md",
            ) from None


class _Unclear(Exception):
    """The server's answers contradict one another; asking again may clear it up."""


class _Endless(Exception):
    """What should be a few requests does not come to an end."""


def _status_of(meta: "ObjectMeta") -> Status:
    # Some servers put quotes around the tag in one of their answers, and not in the other.
    tag = (meta["e_tag"] or "").strip('"')
    return Status(size=meta["size"], modified=meta["last_modified"].timestamp(), tag=tag)


def _whole(data: "obstore.Bytes", length: int) -> bytes:
    if len(data) != length:
        raise _Unclear
    return data.to_bytes()


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _check_process() -> None:
    global _process
    if _process not in (0, os.getpid()):
        raise RuntimeError("a store in a bucket was used before this process was forked, and cannot be used in it")
    _process = os.getpid()


def _interruptible(request: Callable[[], T], limit: float | None) -> T:
    """Make a request so that signals end the wait: obstore would look at them only when the request has ended."""
    if limit is None and threading.current_thread() is not threading.main_thread():
        return request()
    outcome: list[T] = []
    failure: list[BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            outcome.append(request())
        except BaseException as error:  # noqa: BLE001  # it is raised again, in the thread that waits
            failure.append(error)
        finally:
            ended.set()

    threading.Thread(target=work, daemon=True).start()
    if not ended.wait(limit):
        raise _Endless
    if failure:
        raise failure[0]
    return outcome[0]
