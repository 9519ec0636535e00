"""Owns the form of the store's notes to itself (leases, collections): JSON behind a line with its SHA-256.

    <64 hex>
    {"format": 1, ...}

A flipped bit in such a note must not name another object than its writer did.
"""

import hashlib
import json

from envkit.errors import Damaged

DOCUMENT_FORMAT = 1
_HEAD = 65


def encode(fields: dict[str, object]) -> bytes:
    """Return the stored form of a note."""
    text = json.dumps({"format": DOCUMENT_FORMAT, **fields}, sort_keys=True).encode() + b"\n"
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def decode(data: bytes, *, where: str) -> dict[str, object]:
    """Return the fields of a note; `where` names the object in messages.

    :raises Damaged: its checksum does not fit, or it has a newer format.
    """
    text = data[_HEAD:]
    if data[:_HEAD] != hashlib.sha256(text).hexdigest().encode() + b"\n":
        raise Damaged(f"{where} is damaged: its checksum does not fit")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{where} is damaged: {error}") from error
    found = fields.get("format") if isinstance(fields, dict) else None
    if found != DOCUMENT_FORMAT:
        raise Damaged(
            f"{where} has format {found!r:.20}, this envkit reads format {DOCUMENT_FORMAT}", resolution="update envkit"
        )
    return dict(fields)


def texts(value: object, *, where: str) -> list[str]:
    """Return a list of texts out of a note.

    :raises Damaged: it is none.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Damaged(f"{where} is damaged: it holds no list of texts where there must be one")
    return value
