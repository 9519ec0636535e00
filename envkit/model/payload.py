"""Owns the form of a payload: the file that the Python API hands to `envkit submit --call`, and what a task gets of it.

Its parts lie one after the other, first what all tasks share, the function, then one part for every task, its
arguments. An index follows, as JSON, and 16 bytes that say how long that is. Lengths are known only at the end, so a
payload can be written as a stream, and a store keeps its parts alone. What the parts hold is the client's affair:
`FUNCTION` is a program that Python runs, see `client/payload.py`.
"""

import json
import struct

from envkit.errors import InvalidInput
from envkit.model.jobid import MAX_TASKS
from envkit.model.record import Record

FORMAT = 1
MAX_PART = 4 << 30
MAX_INDEX = 4 << 20
TAIL = struct.Struct(">Q8s")
PLACE = "/run/envkit"
"""Where a task finds `call/` and leaves its value, which it writes beside itself and renames."""
CALL = "call"
FUNCTION = "function"
ARGUMENTS = "arguments"
VALUE = "value"
_MAGIC = b"envkitPY"
_MAX_NAME = 200


class Index(Record):
    """What a payload says of itself: the client's Python, what to call it in lists, and the lengths of its parts.

    `interpreter` is the Python of the environment that has to run it, None for its usual one.
    """

    python: tuple[int, int, int]
    name: str
    interpreter: str | None
    parts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 < len(self.parts) <= MAX_TASKS + 1:
            raise InvalidInput(f"a call has 1 to {MAX_TASKS:,} tasks, not {len(self.parts) - 1:,}")
        if max(self.parts) > MAX_PART:
            raise InvalidInput(
                "a function or the arguments of a task are larger than 4 GiB",
                resolution="put the data into files, and hand over their names",
            )


def index_to_bytes(index: Index) -> bytes:
    """Return what follows the parts of a payload."""
    document = {name: getattr(index, name) for name in Index._fields}
    data = json.dumps({"format": FORMAT, **document}, sort_keys=True).encode()
    return data + TAIL.pack(len(data), _MAGIC)


def index_size(tail: bytes) -> int:
    """Return how many bytes the index has, from the last bytes of a payload.

    :raises InvalidInput: they are no such bytes.
    """
    size, magic = TAIL.unpack(tail) if len(tail) == TAIL.size else (0, b"")
    if magic != _MAGIC or size > MAX_INDEX:
        raise InvalidInput("this file is no call of a Python function", resolution="use envkit.call or envkit.map")
    return int(size)


def index_from_bytes(data: bytes) -> Index:
    """Read an index.

    :raises InvalidInput: it is none, or one of a newer format.
    """
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            raise TypeError("no object")
        if document.get("format") != FORMAT:
            raise InvalidInput(
                f"the call has format {document.get('format')!r:.20}, this envkit reads format {FORMAT}",
                resolution="use the same version of envkit in your Python and on this machine",
            )
        python, interpreter = document["python"], document["interpreter"]
        if not isinstance(python, list) or len(python) != 3:
            raise TypeError("no version of Python")
        if interpreter is not None and not isinstance(interpreter, str):
            raise TypeError("no path of an interpreter")
        name = document["name"]
        if not isinstance(name, str) or not name.isprintable() or len(name) > _MAX_NAME:
            raise TypeError("no name")
        major, minor, micro = (_number(item) for item in python)
        parts = document["parts"]
        if not isinstance(parts, list):
            raise TypeError("no parts")
        return Index(python=(major, minor, micro), name=name, interpreter=interpreter, parts=tuple(map(_number, parts)))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidInput("the index of the call cannot be read", details=str(error)) from error


def shown_name(text: str) -> str:
    """Return a name as it can stand in an index."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_MAX_NAME]


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise TypeError(f"{value!r:.40} is no number in range")
    return value
