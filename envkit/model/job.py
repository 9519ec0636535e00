"""Owns what a user asks for when running a command in an environment."""

from collections.abc import Mapping

from envkit.errors import InvalidInput
from envkit.model.record import Record

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Volume(Record):
    """A directory or file of the host, to be seen in the container."""

    source: str
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> "Volume":
        """Read `SRC[:DST[:ro|rw]]`; DST defaults to SRC. Whether SRC exists is not looked at.

        :raises InvalidInput: the text does not have that form.
        """
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        target = target or source
        if not source or mode not in ("", "ro", "rw"):
            raise InvalidInput(f"invalid volume {text!r}", resolution="use SRC:DST or SRC:DST:ro")
        if not target.startswith("/") or target.strip("/") == "" or ".." in target.split("/"):
            raise InvalidInput(
                f"invalid volume {text!r}", resolution="the place in the container must be absolute, and not / itself"
            )
        return cls(source=source, target=target, read_only=mode == "ro")


class Job(Record):
    """One command in an environment. `memory` in bytes, `timeout` in seconds; None means no limit.

    `directory` None is the user's home; `as_root` runs as the container's root rather than as the invoking user.
    `start_pack`: one may be used and made; `trace`: one is made in any case, and waited for.
    `gpus` are "all" or names as in `0,1`, as this machine's CDI files know them; `devices` are paths below /dev.
    `fetch` is "eager" or "offline" (see `config/model.py`), or "" for what the node's configuration says.
    """

    environment: str
    command: tuple[str, ...]
    volumes: tuple[Volume, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    directory: str | None = None
    net: str | None = None
    cpus: int | None = None
    memory: int | None = None
    timeout: float | None = None
    as_root: bool = False
    start_pack: bool = True
    trace: bool = False
    gpus: str | None = None
    devices: tuple[str, ...] = ()
    fetch: str = ""


class Outcome(Record):
    """What became of a job: its exit code, and what its environment has cost; empty where all of it was here."""

    code: int
    cost: dict[str, object] = {}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `512M` or `4G` (powers of 1024).

    :raises InvalidInput: it is no size, or not above zero.
    """
    cleaned = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = cleaned[-1:] if cleaned[-1:] in _UNITS else ""
    digits = cleaned.removesuffix(unit) if unit else cleaned
    if not (digits.isascii() and digits.isdigit()) or int(digits) == 0:
        raise InvalidInput(f"invalid size {text!r}", resolution="use a number with K, M, G or T, as in 4G")
    return int(digits) * _UNITS[unit]


def parse_variable(text: str, inherited: Mapping[str, str]) -> tuple[str, str]:
    """Read `NAME=VALUE`, or `NAME` for the value that it has in `inherited`.

    :raises InvalidInput: there is no name, or the variable is not set.
    """
    name, equals, value = text.partition("=")
    if not name:
        raise InvalidInput(f"invalid variable {text!r}", resolution="use NAME=VALUE")
    if equals:
        return name, value
    if name not in inherited:
        raise InvalidInput(f"the variable {name} is not set", resolution=f"use --env {name}=VALUE")
    return name, inherited[name]
