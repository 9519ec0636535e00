"""Owns the use case `copy`: a version, or a whole history, goes to another store.

The order is packs, trees, version, for one version after the other, so that a kill leaves whole versions and objects
that nobody needs; a copy that is repeated finds what arrived.
"""

import logging
from dataclasses import dataclass, field

from envkit.drivers.crash import crash_point
from envkit.errors import Conflict, InvalidInput
from envkit.model.amounts import human_bytes
from envkit.model.ids import EnvName, EnvRef
from envkit.model.interruption import remains
from envkit.model.progress import Step
from envkit.model.version import LayerRef, Version
from envkit.services.context import Context
from envkit.services.environments import resolve
from envkit.services.moving import Mover, Plan
from envkit.services.publishing import Writer, writing
from envkit.services.storing import learn_new_trees
from envkit.store import versions
from envkit.store.errors import PacksMissing
from envkit.store.index import ChunkIndex
from envkit.store.open import open_store, read_format

logger = logging.getLogger(__name__)

_ATTEMPTS = 10  # others may publish under the same name meanwhile


@dataclass(frozen=True)
class Copied:
    """A version, and what it is called in the destination; `already` if it was there."""

    source: Version
    copy: Version
    already: bool


@dataclass(frozen=True)
class CopyResult:
    """What a copy did; `sent` counts the bytes of objects that were not there."""

    url: str
    versions: tuple[Copied, ...]
    sent: int


def copy(context: Context, text: str, to: str, *, name: str | None = None, history: bool = False) -> CopyResult:
    """Copy a version, or with `history` all that are not deleted, to another store.

    :param name: what it is called there, `[owner/]name`.
    :raises InvalidInput: it is the same store.
    :raises DamagedSource: the source does not have what it promises; the destination has no version of it then.
    """
    source, target = context.store, open_store(to, settings=context.store_settings)
    here, there = read_format(source).id, read_format(target).id
    if here == there:
        raise InvalidInput(
            f"{target.url} is the store that the environment is in already",
            resolution="within one store, use `envkit clone`",
        )
    chosen = _chosen(context, text, history=history)
    env = _name_there(chosen[0].env, name)
    with (
        writing(context, target) as writer,
        ChunkIndex(context.paths.index, there) as index,
    ):
        crash_point("copy:begin")
        copier = _Copier(context, writer, index, env, (here, there))
        copied = copier.copy(chosen)
    return CopyResult(url=target.url, versions=copied, sent=copier.sent)


def _chosen(context: Context, text: str, *, history: bool) -> list[Version]:
    if not history:
        return [resolve(context, text)]
    ref = context.ref(text)
    if not ref.is_whole:
        raise InvalidInput(
            f"--history copies all versions, so {text!r} must not name one",
            resolution=f"name the environment alone: {ref.env}",
        )
    newest = resolve(context, text)  # says well what is wrong with a name
    past = versions.read_history(context.store, newest.env)
    return [past.versions[number] for number in past.live]


def _name_there(env: EnvName, name: str | None) -> EnvName:
    if name is None:
        return env
    ref = EnvRef.parse(name, owner=env.owner)
    if not ref.is_whole:
        raise InvalidInput(f"invalid name {name!r}", resolution="give a name without a version: it takes the next one")
    if ref.env.is_base != env.is_base:
        raise InvalidInput(f"{env} cannot become {ref.env}: a base stays a base, and nothing else becomes one")
    return ref.env


