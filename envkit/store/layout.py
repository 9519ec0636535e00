"""Owns the names of objects in a store, in both directions; nothing else joins or takes apart these keys.

format.json                           format and identity of the store
packs/<2 hex>/<sha256>                frames of chunks
trees/<2 hex>/<sha256>                trees
envs/<owner>/<name>/<8 digits>.json   versions
starts/<owner>/<name>/<16 hex>-<16 hex>-<8 digits>-<sha256>   start packs: stack, entry point, number, header
jobs/<owner>/<token>/order.json       what was submitted; beside it `input-<sha256>` and what its tasks leave:
jobs/<owner>/<token>/<8 digits>.<4 digits>.<part>  by task and attempt: `result`, `value`, `out.<6 digits>` ...
    and of task 0, attempt 0, `order`: the digest of the order, by its submitter
tickets/<owner>/<queue>/<10 digits>.json                      which order a queue's job is
probe/, clock/                        nothing that lasts: written to find something out, and removed
leases/<32 hex>-<8 digits>            writers that are at work
gc/<8 digits>.<part>                  collections, by their epoch
roots/<8 digits>                      the environments that collections have seen
"""

import re

from envkit.errors import InvalidInput
from envkit.model.ids import MAX_VERSION, EnvName, is_digest

FORMAT = "format.json"
PACKS = "packs/"
TREES = "trees/"
ENVIRONMENTS = "envs/"
STARTS = "starts/"
JOBS = "jobs/"
TICKETS = "tickets/"
PROBES = "probe/"
CLOCK = "clock/"
PASSING = (PROBES, CLOCK)
"""What is written only to find something out about the store; leftovers of it mean nothing."""
LEASES = "leases/"
COLLECTIONS = "gc/"
ROOTS = "roots/"
_VERSION = re.compile(r"envs/([^/]+)/([^/]+)/([0-9]{8})\.json")
# Compiled when first used: a run does not.
_LEASE = r"leases/([0-9a-f]{32})-([0-9]{8})"
_COLLECTION = r"gc/([0-9]{8})\.([a-z]{1,20})"
_ROOTS = r"roots/([0-9]{8})"
_JOB = r"jobs/([A-Za-z0-9_][A-Za-z0-9._-]{0,63})/([0-9a-f]{32})/"
_TASK = _JOB + r"([0-9]{8})\.([0-9]{4})\.([a-z]{1,10}(?:\.[0-9]{6})?)"
_TICKET = r"tickets/([A-Za-z0-9_][A-Za-z0-9._-]{0,63})/([A-Za-z0-9][A-Za-z0-9._-]{0,79})/([0-9]{10})\.json"
_START = r"starts/([^/]+)/([^/]+)/([0-9a-f]{16})-([0-9a-f]{16})-([0-9]{8})-([0-9a-f]{64})"


def pack_key(digest: str) -> str:
    """Return the key of a pack, from its digest in hexadecimal."""
    return _addressed(PACKS, digest)


def tree_key(digest: str) -> str:
    """Return the key of a tree, from its digest in hexadecimal."""
    return _addressed(TREES, digest)


def pack_of(key: str) -> str | None:
    """Return the digest of the pack that has this key, or None if it is no key of a pack."""
    return _digest(PACKS, key)


def tree_of(key: str) -> str | None:
    """Return the digest of the tree that has this key, or None if it is no key of a tree."""
    return _digest(TREES, key)


def versions_prefix(env: EnvName) -> str:
    """Return the prefix of all versions of an environment."""
    return f"{ENVIRONMENTS}{env.owner}/{env.name}/"


def version_key(env: EnvName, number: int) -> str:
    """Return the key of a version."""
    if not 0 < number <= MAX_VERSION:
        raise ValueError(f"version {number} is out of range")
    return f"{versions_prefix(env)}{number:08}.json"


def version_of(key: str) -> tuple[EnvName, int] | None:
    """Return the environment and the number of the version that has this key, or None if it is no such key."""
    match = _VERSION.fullmatch(key)
    if match is None or not int(match[3]):
        return None
    try:
        return EnvName(owner=match[1], name=match[2]), int(match[3])
    except InvalidInput:
        return None


