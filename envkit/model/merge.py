"""Owns what a stack of trees looks like merged: the same rules as overlayfs, without a mount."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from envkit.model.tree import Entry, Kind, path_key


def merge(layers: Iterable[Sequence[Entry]]) -> dict[bytes, Entry]:
    """Return path -> entry of the merged view; `layers` are entries in canonical order, the lowest layer first.

    Whiteouts are not part of the result; opaque directories lose the mark. A hard link whose first name a higher
    layer hides becomes the file itself.
    """
    merged: dict[bytes, Entry] = {}
    for entries in layers:
        merged = _stack(merged, entries) if merged else _first(entries)
    return merged


def sorted_entries(merged: dict[bytes, Entry]) -> list[Entry]:
    """Return the entries of a merged view in canonical order."""
    return [merged[path] for path in sorted(merged, key=path_key)]


def _first(entries: Sequence[Entry]) -> dict[bytes, Entry]:
    return {entry.path: _plain(entry) for entry in entries if entry.kind is not Kind.WHITEOUT}


def _plain(entry: Entry) -> Entry:
    return (
        Entry(**{f: getattr(entry, f) for f in Entry.__struct_fields__} | {"opaque": False}) if entry.opaque else entry
    )


def _stack(lower: dict[bytes, Entry], entries: Sequence[Entry]) -> dict[bytes, Entry]:
    gone: set[bytes] = set()  # whatever lies below these paths in the lower layers is hidden
    named: set[bytes] = set()
    for entry in entries:
        named.add(entry.path)
        before = lower.get(entry.path)
        replaced = before is not None and before.kind is Kind.DIRECTORY and entry.kind is not Kind.DIRECTORY
        if entry.kind is Kind.WHITEOUT or entry.opaque or replaced:
            gone.add(entry.path)
    kept = {path: entry for path, entry in lower.items() if path not in named and not is_below(path, gone)}
    repair_links(lower, kept)
    kept.update(_first(entries))
    return kept


def is_below(path: bytes, gone: Collection[bytes]) -> bool:
    """Tell whether a path lies below one of some others."""
    if not gone:
        return False
    while path:
        path = path.rpartition(b"/")[0]
        if path in gone:
            return True
    return False


def repair_links(lower: Mapping[bytes, Entry], kept: dict[bytes, Entry]) -> None:
    """Give hard links whose first name is hidden a new first name; `kept` is what is left of `lower`."""
    renamed: dict[bytes, bytes] = {}
    for path, entry in list(kept.items()):
        if entry.kind is not Kind.HARDLINK or entry.target in kept:
            continue
        new_first = renamed.get(entry.target)
        if new_first is None:
            renamed[entry.target] = path
            original = lower[entry.target]
            kept[path] = Entry(**{f: getattr(original, f) for f in Entry.__struct_fields__} | {"path": path})
        else:
            kept[path] = Entry(path=path, kind=Kind.HARDLINK, target=new_first)
