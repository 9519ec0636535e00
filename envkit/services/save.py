"""Owns the use case `save`: freeze, scan, sanitize, store, publish, thaw; and what a session has unsaved.

The session itself is never changed. Its changes are always stored as one layer on what it was opened on, so saving
twice gives two versions, each with all changes so far, and the store keeps what they share once.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from envkit.drivers import cgroup, libc
from envkit.drivers.crash import crash_point
from envkit.drivers.files import io_error
from envkit.drivers.subids import container_range
from envkit.errors import Conflict, EnvkitError, InvalidInput
from envkit.model.collector import keep_until_exit, no_collector
from envkit.model.idmap import shifted
from envkit.model.ids import EnvName, EnvRef
from envkit.model.interruption import remains
from envkit.model.needs import Needs, together
from envkit.model.session import Pending, Saved, Session
from envkit.model.tree import Entry
from envkit.model.version import Finding, LayerRef, Report, Version, VersionKind
from envkit.node import session as sessions
from envkit.node.instance import container_name
from envkit.overlay.errors import ChangedMeanwhile
from envkit.overlay.scan import Scan, scan_upper
from envkit.sanitize import Allow
from envkit.services.cleaning import Cleaned, clean, fingerprint, scanned_as
from envkit.services.context import Context, counting, require_root
from envkit.services.environments import now
from envkit.services.largefiles import LargeFiles
from envkit.services.memory import Notes, load_former, read_notes, recall, remember
from envkit.services.publishing import Writer, writing
from envkit.services.storing import store_layer
from envkit.store import versions


@dataclass(frozen=True)
class Draft:
    """What a save would store: findings of sanitizing, number of entries, bytes of files."""

    findings: tuple[Finding, ...]
    entries: int
    bytes: int


@dataclass(frozen=True)
class SaveResult:
    """What a save did; `unchanged` where nothing had changed and no version was made. Sizes in bytes."""

    version: Version
    unchanged: bool
    entries: int
    size: int
    stored: int
    notes: tuple[str, ...] = ()


def save(
    context: Context, name: str, *, message: str, allow: Sequence[str] = (), under: str | None = None
) -> SaveResult:
    """Store a session's changes as the next version of its environment, or as the first one `under` another name.

    :raises Conflict: somebody else saved a version meanwhile, or the other name is taken; the session keeps everything.
    :raises EntryRefused: the session holds something that cannot be saved; says what and where.
    """
    waivers = [Allow.parse(text) for text in allow]
    session = _load(context, name)
    other = None if under is None else _other_name(context, session, under)
    kept = f"the session on {session.env} is open and unchanged"
    with sessions.session_lock(context.paths, session.env), remains(lambda: kept), no_collector():
        loaded = sessions.load_session(context.paths, session.env)
        session = _settled(context, loaded)
        crash_point("save:begin")
        with writing(context) as writer:
            if session.saved != loaded.saved:
                session = _confirmed(context, writer, session)
            notes = read_notes(context, session)
            former = partial(load_former, context, session, notes)
            with (
                frozen(context, session),
                LargeFiles(_upper(context, session), notes, former) as large,
                _scan(context, session, notes) as scan,
            ):
                scanned = scanned_as(session, scan, waivers)
                found = notes.outcome(scanned)
                if other is None and session.saved is not None and found and session.saved.is_of(found):
                    return _unchanged(context, session, session.saved)
                before = recall(notes, large.tree or former(), scan)
                cleaned = clean(context, session, scan, waivers)
                found = fingerprint(scan, cleaned)
                if other is None and session.saved is not None and session.saved.is_of(found):
                    return _unchanged(context, session, session.saved)
                read, unchanged = partial(cleaned.open, scan), before.without(cleaned.contents)
                same = partial(large.kept, scan)
                layer = store_layer(context, writer, cleaned.entries, read, unchanged=unchanged, kept=same)
                needs = together([session.needs, _needs(context, session, scan, cleaned)])
                files, edited = cleaned.files, cleaned.contents
                remember(context, session, scan, layer.tree, files, replaced=edited, scanned=scanned, stored=found)
                keep_until_exit(scan, before, cleaned)
            crash_point("save:stored")
            draft = _draft(context, session, layer, cleaned.report, message).replace(needs=needs)
            if other is None:
                pending = Pending(number=session.next_version, tree=layer.tree, fingerprint=found)
                sessions.update_session(context.paths, session.replace(pending=pending))
                crash_point("save:pending")
                version = writer.publish(draft, expected=session.next_version)
                saved = Saved(number=version.number, fingerprint=found)
            else:
                version = writer.publish(draft.replace(env=other, number=1), expected=1)
                saved = Saved(number=session.next_version - 1, fingerprint=found, under=str(version))
            crash_point("save:published")
        sessions.update_session(context.paths, session.replace(saved=saved))
        crash_point("save:end")
    return SaveResult(
        version=version,
        unchanged=False,
        entries=layer.entries,
        size=layer.size,
        stored=layer.stored,
        notes=cleaned.notes,
    )


def _unchanged(context: Context, session: Session, saved: Saved) -> SaveResult:
    version = versions.load(context.store, session.env, saved.number)
    return SaveResult(version=version, unchanged=True, entries=0, size=0, stored=0)


def _other_name(context: Context, session: Session, text: str) -> EnvName:
    """Return the environment that a session is saved under instead of its own, which must be a new one."""
    ref = context.ref(text)
    if ref.version is not None or ref.tag is not None:
        raise InvalidInput(f"{text!r} names a version", resolution="give the name of a new environment")
    if ref.env == session.env:
        raise InvalidInput(f"the session is on {session.env} itself", resolution="leave out --as")
    if versions.numbers(context.store, ref.env):
        raise Conflict(f"{ref.env} exists already", resolution="choose another name")
    return ref.env


def _draft(context: Context, session: Session, layer: LayerRef, report: Report, message: str) -> Version:
    return Version(
        env=session.env,
        number=session.next_version,
        kind=VersionKind.ENVIRONMENT,
        layers=(*session.layers, layer),
        base=session.base,
        parent=session.parent,
        message=message,
        # What was asked for when the session was opened; later it is the environment's, which may have been changed.
        description=session.description if session.saved is None else "",
        author=context.owner,
        created=now(),
        arch=session.arch,
        report=report,
    )


def _needs(context: Context, session: Session, scan: Scan, cleaned: Cleaned) -> Needs:
    """Return what a session's changes need of the nodes that run them."""
    from envkit.services.building import layer_needs

    def read(entry: Entry, most: int) -> bytes:
        data = bytearray()
        for start, piece in cleaned.open(scan, entry):
            if start >= most:
                break
            data.extend(bytes(start - len(data)))
            data += piece
        return bytes(data[:most])

    notes = f"{context.paths.session(session.env)}/needs"
    return layer_needs(cleaned.entries, read, scan.stamp, notes=notes)


