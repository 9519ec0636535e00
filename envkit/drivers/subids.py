"""Owns the range of host ids that containers use: root's line in /etc/subuid and /etc/subgid.

The line is what keeps other programs from handing the same ids to users.
"""

from envkit.drivers.files import read_bounded, write_atomic
from envkit.errors import Unavailable
from envkit.model.idmap import CONTAINER_IDS

FILES = ("/etc/subuid", "/etc/subgid")
_FIRST = 100_000
_LAST = 4_000_000_000


def parse(text: str) -> list[tuple[str, int, int]]:
    """Return `(owner, first id, count)` of each line; lines that are none are skipped, as the kernel tools do."""
    rows = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            rows.append((fields[0], int(fields[1]), int(fields[2])))
    return rows


def root_range(*texts: str) -> int | None:
    """Return the first id of a range of 65,536 that every given file grants to root, or None."""
    granted = []
    for text in texts:
        rows = parse(text)
        granted.append({first for owner, first, count in rows if owner in ("root", "0") and count >= CONTAINER_IDS})
    common = set.intersection(*granted) if granted else set()
    return min(common) if common else None


def free_range(*texts: str) -> int:
    """Return the first id of a range of 65,536 that overlaps no line of the given files."""
    taken = sorted((first, first + count) for text in texts for _, first, count in parse(text))
    start = _FIRST
    for first, end in taken:
        if first < start + CONTAINER_IDS and end > start:
            start = -(-end // CONTAINER_IDS) * CONTAINER_IDS
    if start + CONTAINER_IDS > _LAST:
        raise Unavailable("there is no free range of 65,536 ids in /etc/subuid and /etc/subgid")
    return start


def container_range() -> int:
    """Return the first host id of envkit's containers.

    :raises Unavailable: root has no range of 65,536 ids.
    """
    first = root_range(*(_read(path) for path in FILES))
    if first is None:
        raise Unavailable(
            "root has no range of 65,536 ids in /etc/subuid and /etc/subgid",
            resolution="run `sudo envkit doctor --fix`, which adds one",
        )
    return first


def grant_range() -> tuple[int, bool]:
    """Give root a range of ids if it has none; return its first id, and whether it is new."""
    texts = [_read(path) for path in FILES]
    first = root_range(*texts)
    if first is not None:
        return first, False
    first = free_range(*texts)
    for path, text in zip(FILES, texts, strict=True):
        separator = "" if not text or text.endswith("\n") else "\n"
        write_atomic(path, f"{text}{separator}root:{first}:{CONTAINER_IDS}\n".encode(), mode=0o644)
    return first, True


def _read(path: str) -> str:
    return (read_bounded(path, 1 << 20) or b"").decode("utf-8", "replace")
