"""Owns the future of a call: what `concurrent.futures` knows of it, and what only a job has."""

import concurrent.futures
import io
import subprocess
import threading
from collections.abc import Iterable, Sequence
from typing import Any, overload

from envkit.client.command import ask, failure, finished, start
from envkit.client.errors import JobFailed
from envkit.client.value import Value, read_value

_BLOCK = 1 << 20
_OVER = ("done", "failed", "timeout", "killed", "lost")


class Future(concurrent.futures.Future[Any]):
    """A call that runs, or will run, in an environment. Values are fetched and unpickled when they are first asked for.

    It is `running()` once its task runs; `cancel()` succeeds until then, `kill()` ends it at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._id: str | None = None
        self._status = "new"
        self._data: bytes | None = None
        self._value: Value | None = None
        self._loading = threading.Lock()
        self._moving = threading.Lock()

    @property
    def id(self) -> str | None:
        """The task that it is, as in `12_3`; None until it is submitted."""
        return self._id

    @property
    def status(self) -> str:
        """Where its task stands: `new`, then `waiting`, `queued`, `running`, and one of `done`, `failed`, `timeout`,
        `killed`, `lost`.
        """
        return self._status

    @property
    def stdout(self) -> str:
        """What its task has printed so far."""
        return self._printed("stdout")

    @property
    def stderr(self) -> str:
        """What its task has written to standard error so far."""
        return self._printed("stderr")

    def result(self, timeout: float | None = None) -> Any:
        """Return what the function returned.

        :raises TimeoutError: it is not there after so many seconds.
        :raises CancelledError: it was cancelled.
        :raises JobFailed: its task ended without any.
        :raises BaseException: what the function raised, with the traceback that it had there as its cause.
        """
        super().result(timeout)
        return self._loaded().get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the function raised, or the JobFailed of its task; None if it returned."""
        error = super().exception(timeout)
        return error if error is not None else self._loaded().error

    def cancel(self) -> bool:
        """Take it out of the queue, if it does not run yet; tell whether that was so."""
        if not self.cancelled():
            if not self._cancelled_here():
                return False
            kill([self])
        return True

    def kill(self) -> None:
        """End its task, in the queue or while it runs; `result` raises JobFailed then. One that is over stays.

        One that is not submitted yet, of an executor, is cancelled.
        """
        kill([self])

    def __repr__(self) -> str:
        return f"<envkit.Future {self._id or 'not submitted yet'} {self._status}>"

    def _cancelled_here(self) -> bool:
        """Be cancelled, if it neither runs nor is over, without a word to the queue; tell whether it is."""
        with self._moving:
            if self.cancelled():
                return True
            if not super().cancel():
                return False
            self.set_running_or_notify_cancel()  # what as_completed() and wait() listen for
            return True

    def _submitted(self, id: str) -> None:
        """Take the task that it has become."""
        self._id = id
        self._status = "queued"

    def _moved(self, state: str) -> None:
        """Take the state of a task that is not over."""
        self._status = state
        if state == "running":
            self._begun()

    def _ended(self, state: str, error: JobFailed | None, data: bytes | None) -> None:
        """Take how its task ended: an error, or that there is a value, and that value if it is a small one."""
        self._status = state
        if not self._begun():
            return
        self._data = data
        if error is None:
            self.set_result(None)
        else:
            self.set_exception(error)

    def _broken(self, error: Exception) -> None:
        """Take that nothing can be known of it."""
        if self._begun():
            self.set_exception(error)

    def _begun(self) -> bool:
        """Be beyond cancelling; False if it was cancelled before, or is over."""
        with self._moving:
            if self.done():
                return False
            return self.running() or self.set_running_or_notify_cancel()

    def _loaded(self) -> Value:
        with self._loading:
            if self._value is None:
                if self._data is not None:
                    self._value = read_value(io.BytesIO(self._data))
                    self._data = None
                else:
                    self._value = self._fetched()
            return self._value

    def _fetched(self) -> Value:
        """Read the value from the store, by way of envkit, which checks it."""
        assert self._id is not None  # noqa: S101  # it has ended
        with start("result", self._id, "--value", "-", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert isinstance(child.stdout, io.BufferedReader) and child.stderr is not None  # noqa: S101  # pipes
            errors: list[bytes] = []
            reader = threading.Thread(target=lambda pipe: errors.append(pipe.read()), args=(child.stderr,), daemon=True)
            reader.start()
            value = read_value(child.stdout) if child.stdout.peek(1) else None
            while child.stdout.read(_BLOCK):  # what unpickling has left, where it failed
                pass
            reader.join()
            code = child.wait()
        if code or value is None:  # what came was cut short
            raise failure(code, b"".join(errors)) from None
        return value

    def _printed(self, stream: str) -> str:
        if self._id is None or self._status in ("new", "waiting", "queued"):
            return ""
        code, output, errors = finished("logs", self._id, f"--{stream}")
        if code:
            raise failure(code, errors) from None
        return output.decode("utf-8", "replace")


class Futures(Sequence[Future]):
    """The futures of a `map`, in the order of its arguments."""

    def __init__(self, futures: Iterable[Future]) -> None:
        self._futures = list(futures)

    @overload
    def __getitem__(self, place: int) -> Future: ...
    @overload
    def __getitem__(self, place: slice) -> "Futures": ...
    def __getitem__(self, place: int | slice) -> "Future | Futures":
        return Futures(self._futures[place]) if isinstance(place, slice) else self._futures[place]

    def __len__(self) -> int:
        return len(self._futures)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.status.items())
        return f"<envkit.Futures {counts or 'none'}>"

    @property
    def status(self) -> dict[str, int]:
        """How many are in which state."""
        found: dict[str, int] = {}
        for future in self._futures:
            found[future.status] = found.get(future.status, 0) + 1
        return found

    def results(self, timeout: float | None = None) -> list[Any]:
        """Return what the function returned for each.

        :raises TimeoutError: not all are there after so many seconds.
        :raises BaseException: what the first of them, in order, that failed has raised.
        """
        missing = concurrent.futures.wait(self._futures, timeout).not_done
        if missing:
            raise TimeoutError(f"{len(missing)} of {len(self._futures)} calls are not over")
        return [future.result() for future in self._futures]

    def kill(self) -> None:
        """End all that are not over."""
        kill(self._futures)