class _Copier:
    """Copies versions of one environment to one name of another store."""

    def __init__(
        self, context: Context, writer: Writer, index: ChunkIndex, env: EnvName, identities: tuple[str, str]
    ) -> None:
        self._context = context
        self._writer = writer
        self._index = index
        self._env = env
        self._here, self._there = identities
        self._mover = Mover(context, writer, index)
        self._done: dict[str, LayerRef] = {}
        self._copies: dict[EnvName, _Copies] = {}

    @property
    def sent(self) -> int:
        """Bytes that were sent so far."""
        return self._mover.sent

    def copy(self, chosen: list[Version]) -> tuple[Copied, ...]:
        """Copy versions in their order, each complete before the next one begins."""
        missing = [version for version in chosen if self._copy_of(version) is None]
        plan = Plan()
        if missing:
            learn_new_trees(self._context, self._writer.store, self._index)
            with self._context.progress.step("comparing the stores", unit="steps"):
                plan = self._mover.plan(dict.fromkeys(layer.tree for version in missing for layer in version.layers))
        total, url = plan.bytes, self._writer.store.url

        def arrived() -> str:
            done = f"{human_bytes(self.sent)} of {human_bytes(total)} are in {url} and will not be sent again"
            return done if self.sent else ""

        with (
            remains(arrived),
            self._context.progress.step(f"copying {self._env}", total=total, unit="bytes") as step,
        ):
            return tuple(self._copy(version, plan, step) for version in chosen)

    def _copy(self, version: Version, plan: Plan, step: Step) -> Copied:
        found = self._copy_of(version)
        if found is not None:
            return Copied(version, found, already=True)
        layers = tuple(self._moved(layer, plan, step) for layer in version.layers)
        crash_point("copy:layers")
        copied = self._publish(version, layers)
        self._copies_of(self._env).add(copied.copy, live=True)
        crash_point("copy:published")
        return copied

    def _moved(self, layer: LayerRef, plan: Plan, step: Step) -> LayerRef:
        if layer.tree not in self._done:
            try:
                self._done[layer.tree] = self._mover.move(layer, plan, step)
            except PacksMissing as error:
                logger.warning("%s; sending again what they held", error.brief)
                self._index.forget(bytes.fromhex(digest) for digest in error.digests)
                self._done[layer.tree] = self._mover.move(layer, self._mover.plan([layer.tree]), step)
        return self._done[layer.tree]

    def _publish(self, version: Version, layers: tuple[LayerRef, ...]) -> Copied:
        target = self._writer.store
        for attempt in range(_ATTEMPTS):
            expected = versions.next_number(target, self._env)
            draft = version.replace(
                env=self._env,
                layers=layers,
                parent=self._parent_there(version),
                origin=origin(version, self._here),
                description=self._description(version),
            )
            try:
                return Copied(version, self._writer.publish(draft, expected=expected), already=False)
            except Conflict:
                if attempt + 1 == _ATTEMPTS or versions.next_number(target, self._env) == expected:
                    raise
            # Somebody else published under this name: perhaps the same copy.
            self._copies.clear()
            found = self._copy_of(version)
            if found is not None:
                return Copied(version, found, already=True)
        raise AssertionError("the last attempt returns or raises")

    def _copy_of(self, version: Version) -> Version | None:
        """Return what the destination has of a version under the name: a copy of it, or what it is itself a copy of."""
        live = self._copies_of(self._env).live
        found = live.get(origin(version, self._here))
        if found is not None:
            return found
        return next((there for there in live.values() if version.origin == origin(there, self._there)), None)

    def _copies_of(self, env: EnvName) -> "_Copies":
        if env not in self._copies:
            past = versions.read_history(self._writer.store, env)
            found = self._copies[env] = _Copies()
            for version in past.versions.values():
                found.add(version, live=past.tombstone_of(version.number) is None)
        return self._copies[env]

    def _parent_there(self, version: Version) -> str | None:
        """Return what a version's parent is called in the destination; None if that does not have it."""
        if version.parent is None:
            return None
        try:
            parent = EnvRef.parse(version.parent, owner=version.env.owner)
        except InvalidInput:
            return None
        copies = self._copies_of(self._env if parent.env == version.env else parent.env)
        found = copies.all.get(f"{parent} in store {self._here}")
        return None if found is None else str(found)

    def _description(self, version: Version) -> str:
        newest = versions.newest(self._context.store, version.env)
        return newest.description if newest is not None and newest.version == version else version.description


@dataclass
class _Copies:
    """Versions of an environment in the destination by what they are copies of; `live` are those not deleted."""

    all: dict[str, Version] = field(default_factory=dict)
    live: dict[str, Version] = field(default_factory=dict)

    def add(self, version: Version, *, live: bool) -> None:
        """Take a version; one that is no copy stands for itself."""
        key = version.origin or str(version)
        self.all[key] = version
        if live:
            self.live[key] = version


def origin(version: Version, store: str) -> str:
    """Return how a copy tells where it is from."""
    return f"{version} in store {store}"


def copied_json(result: CopyResult) -> dict[str, object]:
    """Return the result of a copy for `--json`."""
    rows = [{"source": str(v.source), "version": str(v.copy), "already": v.already} for v in result.versions]
    return {"store": result.url, "versions": rows, "sent": result.sent}
