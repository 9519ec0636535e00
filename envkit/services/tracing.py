"""Owns making a start pack on purpose: a version is run once, all of it served, and what it touches first is packed."""

import os
from collections.abc import Sequence

from envkit.errors import EnvkitError
from envkit.model.job import Job
from envkit.services.context import Context
from envkit.services.run import run


class NoStartPack(EnvkitError):
    """No start pack came of a run; everything else is as it should be."""


def make_start_pack(context: Context, version: str, command: Sequence[str]) -> int:
    """Run a command in a version and make a start pack of what it touches first; return its bytes.

    What the command prints goes to standard error.

    :raises NoStartPack: the command failed, or the start pack could not be made or kept.
    """
    shown = os.dup(1)
    try:
        os.dup2(2, 1)
        outcome = run(context, Job(environment=version, command=tuple(command), trace=True))
    finally:
        os.dup2(shown, 1)
        os.close(shown)
    if outcome.code:
        raise NoStartPack(
            f"the command of --trace ended with exit code {outcome.code}, so no start pack was made",
            resolution=f"{version} is saved; a start pack will be made when it first runs on another node",
        )
    size = outcome.cost.get("start_pack")
    if not isinstance(size, int) or not size:
        raise NoStartPack(f"{version} is saved, but no start pack could be made", resolution="see images.log")
    return size
