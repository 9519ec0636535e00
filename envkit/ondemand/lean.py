"""Owns importing msgspec at half the price, in processes that a starting container waits for.

It takes a few names from typing_extensions if that can be imported, which takes as long as all the rest of it, and from
typing otherwise. That has them in every Python that envkit runs on.
"""

import sys

_NOT_NEEDED = "typing_extensions"


def import_msgspec() -> None:
    """Import msgspec, unless it is imported already; before any module that uses it, and while no thread imports."""
    if "msgspec" in sys.modules or _NOT_NEEDED in sys.modules:
        return
    sys.modules[_NOT_NEEDED] = None  # type: ignore[assignment]  # as the language's reference says: not to be found
    try:
        import msgspec  # noqa: F401
    finally:
        sys.modules.pop(_NOT_NEEDED, None)