def plan(context: Context, name: str, *, allow: Sequence[str] = ()) -> Draft:
    """Return what a save would store and leave out, without storing anything."""
    waivers = [Allow.parse(text) for text in allow]
    session = _load(context, name)
    with (
        sessions.session_lock(context.paths, session.env),
        frozen(context, session),
        _scan(context, session, read_notes(context, session)) as scan,
    ):
        cleaned = clean(context, session, scan, waivers)
    return Draft(findings=cleaned.report.findings, entries=len(cleaned.entries), bytes=cleaned.size)


def has_unsaved_changes(context: Context, session: Session) -> bool:
    """Tell whether a save would store something that the last one did not."""
    session = _settled(context, session)
    if not os.path.isdir(_upper(context, session)):
        return False
    notes = read_notes(context, session)
    try:
        with _scan(context, session, notes) as scan:
            found = notes.outcome(scanned_as(session, scan, []))
            if found and session.saved is not None and session.saved.fingerprint == found:
                return False
            cleaned = clean(context, session, scan, [])
    except ChangedMeanwhile:  # something is being written right now
        return True
    return cleaned.is_new if session.saved is None else session.saved.fingerprint != fingerprint(scan, cleaned)


@contextlib.contextmanager
def frozen(context: Context, session: Session) -> Iterator[None]:
    """Hold a session's processes still, with everything that they wrote on disk.

    After a kill in here the container stays frozen until the next command on the session, which thaws it.
    """
    running = sessions.is_running(context.paths, session)
    name = container_name(session.identity)
    try:
        if running:
            cgroup.freeze(name)
        _sync(_upper(context, session))
        yield
    finally:
        if running:
            try:
                cgroup.thaw(name)
            except KeyboardInterrupt:  # which comes once
                cgroup.thaw(name)
                raise


def _load(context: Context, name: str) -> Session:
    require_root("saving a session")
    return sessions.load_session(context.paths, EnvRef.parse(name, owner=context.owner).env)


def _settled(context: Context, session: Session) -> Session:
    """Return a session that knows its last save, also where that was killed right after it had become a version.

    A save that was deleted since, or that deleted itself because its data was gone, counts for its number alone.
    """
    pending = session.pending
    if pending is None:
        return session
    for number in versions.numbers(context.store, session.env):
        if number >= pending.number:
            version = versions.load(context.store, session.env, number)
            if version.parent == session.parent and version.layers and version.layers[-1].tree == pending.tree:
                is_live = number in versions.read_history(context.store, session.env).live
                saved = Saved(number=number, fingerprint=pending.fingerprint if is_live else "")
                return session.replace(saved=saved, pending=None)
    return session.replace(pending=None)


def _confirmed(context: Context, writer: Writer, session: Session) -> Session:
    """Return a session whose last save is whole: one that was killed could not make sure of that."""
    saved = session.saved
    if saved is None or not saved.fingerprint:
        return session
    if writer.confirm(versions.load(context.store, session.env, saved.number)):
        return session
    return session.replace(saved=saved.replace(fingerprint=""))


def _upper(context: Context, session: Session) -> str:
    return f"{context.paths.session(session.env)}/upper"


def _sync(directory: str) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc.syncfs(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise io_error(f"write {directory} to its disk", error) from error


def _scan(context: Context, session: Session, notes: Notes) -> Scan:
    upper = _upper(context, session)
    if not os.path.isdir(upper):
        raise EnvkitError(f"the session on {session.env} never ran", resolution=f"envkit shell {session.env.name}")
    with counting(context, "scanning") as advance:
        return scan_upper(upper, shifted(container_range()), advance, plain=notes.plain)


def plan_json(draft: Draft) -> dict[str, object]:
    """Return a plan for `--json`."""
    findings = [{"rule": f.rule, "action": f.action, "path": f.path} for f in draft.findings]
    return {"findings": findings, "entries": draft.entries, "bytes": draft.bytes}


def saved_json(result: SaveResult) -> dict[str, object]:
    """Return the result of a save for `--json`."""
    return {
        "version": str(result.version),
        "unchanged": result.unchanged,
        "entries": result.entries,
        "size": result.size,
        "stored": result.stored,
        "notes": list(result.notes),
    }