def starts_prefix(env: EnvName) -> str:
    """Return the prefix of all start packs of an environment."""
    return f"{STARTS}{env.owner}/{env.name}/"


def start_key(env: EnvName, stack: str, entry: str, number: int, digest: str) -> str:
    """Return the key of a start pack: beginnings of the stack's and the entry point's digests, number, own digest."""
    key = f"{starts_prefix(env)}{stack}-{entry}-{number:08}-{digest}"
    if start_of(key) is None:
        raise ValueError(f"{key!r:.300} is no key of a start pack")
    return key


def start_of(key: str) -> tuple[EnvName, str, str, int, str] | None:
    """Return what `start_key` made this key of, or None if it is no such key."""
    match = re.fullmatch(_START, key)
    if match is None or not int(match[5]):
        return None
    try:
        return EnvName(owner=match[1], name=match[2]), match[3], match[4], int(match[5]), match[6]
    except InvalidInput:
        return None


def order_prefix(owner: str, token: str) -> str:
    """Return the prefix of an order and all that belongs to it."""
    return f"{JOBS}{owner}/{token}/"


def order_key(owner: str, token: str) -> str:
    """Return the key of an order."""
    return f"{order_prefix(owner, token)}order.json"


def order_of(key: str) -> tuple[str, str] | None:
    """Return the owner and the token of the order that a key belongs to, or None if it is no such key."""
    match = re.match(_JOB, key)
    return None if match is None else (match[1], match[2])


def input_key(owner: str, token: str, digest: str) -> str:
    """Return the key of the input of an order, by its digest."""
    return f"{order_prefix(owner, token)}input-{digest}"


def task_key(owner: str, token: str, index: int, attempt: int, part: str) -> str:
    """Return the key of something that an attempt at a task leaves."""
    return f"{order_prefix(owner, token)}{index:08}.{attempt:04}.{part}"


def task_of(key: str) -> tuple[int, int, str] | None:
    """Return the task, the attempt and the part that have this key, or None if it is no such key."""
    match = re.fullmatch(_TASK, key)
    return None if match is None else (int(match[3]), int(match[4]), match[5])


def tickets_prefix(owner: str, queue: str) -> str:
    """Return the prefix of the tickets of somebody's jobs in a queue."""
    return f"{TICKETS}{owner}/{queue}/"


def ticket_key(owner: str, queue: str, number: int) -> str:
    """Return the key of the ticket of a job."""
    return f"{tickets_prefix(owner, queue)}{number:010}.json"


def ticket_of(key: str) -> tuple[str, str, int] | None:
    """Return the owner, the queue and the job of the ticket that has this key, or None if it is no such key."""
    match = re.fullmatch(_TICKET, key)
    return None if match is None else (match[1], match[2], int(match[3]))


def lease_key(identity: str, number: int) -> str:
    """Return the key of the `number`-th sign of life of a writer."""
    return f"{LEASES}{identity}-{number:08}"


def lease_of(key: str) -> tuple[str, int] | None:
    """Return the writer and the number of the sign of life that has this key, or None if it is no such key."""
    match = re.fullmatch(_LEASE, key)
    return None if match is None else (match[1], int(match[2]))


def collection_key(epoch: int, part: str) -> str:
    """Return the key of a part of the record of a collection."""
    return f"{COLLECTIONS}{epoch:08}.{part}"


def collection_of(key: str) -> tuple[int, str] | None:
    """Return the epoch and the part that have this key, or None if it is no such key."""
    match = re.fullmatch(_COLLECTION, key)
    return None if match is None else (int(match[1]), match[2])


def roots_key(number: int) -> str:
    """Return the key of a list of the environments that collections have seen."""
    return f"{ROOTS}{number:08}"


def roots_of(key: str) -> int | None:
    """Return the number of the list that has this key, or None if it is no such key."""
    match = re.fullmatch(_ROOTS, key)
    return None if match is None else int(match[1])


def _addressed(prefix: str, digest: str) -> str:
    if not is_digest(digest):
        raise ValueError(f"{digest!r:.80} is no digest")
    return f"{prefix}{digest[:2]}/{digest}"


def _digest(prefix: str, key: str) -> str | None:
    digest = key.rpartition("/")[2]
    return digest if is_digest(digest) and key == _addressed(prefix, digest) else None
