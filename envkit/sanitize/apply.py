"""Owns the filter: a layer's entries as the plan wants them. Pure; files on disk are neither read nor changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from envkit.model.tree import Entry, Kind
from envkit.sanitize.plan import Outcome, Plan

# `Kind.HARDLINK` is a slow look-up in Python 3.11.
_HARDLINK = Kind.HARDLINK


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Entries in canonical order, and the content of the paths that are no longer what the file on disk is."""

    entries: list[Entry]
    contents: dict[bytes, bytes]


def apply_plan(entries: Sequence[Entry], plan: Plan) -> Cleaned:
    """Carry out a plan on the entries that it was made of.

    A path that is emptied or edited becomes a file of its own. Where that, or its removal, takes the first name of a
    group of hard links away, the first of the names that are left becomes the file: on disk it has the same content.
    """
    outcomes = {action.path: action.outcome for action in plan.actions}
    firsts = {entry.target for entry in entries if entry.kind is _HARDLINK}
    files = {entry.path: entry for entry in entries if entry.path in firsts} if firsts else {}
    successors: dict[bytes, bytes] = {}
    cleaned = Cleaned([], {})
    concerned = [place for place, e in enumerate(entries) if e.path in outcomes or e.kind is _HARDLINK]
    done = 0
    for place in concerned:
        cleaned.entries.extend(entries[done:place])
        done = place + 1
        entry = entries[place]
        outcome = outcomes.get(entry.path)
        linked = entry.kind is _HARDLINK
        file = files[entry.target] if linked else entry
        if outcome in (Outcome.EMPTY, Outcome.EDIT):
            content = plan.edits.get(entry.path, b"")
            cleaned.contents[entry.path] = content
            cleaned.entries.append(msgspec.structs.replace(file, path=entry.path, size=len(content), segments=()))
        elif outcome is Outcome.WHITEOUT:
            cleaned.entries.append(Entry(entry.path, Kind.WHITEOUT))
        elif outcome is None and entry.target in outcomes:
            successor = successors.setdefault(entry.target, entry.path)
            if successor == entry.path:
                cleaned.entries.append(msgspec.structs.replace(file, path=entry.path))
            else:
                cleaned.entries.append(Entry(entry.path, Kind.HARDLINK, target=successor))
        elif outcome is None:
            cleaned.entries.append(entry)
    cleaned.entries.extend(entries[done:])
    return cleaned