def cancel(futures: Iterable[Future]) -> None:
    """Cancel those that do not run yet, with one command for all of them."""
    kill([future for future in futures if not future.cancelled() and future._cancelled_here()])


def kill(futures: Iterable[Future]) -> None:
    """End the tasks of futures, with one command for all of them; those that are not submitted yet are cancelled.

    :raises EnvkitError: it failed.
    """
    ids = []
    for future in futures:
        if future.id is None:
            future._cancelled_here()
        elif future.status not in _OVER:
            ids.append(future.id)
    if ids:
        ask("kill", "--json", *_named(ids))


def _named(ids: Iterable[str]) -> list[str]:
    """Return tasks as few words: 12_0-99 for a hundred of them."""
    by_job: dict[str, list[int]] = {}
    for task in ids:
        job, _, index = task.partition("_")
        by_job.setdefault(job, []).extend([int(index)] if index else [])
    return [f"{job}_{part}" if indexes else job for job, indexes in by_job.items() for part in ranges(indexes) or [""]]


def ranges(numbers: Iterable[int]) -> list[str]:
    """Return numbers as ranges: 3, 5-7."""
    found = []
    ordered = sorted(numbers)
    start = 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or ordered[end] != ordered[end - 1] + 1:
            first, last = ordered[start], ordered[end - 1]
            found.append(f"{first}" if first == last else f"{first}-{last}")
            start = end
    return found
