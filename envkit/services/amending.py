"""Owns what is said about versions after they were made: deleting, bringing back, tags, the description.

Each is a record of its own in the row of versions, and true of all that came before it: where somebody else was
faster, it is thought over again.
"""

from collections.abc import Callable
from dataclasses import dataclass

from envkit.errors import Conflict, InvalidInput
from envkit.model.history import History
from envkit.model.ids import EnvName, EnvRef, check_tag
from envkit.model.version import Version, VersionKind
from envkit.services.collecting import DELETED_GRACE
from envkit.services.context import Context
from envkit.services.environments import Doomed, now
from envkit.services.publishing import DataCollected, Writer, writing
from envkit.store import versions
from envkit.store.errors import MovedOn
from envkit.store.missing import not_found

_ATTEMPTS = 20

_Think = Callable[[Writer, History], Version | None]
"""Returns what to say, knowing an environment's history and asking a writer; None for nothing."""


@dataclass(frozen=True)
class Tagged:
    """A tag and the version that it means; `before` is the one that it meant, `changed` whether that is another."""

    env: EnvName
    tag: str
    number: int
    before: int | None

    @property
    def changed(self) -> bool:
        """Whether the tag is new or was moved."""
        return self.number != self.before


@dataclass(frozen=True)
class Restored:
    """Versions that are there again, and why others are not."""

    env: EnvName
    numbers: tuple[int, ...]
    refused: tuple[DataCollected, ...]


def delete(context: Context, doomed: Doomed) -> None:
    """Delete versions; their numbers stay taken and their data stays until it is collected."""
    with writing(context) as writer:
        draft = versions.tombstone(context.store, doomed.env, doomed.numbers, author=context.owner, created=now())
        writer.publish(draft, expected=None)


def deleted_text(doomed: Doomed) -> str:
    """Return what to tell about versions that were deleted."""
    count = len(doomed.numbers)
    kept = f"kept for {DELETED_GRACE / 86400:g} days at least, until `envkit gc` collects it"
    back = doomed.env if count > 1 else f"{doomed.env}@{doomed.numbers[0]}"
    return f"deleted {back if count == 1 else f'{count} versions of {back}'}; {kept}: `envkit undelete {back}`"


def undelete(context: Context, text: str) -> Restored:
    """Bring a deleted version back, or all that the newest tombstone deletes.

    :raises Conflict: it is not deleted, was renamed, or its data was collected.
    """
    ref = context.ref(text)
    refused: list[DataCollected] = []

    def think(writer: Writer, history: History) -> Version:
        refused.clear()
        alive = []
        for number in _deleted(context, history, ref):
            try:
                alive.append(_alive(writer, history, ref.env, number))
            except DataCollected as error:
                refused.append(error)
        if not alive:
            raise refused[0]
        return _record(context, ref.env, VersionKind.RESTORE, restores=tuple(alive))

    record = _amend(context, ref.env, think)
    return Restored(ref.env, record.restores if record is not None else (), tuple(refused))


def _deleted(context: Context, history: History, ref: EnvRef) -> list[int]:
    """Return the numbers that undeleting a reference brings back."""
    number = ref.version if ref.tag is None else history.tags.get(ref.tag)
    tombstone = history.newest_tombstone if ref.is_whole else history.tombstone_of(number or 0)
    if tombstone is None:
        if ref.is_whole and history.live:
            raise Conflict(f"no version of {ref.env} is deleted", resolution=f"`envkit log {ref.env}` shows them")
        if number in history.live:
            raise Conflict(f"{ref} is not deleted")
        raise not_found(context.store, ref)
    if tombstone.renamed is not None:
        new = tombstone.renamed
        raise Conflict(
            f"{ref} was not deleted but renamed: use {new}",
            resolution=f"`envkit clone {new} {ref.env}` makes a copy under the old name",
        )
    return [n for n in history.deleted if history.tombstone_of(n) is tombstone and (ref.is_whole or n == number)]


def _alive(writer: Writer, history: History, env: EnvName, number: int) -> int:
    version = history.versions.get(number)
    if version is None:
        raise DataCollected(
            f"{env}@{number}", "it was collected after it had been deleted", resolution="it cannot be brought back"
        )
    writer.check_alive(version)
    return number


def tag(context: Context, text: str, name: str) -> Tagged:
    """Let a tag mean a version, also if it meant another one before.

    :raises NotFound: there is no such version.
    """
    ref = context.ref(text)
    check_tag(name)
    seen: list[Tagged] = []

    def think(_writer: Writer, history: History) -> Version | None:
        if ref.is_whole:
            number = history.live[-1] if history.live else None
        else:
            number = ref.version if ref.tag is None else history.tags.get(ref.tag)
        if number is None or number not in history.live:
            raise not_found(context.store, ref)
        seen.append(Tagged(ref.env, name, number, history.tags.get(name)))
        return _record(context, ref.env, VersionKind.TAG, tag=name, target=number) if seen[-1].changed else None

    _amend(context, ref.env, think)
    return seen[-1]


def untag(context: Context, text: str, name: str) -> Tagged:
    """Remove a tag; the version that it meant stays.

    :raises NotFound: there is no such tag.
    """
    ref = _whole(context, text, "a tag is removed from the environment")
    check_tag(name)
    meant: list[int] = []

    def think(_writer: Writer, history: History) -> Version:
        if name not in history.tags:
            raise not_found(context.store, EnvRef(env=ref.env, tag=name))
        meant.append(history.tags[name])
        return _record(context, ref.env, VersionKind.TAG, tag=name, target=0)

    _amend(context, ref.env, think)
    return Tagged(ref.env, name, 0, meant[-1])


def describe(context: Context, text: str, description: str) -> EnvName:
    """Change an environment's description; no version changes, and none is made."""
    ref = _whole(context, text, "the description is the environment's")

    def think(_writer: Writer, history: History) -> Version | None:
        if not history.live:
            raise not_found(context.store, ref)
        if history.description == description:
            return None
        return _record(context, ref.env, VersionKind.DESCRIBE, description=description)

    _amend(context, ref.env, think)
    return ref.env


def _whole(context: Context, text: str, why: str) -> EnvRef:
    ref = context.ref(text)
    if not ref.is_whole:
        raise InvalidInput(f"{text!r} names a version, but {why}", resolution=f"give {ref.env.name!r} alone")
    return ref


def _amend(context: Context, env: EnvName, think: _Think) -> Version | None:
    """Publish what there is to say, if anything, so that nothing came between thinking and saying it."""
    with writing(context) as writer:
        for _ in range(_ATTEMPTS):
            history = versions.read_history(context.store, env)
            draft = think(writer, history)
            if draft is None:
                return None
            try:
                return writer.publish(draft, expected=history.records[-1].number + 1)
            except MovedOn:
                continue
    raise MovedOn(env)


def _record(
    context: Context,
    env: EnvName,
    kind: VersionKind,
    *,
    restores: tuple[int, ...] = (),
    tag: str | None = None,
    target: int = 0,
    description: str = "",
) -> Version:
    return Version(
        env=env,
        number=1,
        kind=kind,
        restores=restores,
        tag=tag,
        target=target,
        description=description,
        author=context.owner,
        created=now(),
    )


def tagged_json(result: Tagged) -> dict[str, object]:
    """Return a tag for `--json`."""
    number = result.number or None
    return {"environment": str(result.env), "tag": result.tag, "version": number, "before": result.before}
