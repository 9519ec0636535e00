"""Owns the `concurrent.futures.Executor` whose workers are tasks of jobs in an environment."""

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from envkit.client.future import Future, cancel, kill
from envkit.client.options import Options
from envkit.client.payload import Function, Task, name_of
from envkit.client.submission import submit
from envkit.errors import EnvkitError

_QUIET = 0.05
"""Seconds without another call after which those that came are submitted."""
_LONGEST = 0.5
"""Seconds that the first of them waits at most."""
_MOST = 1000
"""Tasks of one job: as many as Slurm takes where its admin has not changed that."""
_Waiting = tuple[Future, Function, Task]


class Executor(concurrent.futures.Executor):
    """Runs calls in an environment. Calls that come within moments of one another become tasks of one job.

    :param env: the environment; :param options: as for `envkit.call`, without the underscore: `cores=2`.
    """

    def __init__(self, env: str, **options: Any) -> None:
        self._options = Options({"env": env, **options})
        self._gathered: list[_Waiting] = []
        self._futures: set[Future] = set()
        self._first = self._last = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Call a function in the environment; return its future at once.

        Whatever keeps it from being submitted is the future's exception.

        :raises RuntimeError: the executor was shut down.
        """
        future = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._last = time.monotonic()
            self._first = self._first if self._gathered else self._last
            self._gathered.append((future, fn, (None, args, kwargs)))
            self._futures.add(future)
            if self._thread is None:
                # No daemon: what was taken is submitted, even if the program ends right now.
                self._thread = threading.Thread(target=self._run, name="envkit-executor")
                self._thread.start()
            self._changed.notify()
        future.add_done_callback(self._futures.discard)
        return future

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """Yield what the function returns for each row of arguments, in order; `chunksize` rows are one task.

        Whoever does not want the rest closes the iterator: what does not run yet is cancelled then, and if one failed.

        :raises TimeoutError: while iterating; the next one is not there so many seconds after this call.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        rows = zip(*iterables)  # noqa: B905  # as map() does
        if chunksize == 1:
            return _results([self.submit(fn, *row) for row in rows], timeout)
        chunks = iter(lambda: list(islice(rows, chunksize)), [])
        function = _for_each(fn)
        return chain.from_iterable(_results([self.submit(function, chunk) for chunk in chunks], timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # as its base
        """Take no more calls.

        :param wait: return when all are over; :param cancel_futures: those that do not run yet are cancelled.
        """
        with self._changed:
            self._closed = True
            given_up = [future for future, _, _ in self._gathered] if cancel_futures else []
            if cancel_futures:
                self._gathered.clear()
            self._changed.notify()
            thread, mine = self._thread, list(self._futures)
        cancel(given_up)
        if thread is not None and (wait or cancel_futures):
            thread.join()
        if cancel_futures:
            cancel(mine)
        if wait:
            concurrent.futures.wait(mine)

    def _run(self) -> None:
        """Submit what has been gathered, until there is no more."""
        while True:
            with self._changed:
                while self._gathered and not self._closed and (left := self._left()) > 0:
                    self._changed.wait(left)
                batch, self._gathered = self._gathered[:_MOST], self._gathered[_MOST:]
                if not batch:
                    self._thread = None
                    return
            for group in _groups(batch):
                self._submit(group)

    def _left(self) -> float:
        """Return how many seconds more to wait for further calls."""
        if len(self._gathered) >= _MOST:
            return 0.0
        return min(self._last + _QUIET, self._first + _LONGEST) - time.monotonic()

    def _submit(self, group: list[_Waiting]) -> None:
        group = [waiting for waiting in group if not waiting[0].cancelled()]
        if not group:
            return
        functions = {id(function) for _, function, _ in group}
        shared = group[0][1] if len(functions) == 1 else None
        tasks = [(None if shared is not None else function, args, kwargs) for _, function, (_, args, kwargs) in group]
        futures = [future for future, _, _ in group]
        name = name_of(group[0][1]) + (f" and {len(functions) - 1} more" if len(functions) > 1 else "")
        try:
            submit(shared, tasks, futures, self._options, name=name, array=len(group) > 1)
        except EnvkitError as error:
            for future in futures:
                future._broken(error)
        except Exception as error:  # noqa: BLE001  # pickling the user's objects may raise anything
            if len(group) > 1 and futures[0].id is None:
                # It is one of them perhaps: each for itself, so that the others are not harmed.
                for waiting in group:
                    self._submit([waiting])
            else:
                for future in futures:
                    future._broken(error)
        else:
            # One that was cancelled meanwhile did not know its task yet.
            kill([future for future in futures if future.cancelled()])


def _groups(batch: list[_Waiting]) -> Iterator[list[_Waiting]]:
    """Yield what shares a function, which then travels once; and at the end all others together."""
    by_function: dict[int, list[_Waiting]] = {}
    for waiting in batch:
        by_function.setdefault(id(waiting[1]), []).append(waiting)
    yield from (group for group in by_function.values() if len(group) > 1)
    rest = [group[0] for group in by_function.values() if len(group) == 1]
    if rest:
        yield rest


def _results(futures: list[Future], timeout: float | None) -> Iterator[Any]:
    """Return an iterator of the values of futures; it lets go of each of them."""
    deadline = None if timeout is None else time.monotonic() + timeout

    def results() -> Iterator[Any]:
        futures.reverse()
        try:
            while futures:
                futures[-1].result(None if deadline is None else deadline - time.monotonic())
                yield futures.pop().result()  # kept nowhere: it may be a large one
        finally:
            cancel(futures)

    return results()


def _for_each(function: Function) -> Function:
    """Return a function that calls another one for several rows."""

    def for_each(rows: list[tuple[Any, ...]]) -> list[Any]:
        return [function(*row) for row in rows]

    for_each.__qualname__ = name_of(function).removesuffix("()")
    return for_each
