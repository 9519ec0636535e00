"""Owns the order: everything that a submitted job is, pinned when it was submitted, and its JSON form.

An order names the layers of its environment by their digests, so nothing that happens to the name later (a save, a
rename) changes what a queued job runs. It is stored once and never changes; the batch script carries its digest, so
that a store cannot make a node run anything else.
"""

import enum
import hashlib
import json
import re

from envkit.errors import Damaged, InvalidInput
from envkit.model.ids import EnvName, is_digest
from envkit.model.job import Job, Volume
from envkit.model.jobid import MAX_TASKS
from envkit.model.record import Record
from envkit.model.version import LayerRef

ORDER_FORMAT = 1
MAX_ORDER_BYTES = 32 << 20
MAX_LABEL = 64
MAX_TIME = 366 * 86400
TOKEN = re.compile(r"[0-9a-f]{32}")
TASK_NUMBER = "SLURM_ARRAY_TASK_ID"
"""A parameter of this name is a task's number as its command sees it, where that is not its index: `--array 5-9`."""
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
_PARTITION = re.compile(r"[A-Za-z0-9_.,-]{1,200}")


class Kind(enum.Enum):
    """What a task runs."""

    COMMAND = "command"
    """Words, some with `{parameter}` in them."""
    SCRIPT = "script"
    """A batch script of the user's, which is the order's input."""
    CALL = "call"
    """A Python function; it and its arguments are the order's input."""


class Resources(Record):
    """What a job asks its queue for. None: the queue decides. `memory` in bytes per node, `time` in seconds.

    `tasks` processes on `nodes` nodes with `cpus` each, `gpus` per node; `at_once`: of an array, so many tasks run at
    the same time at most. `extra` are further options of sbatch(1).
    """

    tasks: int = 1
    nodes: int | None = None
    cpus: int | None = None
    memory: int | None = None
    gpus: int = 0
    time: int | None = None
    partition: str | None = None
    priority: int | None = None
    mpi: str | None = None
    at_once: int | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, most in _MOST:
            value = getattr(self, name)
            if value is not None and not (0 if name == "gpus" else 1) <= value <= most:
                raise InvalidInput(f"{value} {name} cannot be asked for")
        if self.time is not None and not 0 < self.time <= MAX_TIME:
            raise InvalidInput(f"a time of {self.time} seconds is out of range")
        if self.partition is not None and not _PARTITION.fullmatch(self.partition):
            raise InvalidInput(f"invalid partition {self.partition!r:.80}")
        if any("\0" in word or "\n" in word for word in self.extra):
            raise InvalidInput("an option of sbatch holds a line break")


_MOST = (("tasks", 1 << 20), ("nodes", 1 << 16), ("cpus", 1 << 16), ("gpus", 1 << 10), ("at_once", MAX_TASKS))


class Input(Record):
    """The object that goes with an order: SHA-256, bytes; `offsets` are where each task's own part begins, if any.

    What lies before the first of these is for all tasks. So that a node need not read what is not its own, `digests`
    has the SHA-256 of that, and then of each task's part; as many as there are tasks, and one.
    """

    digest: str
    size: int
    offsets: tuple[int, ...] = ()
    digests: tuple[str, ...] = ()

    def part(self, number: int) -> tuple[int, int, str]:
        """Return start, length and digest of a part: 0 is for all tasks, `index + 1` that of a task."""
        edges = (0, *self.offsets, self.size)
        return edges[number], edges[number + 1] - edges[number], self.digests[number]


class Order(Record):
    """One submission: a job with `count` tasks, 0 to `count - 1`. `array`: it is one even if that is one task.

    `token` is random, 32 hex digits, and names the order; `owner` is who submitted it, with `uid` and `gid`.
    `job` is what `envkit run` would be given; its command may hold `{name}` where `names` has parameters, and `rows`
    has a value of each for every task. `depends_on` are jobs of the same queue that must end well before.
    """

    token: str
    owner: str
    uid: int
    gid: int
    env: EnvName
    version: int
    arch: str
    layers: tuple[LayerRef, ...]
    kind: Kind
    job: Job
    count: int = 1
    array: bool = False
    names: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    input: Input | None = None
    label: str = ""
    resources: Resources = Resources()
    depends_on: tuple[int, ...] = ()
    requeue: bool = True
    created: str = ""

    def __post_init__(self) -> None:
        if not TOKEN.fullmatch(self.token):
            raise InvalidInput("an order's token is 32 hexadecimal digits")
        if not 0 < self.count <= MAX_TASKS:
            raise InvalidInput(f"a job has 1 to {MAX_TASKS:,} tasks, not {self.count:,}")
        if self.label and not _LABEL.fullmatch(self.label):
            raise InvalidInput(f"invalid label {self.label!r:.80}", resolution="use letters, digits, . _ : / and -")
        if self.rows and (len(self.rows) != self.count or any(len(row) != len(self.names) for row in self.rows)):
            raise InvalidInput("an order needs a value of each parameter for every task")
        if not self.layers:
            raise InvalidInput("an order needs layers")
        if self.kind is not Kind.COMMAND and self.input is None:
            raise InvalidInput("an order of a script or a function needs it as its input")
        if self.kind is Kind.CALL and self.input is not None and len(self.input.offsets) != self.count:
            raise InvalidInput("an order of a function needs arguments for every task")

    @property
    def reference(self) -> str:
        """The environment's version, as in `alice/sci@3`."""
        return f"{self.env}@{self.version}"

    def parameters(self, index: int) -> dict[str, str]:
        """Return the values of a task's parameters, by name."""
        return dict(zip(self.names, self.rows[index], strict=True)) if self.rows else {}


