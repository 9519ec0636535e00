"""Owns how it is told what a run has cost: on standard error, where it does not mix with the command's output."""

import json
import sys
from collections.abc import Mapping

from envkit.model.amounts import human_bytes

_NOTHING = {"bytes": 0, "start_pack_bytes": 0, "chunk_bytes": 0, "requests": 0, "stalled": 0.0, "ready": 0, "size": 0}


def show_costs(cost: Mapping[str, object], *, as_json: bool) -> None:
    """Show what `services.run` says of the cost of a run."""
    facts = {**_NOTHING, **{key: value for key, value in cost.items() if key in _NOTHING or key == "seconds"}}
    if as_json:
        print(json.dumps(facts, sort_keys=True), file=sys.stderr)
    elif not cost:
        print("fetched nothing: all of the environment is on this node", file=sys.stderr)
    else:
        print(
            f"fetched {_bytes(facts, 'bytes')} in {facts['requests']} requests"
            f" ({_bytes(facts, 'start_pack_bytes')} as a start pack); waited {facts['stalled']} s for them in all readers;"
            f" {_bytes(facts, 'ready')} of {_bytes(facts, 'size')} are on this node now",
            file=sys.stderr,
        )


def _bytes(facts: Mapping[str, object], key: str) -> str:
    value = facts[key]
    return human_bytes(value if isinstance(value, int) else 0)
