"""Owns asking a store for many objects: several requests at once, since each may be a round trip, and few in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

REQUESTS = 8
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def each(work: Callable[[_Item], _Result], items: Iterable[_Item], *, requests: int | None = None) -> Iterator[_Result]:
    """Yield `work(item)` for every item, in order; the first error comes out and ends it.

    A few results at most wait to be taken, however many items there are.
    """
    threads = requests or REQUESTS
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="envkit-store") as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
