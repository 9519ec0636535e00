"""Owns how it is told what a run has cost: on standard error, where it does not mix with the command's output."""

import contextlib
import json
import sys
from collections.abc import Mapping

from envkit.model.amounts import human_bytes

_NOTHING = {"bytes": 0, "start_pack_bytes": 0, "chunk_bytes": 0, "requests": 0, "stalled": 0.0, "ready": 0, "size": 0}


def show_costs(cost: Mapping[str, object], *, as_json: bool) -> None:
    """Show what `services.run` says of the cost of a run."""
    facts = _facts(cost)
    with contextlib.suppress(OSError):  # the command has run; its exit code is worth more than this
        sys.stderr.write((json.dumps(facts, sort_keys=True) if as_json else _told(facts, known=bool(cost))) + "\n")


def told_costs(cost: Mapping[str, object]) -> str:
    """Say in a line what a run has fetched."""
    return _told(_facts(cost), known=bool(cost))


def show_refusals(cost: Mapping[str, object], environment: str) -> None:
    """Say why reads of the command got an error, of which it knows no more than "Input/output error"."""
    reasons = cost["refused_because"]
    with contextlib.suppress(OSError):
        for why in reasons if isinstance(reasons, list) else ():
            sys.stderr.write(f"note: reads of {environment} failed: {why}\n")


def _facts(cost: Mapping[str, object]) -> dict[str, object]:
    return {**_NOTHING, **{key: value for key, value in cost.items() if key in _NOTHING or key == "seconds"}}


def _told(facts: Mapping[str, object], *, known: bool) -> str:
    if not known:
        return "fetched nothing: all of the environment is on this node"
    return (
        f"fetched {_bytes(facts, 'bytes')} in {facts['requests']} requests ({_bytes(facts, 'start_pack_bytes')} as a"
        f" start pack); readers waited {facts['stalled']} s for it; {_bytes(facts, 'ready')} of"
        f" {_bytes(facts, 'size')} are on this node now"
    )


def _bytes(facts: Mapping[str, object], key: str) -> str:
    value = facts[key]
    return human_bytes(value if isinstance(value, int) else 0)
