"""Owns what `cold_start` starts, and in which contestants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cold_material import WEIGHTS_BYTES

OWN = ("start pack", "no start pack", "eager")
MOUNTS = ("rclone", "s3fs")
DOWNLOADS = ("podman", "tar", "image")


@dataclass(frozen=True)
class Workload:
    """A command in a tree, who runs it, and how its output is compared: what it counts, and how far that may differ.

    `again`: each start is followed by one with an empty page cache and one more, on the same node. `at_once` starts
    run at the same time. `base`: a start of this command in the science tree goes before, on the same node. `learned`:
    there is a start pack of this command.
    """

    name: str
    title: str
    command: Sequence[str]
    contestants: Sequence[str]
    tree: str = "science"
    counts: Callable[[bytes], float] | None = None
    tolerance: float = 0.0
    again: bool = False
    at_once: int = 1
    base: Sequence[str] = ()
    learned: bool = False

    def phases(self, contestant: str) -> list[str]:
        """Return the starts on one node, in order; only cold, again and warm are results."""
        more = ["again", "warm"] if self.again and contestant not in (*MOUNTS, "wrong pack") else []
        return [*(["base"] if self.base else []), "cold", *more]

    def agrees(self, output: bytes, expected: bytes) -> bool:
        """Tell whether an output is right, given another contestant's."""
        if self.counts is None:
            return output == expected
        return abs(self.counts(output) - self.counts(expected)) <= self.tolerance * self.counts(expected)


_ALL = ("local", *OWN, *DOWNLOADS, *MOUNTS)
_NUMPY = ("python3", "/opt/bench/numpy_sum.py")
HELLO = ("sh", "/opt/bench/hello.sh")

WORKLOADS = (
    Workload("true", "`true`", ("true",), (*_ALL, "casync"), again=True, learned=True),
    Workload(
        "python", "`python3`, an empty script", ("python3", "/opt/bench/nothing.py"), ("local", *OWN[:2]), learned=True
    ),
    Workload("numpy", "`import numpy`", _NUMPY, (*_ALL, "wrong pack"), again=True, learned=True),
    Workload(
        "pandas",
        "a regression with pandas and scikit-learn",
        ("python3", "/opt/bench/regression.py"),
        ("local", *OWN, "wrong pack", *DOWNLOADS),
        again=True,
        learned=True,
    ),
    Workload(
        "gcc",
        "a C program of one line is compiled by gcc and run",
        HELLO,
        ("local", *OWN, *DOWNLOADS),
        learned=True,
    ),
    Workload(
        "find",
        "`find / -xdev`",
        ("find", "/", "-xdev"),
        ("local", *OWN[:2], "rclone"),
        counts=lambda output: output.count(b"\n"),
        tolerance=0.02,
    ),
    Workload(
        "tar",
        "`tar -c / | wc -c`: everything is read",
        ("sh", "/opt/bench/everything.sh"),
        ("local", *OWN, *DOWNLOADS),
        counts=float,
        tolerance=0.02,
        again=True,
    ),
    Workload(
        "weights",
        f"a file of {WEIGHTS_BYTES // 1_000_000} MB of noise is read",
        ("sh", "-c", "cat /data/weights | wc -c"),
        ("local", *OWN, *DOWNLOADS, *MOUNTS),
        tree="weights",
        counts=float,
    ),
    Workload("eight", "`import numpy`, eight starts at once", _NUMPY, ("local", *OWN[:2]), at_once=8),
    Workload(
        "sibling",
        "`import numpy` in an environment whose base has run here, which adds 4 MB that it reads",
        ("python3", "/opt/bench/sibling.py"),
        (*OWN[:2], "podman"),
        tree="sibling",
        base=_NUMPY,
        learned=True,
    ),
)
