"""Owns the session record: what a setup container was opened on, and what of it is saved; and its JSON form."""

import json

from envkit.errors import Damaged
from envkit.model.ids import EnvName, is_digest
from envkit.model.needs import NOTHING, Needs, needs_from_json, needs_to_json
from envkit.model.record import Record
from envkit.model.version import LayerRef

SESSION_FORMAT = 1
MAX_SESSION_BYTES = 1 << 20


class Saved(Record):
    """The last save of a session: the highest version that it knows of, and a digest of the entries that it stored.

    `under` is the version that it became where that is one of another environment.
    """

    number: int
    fingerprint: str
    under: str | None = None

    def is_of(self, fingerprint: str) -> bool:
        """Tell whether the session's own environment has these entries as its latest version."""
        return self.under is None and self.fingerprint == fingerprint


class Pending(Record):
    """A save that was about to take a version number (or a later one): number, digest of its layer, fingerprint."""

    number: int
    tree: str
    fingerprint: str


class Session(Record):
    """A session on environment `env`, opened on the version `parent`, whose layers lie below its upper directory.

    `needs` is what that version needs of a node.

    `identity` names its container; `base` is the base at the bottom; `known` is the highest version number that the
    environment had when the session was opened; `saved` is None until the first save, `pending` but for the
    moment between a version and the note of it in here.
    """

    env: EnvName
    identity: str
    base: str
    parent: str
    layers: tuple[LayerRef, ...]
    arch: str
    known: int
    needs: Needs = NOTHING
    description: str = ""
    created: str = ""
    saved: Saved | None = None
    pending: Pending | None = None

    @property
    def next_version(self) -> int:
        """The number that the next save takes, if nobody else saved to this environment."""
        return 1 + (self.known if self.saved is None else self.saved.number)


def session_to_json(session: Session) -> bytes:
    """Return the stored form of a session."""
    document = {
        "format": SESSION_FORMAT,
        "owner": session.env.owner,
        "name": session.env.name,
        "identity": session.identity,
        "base": session.base,
        "parent": session.parent,
        "layers": [[layer.tree, layer.entries, layer.size, layer.stored] for layer in session.layers],
        "arch": session.arch,
        "known": session.known,
        "description": session.description,
        "created": session.created,
        "saved": None if session.saved is None else [getattr(session.saved, field) for field in Saved._fields],
    }
    if session.needs != NOTHING:
        document["needs"] = needs_to_json(session.needs)
    if session.pending is not None:
        document["pending"] = [session.pending.number, session.pending.tree, session.pending.fingerprint]
    return json.dumps(document, indent=1).encode() + b"\n"


def session_from_json(data: bytes, *, where: str) -> Session:
    """Read a session that this machine stored.

    :raises Damaged: it is no session record, or one of another format.
    """
    try:
        document = json.loads(data)
        if document["format"] != SESSION_FORMAT:
            raise Damaged(f"{where} has format {document['format']!r:.20}, this envkit reads {SESSION_FORMAT}")
        saved, pending = document["saved"], document.get("pending")
        layers = tuple(
            LayerRef(tree=tree, entries=entries, size=size, stored=stored)
            for tree, entries, size, stored in document["layers"]
        )
        if not layers or not all(is_digest(layer.tree) for layer in layers):
            raise ValueError("no valid layers")
        return Session(
            env=EnvName(owner=document["owner"], name=document["name"]),
            identity=document["identity"],
            base=document["base"],
            parent=document["parent"],
            layers=layers,
            arch=document["arch"],
            known=document["known"],
            needs=needs_from_json(document.get("needs")),
            description=document["description"],
            created=document["created"],
            saved=None if saved is None else Saved(number=saved[0], fingerprint=saved[1], under=saved[2]),
            pending=None if pending is None else Pending(number=pending[0], tree=pending[1], fingerprint=pending[2]),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Damaged(f"{where} is not a session record", details=str(error)) from error
