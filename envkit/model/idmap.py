"""Owns the id map: which host uid and gid stands behind each uid and gid of a container.

Containers see 0..65535; on the host these are ids of a range that belongs to envkit alone (`/etc/subuid`, root's
line). A job also maps the invoking user's own uid and groups to themselves, so that bind-mounted directories just work.
"""

from collections.abc import Sequence

from envkit.model.record import Record

CONTAINER_IDS = 65_536


class IdRange(Record):
    """`count` ids, from `inside` in the container and from `outside` on the host."""

    inside: int
    outside: int
    count: int


class IdMap(Record):
    """The uid and the gid ranges of one container."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    @property
    def root_uid(self) -> int:
        """The host uid behind the container's root."""
        return outside(self.uids, 0)

    @property
    def root_gid(self) -> int:
        """The host gid behind the container's root group."""
        return outside(self.gids, 0)


def shifted(first: int) -> IdMap:
    """Map 0..65535 to `first`..: the map of sessions, and of jobs that run as root."""
    ranges = (IdRange(inside=0, outside=first, count=CONTAINER_IDS),)
    return IdMap(uids=ranges, gids=ranges)


def for_user(first: int, uid: int, gids: Sequence[int]) -> IdMap:
    """Like `shifted`, but with one uid and some gids mapped to themselves."""
    return IdMap(uids=_with_holes(first, (uid,)), gids=_with_holes(first, gids))


def _with_holes(first: int, own: Sequence[int]) -> tuple[IdRange, ...]:
    """Return the ranges of `shifted` with the ids `own` taken out and mapped to themselves."""
    ranges = []
    position = 0
    for number in sorted(set(own)):
        if number == 0:
            raise ValueError("root of the host is never mapped into a container")
        end = min(number, CONTAINER_IDS)
        ranges.append(IdRange(inside=position, outside=first + position, count=end - position))
        ranges.append(IdRange(inside=number, outside=number, count=1))
        position = min(number + 1, CONTAINER_IDS)
    ranges.append(IdRange(inside=position, outside=first + position, count=CONTAINER_IDS - position))
    return tuple(piece for piece in ranges if piece.count)


def outside(ranges: tuple[IdRange, ...], inside: int) -> int:
    """Return the host id behind a container's id; raise KeyError where there is none."""
    for piece in ranges:
        if piece.inside <= inside < piece.inside + piece.count:
            return piece.outside + inside - piece.inside
    raise KeyError(inside)


def inside(ranges: tuple[IdRange, ...], outside: int) -> int:
    """Return the container's id for a host id; raise KeyError where there is none."""
    for piece in ranges:
        if piece.outside <= outside < piece.outside + piece.count:
            return piece.inside + outside - piece.outside
    raise KeyError(outside)


def proc_lines(ranges: tuple[IdRange, ...]) -> str:
    """Return the ranges as `/proc/PID/uid_map` takes them."""
    return "".join(f"{piece.inside} {piece.outside} {piece.count}\n" for piece in ranges)
