"""Owns the use case of making a store: only where the place keeps the promises that a store has to keep."""

from envkit.services.context import Context
from envkit.store.open import init_store
from envkit.store.probe import STEPS, probe


def init(context: Context, url: str) -> str:
    """Make a store in a bucket, or in a directory that is missing or empty; return its address.

    :raises StoreUnsuitable: the place breaks a promise.
    """
    with context.progress.step("trying", total=STEPS, unit="checks") as step:
        return init_store(url, settings=context.store_settings, check=lambda store: probe(store, step.advance)).url
