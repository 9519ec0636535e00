"""Owns keeping Python's cycle collector away from work on large lists of values, which form no cycles.

The collector looks at all of them again and again as they grow, which took a quarter of a large save's time.
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
