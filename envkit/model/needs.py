"""Owns what an environment needs of a node beyond its architecture: instructions of the CPU, and a family of MPI."""

import re
from collections.abc import Collection, Iterable

from envkit.model.record import Record

MAX_FLAGS = 64
_WORD = re.compile(r"[a-z0-9_.]{1,32}")


class Needs(Record):
    """CPU flags as in /proc/cpuinfo that programs were compiled for, a file that shows it, and families of MPI.

    `cpu_file` is for people (see `model.tree.display_path`); programs that choose at run time need nothing.
    """

    cpu: tuple[str, ...] = ()
    cpu_file: str = ""
    mpi: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for words in (self.cpu, self.mpi):
            if len(words) > MAX_FLAGS or not all(_WORD.fullmatch(word) for word in words):
                raise ValueError("what an environment needs is no list of names")

    def lacking(self, flags: Collection[str]) -> tuple[str, ...]:
        """Return the flags that a CPU with some flags does not have."""
        return tuple(flag for flag in self.cpu if flag not in flags)


NOTHING = Needs()


def together(several: Iterable[Needs]) -> Needs:
    """Return what layers on one another need; the file is that of the first that needs anything of the CPU."""
    found = list(several)
    cpu = sorted({flag for needs in found for flag in needs.cpu})
    return Needs(
        cpu=tuple(cpu)[:MAX_FLAGS],
        cpu_file=next((needs.cpu_file for needs in found if needs.cpu), ""),
        mpi=tuple(sorted({family for needs in found for family in needs.mpi}))[:MAX_FLAGS],
    )


def needs_to_json(needs: Needs) -> dict[str, object]:
    """Return the form in which records hold it."""
    return {"cpu": list(needs.cpu), "cpu_file": needs.cpu_file, "mpi": list(needs.mpi)}


def needs_from_json(value: object) -> Needs:
    """Read what `needs_to_json` made; None is nothing.

    :raises ValueError: it is something else.
    """
    if value is None:
        return NOTHING
    if not isinstance(value, dict) or not isinstance(value.get("cpu_file"), str):
        raise ValueError("what the environment needs is malformed")
    lists = []
    for name in ("cpu", "mpi"):
        words = value.get(name)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("what the environment needs is malformed")
        lists.append(tuple(words))
    return Needs(cpu=lists[0], cpu_file=value["cpu_file"][:4096], mpi=lists[1])
