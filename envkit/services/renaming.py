"""Owns the use case `rename`: a history moves to another name, with its numbers.

Records never change, so each is copied under the new name, the newest first: the first copy takes the name, and from
then on it means the right version. In the end a tombstone under the old name says the new one. Until then the old name
is whole; repeating the command copies what is missing and finishes.
"""

import os
from dataclasses import dataclass

from envkit.drivers.crash import crash_point
from envkit.errors import Conflict, InvalidInput
from envkit.model.history import History
from envkit.model.ids import EnvName, EnvRef
from envkit.model.version import Version, VersionKind
from envkit.services.cloning import new_name
from envkit.services.context import Context
from envkit.services.environments import now
from envkit.services.publishing import DataCollected, Writer, writing
from envkit.store import versions
from envkit.store.errors import MovedOn
from envkit.store.missing import not_found


@dataclass(frozen=True)
class Renamed:
    """What a rename did; `already` where an earlier call of it had finished."""

    old: EnvName
    new: EnvName
    already: bool


@dataclass(frozen=True)
class _Move:
    """A history on its way to another name; `copies` are its records under that name, by number."""

    source: EnvName
    target: EnvName
    history: History
    copies: dict[int, Version]

    def has_put(self, record: Version) -> bool:
        """Tell whether a record under the new name is one of this move's."""
        return self.copies.get(record.number) == record.replace(token="")

    def foreign(self, there: History) -> Version | None:
        """Return the first record under the new name that is no copy, unless it came after all of them."""
        newest = max(self.copies)
        complete = any(record.number == newest for record in there.records)
        for record in there.records:
            after = complete and record.number > newest
            collected = record.number in self.history.deleted and record.number not in self.history.versions
            if not (after or collected or self.has_put(record)):
                return record
        return None


def rename(context: Context, old: str, new: str) -> Renamed:
    """Give an environment or a base another name; the old one says so from then on.

    :raises Conflict: the new name is or was in use, a session of this machine is open, or somebody else wrote to one
        of the names meanwhile. The old name then is as it was.
    """
    source, target = new_name(context, old), new_name(context, new)
    if source == target:
        raise InvalidInput(f"{source} is its name already")
    if source.is_base != target.is_base:
        raise InvalidInput(
            f"{source} cannot become {target}: a base stays a base, and nothing else becomes one",
            resolution="`envkit clone` makes an environment of a base",
        )
    for env in (source, target):
        _check_no_session(context, env)
    history = versions.read_history(context.store, source)
    if not history.live:
        return _finished(context, history, source, target)
    move = _Move(source, target, history, {r.number: _copy_of(r, target) for r in history.records})
    with writing(context) as writer:
        placed = _copy(context, writer, move)
        crash_point("rename:copied")
        _check_alone(context, writer, move, placed)
        _give_up(context, writer, move)
        crash_point("rename:done")
    return Renamed(source, target, already=False)


def _check_no_session(context: Context, env: EnvName) -> None:
    if os.path.isdir(context.paths.session(env)):
        raise Conflict(
            f"a session on {env} is open on this machine",
            resolution=f"end it first: `envkit save {env} --close`, or `envkit close {env}`",
        )


def _finished(context: Context, history: History, source: EnvName, target: EnvName) -> Renamed:
    tombstone = history.newest_tombstone
    if tombstone is None or tombstone.renamed != target:
        raise not_found(context.store, EnvRef(env=source))
    return Renamed(source, target, already=True)


def _copy_of(record: Version, target: EnvName) -> Version:
    """Return what a record is under another name; versions know that it is theirs, and say where they are from."""
    own = f"{record.env}@"
    moved = {
        field: f"{target}@{value.removeprefix(own)}"
        for field, value in (("base", record.base), ("parent", record.parent))
        if value is not None and value.startswith(own)
    }
    origin = (record.origin or str(record)) if record.is_version else record.origin
    return record.replace(env=target, origin=origin, token="", **moved)


def _copy(context: Context, writer: Writer, move: _Move) -> list[int]:
    """Copy what is not there yet; return the numbers of the records that were."""
    there = versions.read_history(context.store, move.target)
    _check_free(there, move)
    taken = {record.number for record in there.records}
    placed = []
    with context.progress.step("renaming", total=len(move.copies), unit="versions") as step:
        for number in sorted(move.copies, reverse=True):
            if number not in taken and _place(writer, move, number):
                placed.append(number)
                crash_point("rename:copy")
            step.advance(1)
    return placed


def _place(writer: Writer, move: _Move, number: int) -> bool:
    try:
        return writer.place(move.copies[number])
    except DataCollected:
        if number in move.history.live:
            raise
        return False  # deleted long ago: nobody can bring it back


def _check_free(there: History, move: _Move) -> None:
    """Refuse a name that is or was used, but for what an earlier call of this rename left there.

    :raises Conflict: it is; says how.
    """
    foreign = move.foreign(there)
    if foreign is None:
        return
    target = move.target
    if not there.live:
        raise Conflict(
            f"the name {target} was used before, and its version numbers stay taken", resolution="choose another name"
        )
    if not any(move.has_put(record) for record in there.records):
        raise Conflict(f"{target} exists", resolution="choose another name")
    raise Conflict(
        f"{foreign} is no version of {move.source}: somebody else took the name {target}",
        resolution="choose another name, or delete one of the two environments",
    )


def _check_alone(context: Context, writer: Writer, move: _Move, placed: list[int]) -> None:
    """Look once more for records of others under the new name; then take away what this call put between them."""
    there = versions.read_history(context.store, move.target)
    try:
        _check_free(there, move)
    except Conflict:
        doomed = [number for number in placed if number in there.live]
        if doomed:
            draft = versions.tombstone(
                context.store,
                move.target,
                doomed,
                author=context.owner,
                created=now(),
                message="an unfinished rename",
            )
            writer.publish(draft, expected=None)
        raise


def _give_up(context: Context, writer: Writer, move: _Move) -> None:
    """Delete all versions under the old name, unless it got a new record."""
    draft = Version(
        env=move.source,
        number=1,
        kind=VersionKind.TOMBSTONE,
        # Also what was deleted before: nobody shall bring it back under this name.
        deletes=tuple(sorted({*move.history.live, *move.history.deleted})),
        renamed=move.target,
        message=f"renamed to {move.target}",
        author=context.owner,
        created=now(),
    )
    try:
        writer.publish(draft, expected=max(move.copies) + 1)
    except MovedOn as error:
        history = versions.read_history(context.store, move.source)
        tombstone = history.newest_tombstone
        if not history.live and tombstone is not None and tombstone.renamed == move.target:
            return  # the same command was given twice, and the other one was faster
        raise Conflict(
            f"somebody else changed {move.source} meanwhile: {move.source} and {move.target} are both there",
            resolution="repeat the command: it takes along what is new",
        ) from error