def order_to_json(order: Order) -> bytes:
    """Return the stored form: JSON with sorted keys, ending in a newline."""
    document = _plain(order)
    return json.dumps({"format": ORDER_FORMAT, **document}, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def order_digest(data: bytes) -> str:
    """Return the digest of a stored order, which its batch script carries."""
    return hashlib.sha256(data).hexdigest()


def order_from_json(data: bytes, *, where: str, digest: str | None = None) -> Order:
    """Read a stored order; `where` names the object in messages.

    :param digest: the one that it must have.
    :raises Damaged: it is no order, another one, or one of a newer format.
    """
    if digest is not None and order_digest(data) != digest:
        raise Damaged(f"{where} is not the order that was submitted")
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            raise TypeError("no object")
        found = document.pop("format", None)
        if found != ORDER_FORMAT:
            raise Damaged(
                f"{where} has format {found!r:.20}, this envkit reads format {ORDER_FORMAT}",
                resolution="update envkit",
            )
        return _order(document)
    except (ValueError, TypeError, KeyError, RecursionError, InvalidInput) as error:
        raise Damaged(f"{where} is not a valid order", details=str(error)) from error


def _plain(value: object) -> "dict[str, object]":
    assert isinstance(value, Record)  # noqa: S101  # called with records only
    return {name: _json(getattr(value, name)) for name in value._fields}


def _json(value: object) -> object:
    if isinstance(value, EnvName):
        return str(value)
    if isinstance(value, Record):
        return _plain(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return value


def _order(document: dict[str, object]) -> Order:
    owner, _, name = _text(document["env"]).partition("/")
    given = document["input"]
    return Order(
        token=_text(document["token"]),
        owner=_text(document["owner"]),
        uid=_number(document["uid"]),
        gid=_number(document["gid"]),
        env=EnvName(owner=owner, name=name),
        version=_number(document["version"]),
        arch=_text(document["arch"]),
        layers=tuple(_layer(item) for item in _list(document["layers"])),
        kind=Kind(document["kind"]),
        job=_job(_object(document["job"])),
        count=_number(document["count"]),
        array=_flag(document["array"]),
        names=_texts(document["names"]),
        rows=tuple(_texts(row) for row in _list(document["rows"])),
        input=None if given is None else _input(_object(given)),
        label=_text(document["label"]),
        resources=_resources(_object(document["resources"])),
        depends_on=tuple(_number(item) for item in _list(document["depends_on"])),
        requeue=_flag(document["requeue"]),
        created=_text(document["created"]),
    )


def _layer(item: object) -> LayerRef:
    fields = _object(item)
    tree = _text(fields["tree"])
    if not is_digest(tree):
        raise ValueError("a layer has no valid digest")
    return LayerRef(tree=tree, **{name: _number(fields[name]) for name in ("entries", "size", "stored")})


def _job(fields: dict[str, object]) -> Job:
    volumes = (_object(item) for item in _list(fields["volumes"]))
    timeout = fields["timeout"]
    if timeout is not None and (not isinstance(timeout, int | float) or isinstance(timeout, bool) or timeout <= 0):
        raise ValueError("the timeout is no number above zero")
    variables = []
    for pair in _list(fields["variables"]):
        name, value = _texts(pair)
        variables.append((name, value))
    return Job(
        environment=_text(fields["environment"]),
        command=_texts(fields["command"]),
        volumes=tuple(
            Volume(source=_text(v["source"]), target=_text(v["target"]), read_only=_flag(v["read_only"]))
            for v in volumes
        ),
        variables=tuple(variables),
        directory=_optional(fields["directory"]),
        net=_optional(fields["net"]),
        cpus=_optional_number(fields["cpus"]),
        memory=_optional_number(fields["memory"]),
        timeout=timeout,
        as_root=_flag(fields["as_root"]),
        start_pack=_flag(fields["start_pack"]),
        gpus=_optional(fields["gpus"]),
        devices=_texts(fields["devices"]),
        fetch=_fetch(fields.get("fetch", "")),  # earlier releases did not write it
    )


def _fetch(value: object) -> str:
    if value not in ("", "eager", "offline"):
        raise ValueError(f"{value!r:.40} is no way to fetch layers")
    return str(value)


def _resources(fields: dict[str, object]) -> Resources:
    return Resources(
        tasks=_number(fields["tasks"]),
        nodes=_optional_number(fields["nodes"]),
        cpus=_optional_number(fields["cpus"]),
        memory=_optional_number(fields["memory"]),
        gpus=_number(fields["gpus"]),
        time=_optional_number(fields["time"]),
        partition=_optional(fields["partition"]),
        priority=_optional_number(fields["priority"]),
        mpi=_optional(fields["mpi"]),
        at_once=_optional_number(fields["at_once"]),
        extra=_texts(fields["extra"]),
    )


def _input(fields: dict[str, object]) -> Input:
    digest = _text(fields["digest"])
    if not is_digest(digest):
        raise ValueError("the input has no valid digest")
    offsets = tuple(_number(item) for item in _list(fields["offsets"]))
    digests = _texts(fields["digests"])
    size = _number(fields["size"])
    if list(offsets) != sorted(offsets) or (offsets and offsets[-1] > size):
        raise ValueError("the parts of the input do not fit")
    if len(digests) != (len(offsets) + 1 if offsets else 0) or not all(map(is_digest, digests)):
        raise ValueError("the parts of the input have no valid digests")
    return Input(digest=digest, size=size, offsets=offsets, digests=digests)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise TypeError(f"{value!r:.40} is not a number in range")
    return value


def _optional_number(value: object) -> int | None:
    return None if value is None else _number(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is neither true nor false")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is not a list")
    return value


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(item) for item in _list(value))


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} is not an object")
    return value
