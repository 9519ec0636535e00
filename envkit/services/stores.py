"""Owns the use case of making a store."""

from envkit.services.context import require_root
from envkit.store.open import init_store


def init(directory: str) -> str:
    """Make a store in a directory that is missing or empty; return its address."""
    require_root("making a store")
    return init_store(directory).url
