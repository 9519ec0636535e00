"""Owns keeping Python from tidying up behind work on large lists of values, which form no cycles.

The cycle collector looks at all of them again and again as they grow, which took a quarter of a large save's time.
Freeing them one by one in the end took a fifteenth.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """Work without the cycle collector."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_kept: list[object] = []


def keep_until_exit(*values: object) -> None:
    """Have values live as long as this process: for work that is the last thing a command does."""
    _kept.extend(values)
