"""Owns the section of `cold_start`: tables, gates, and where downloading everything first wins."""

import datetime
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import report
from cold_contestants import Contestant
from cold_envkit import version
from cold_measure import Sample, ServerGroup
from cold_workloads import DOWNLOADS, Workload
from contestants import run

_MB = 1_000_000
_PHASES = {"learning": "first of all: it is recorded", "again": "again, page cache empty", "warm": "once more"}
_PACKAGES = ("podman", "docker-registry", "casync", "rclone", "s3fs", "lxc", "curl", "zstd", "runc")


@dataclass(frozen=True)
class Setting:
    """What a run was done over and with: link, what was measured of it, rounds, loads, its processor seconds a GB."""

    link: str
    checked: str
    rounds: int
    loads: Sequence[float]
    relay: float


@dataclass
class Results:
    """All starts by workload, contestant and phase (learning, cold, again, warm), and why others failed."""

    samples: dict[tuple[str, str, str], list[Sample]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    servers: ServerGroup = field(default_factory=ServerGroup)

    def add(self, workload: Workload, contestant: str, phase: str, sample: Sample) -> None:
        self.samples.setdefault((workload.name, contestant, phase), []).append(sample)
        print_progress(f"{workload.name}, {contestant}, {phase}: {sample}")

    def failed(self, workload: Workload, contestant: str, reason: str) -> None:
        self.failures.append(f"{workload.name}, {contestant}: {reason}")
        print_progress(f"failed: {self.failures[-1]}")

    def median(self, workload: str, contestant: str, phase: str, value: Callable[[Sample], float]) -> float | None:
        """Return the median of something, or None where nothing was measured."""
        samples = self.samples.get((workload, contestant, phase))
        return statistics.median(value(sample) for sample in samples) if samples else None

    def seconds(self, workload: str, contestant: str, phase: str = "cold") -> float | None:
        return self.median(workload, contestant, phase, lambda sample: sample.seconds)


def print_progress(text: str) -> None:
    import sys

    print(text, file=sys.stderr, flush=True)


def section(
    results: Results, setting: Setting, contestants: Mapping[str, Contestant], workloads: Sequence[Workload]
) -> str:
    """Return the section."""
    parts = [_head(setting), _explained(contestants), *results.notes]
    if found := gates(results):
        parts.append(report.table(("gate", "measured", ""), found))
    for workload in workloads:
        if rows := _rows(results, workload):
            header = (
                "",
                "first output",
                "ready (range)",
                "MB",
                "requests",
                "connections",
                "CPU",
                "servers' CPU",
                "page cache",
            )
            parts.append(f"### {workload.title[0].upper()}{workload.title[1:]}\n\n{report.table(header, rows)}")
    if text := _where_eager_wins(results, workloads):
        parts.append(text)
    if results.failures:
        parts.append("Failed:\n\n" + "\n".join(f"- {text}" for text in results.failures))
    return "\n\n".join(parts)


def _head(setting: Setting) -> str:
    argument = "" if setting.link == "s3" else f" --link {setting.link}"
    versions = run("dpkg-query", "-W", "-f", "${Package} ${Version}, ", *_PACKAGES).strip(", ")
    loads = " and ".join(f"{load:.1f}" for load in setting.loads)
    return (
        f"`benchmarks/cold_start{argument}`, {datetime.date.today()}, {setting.rounds} rounds; {report.machine()}; load"
        f" {loads} at the start and end. Link {setting.checked}; the emulation takes"
        f" {setting.relay:.1f} s of a processor for each GB. {version()}, {versions}."
    )


def _explained(contestants: Mapping[str, Contestant]) -> str:
    names = "\n".join(f"- *{name}*: {contestant.title}" for name, contestant in contestants.items())
    return (
        "All start commands in the same tree, Debian 12 with numpy, scipy, pandas, scikit-learn and gcc, on a new node:"
        " nothing is in its directory, in the page cache or connected. Servers and node share the processors of one"
        " machine; the S3 server is Swift, and what it takes of them (*servers' CPU*) a cloud would not take from the"
        " node."
        " *Ready* is the end of the command, *CPU* that of all the contestant's processes, *page cache* by how much it"
        " grew at most, servers left out. rclone and s3fs show one EROFS image that lies in the bucket, since links,"
        f" owners and modes do not fit into objects.\n\n{names}"
    )


def _rows(results: Results, workload: Workload) -> list[tuple[str, ...]]:
    rows = []
    for phase in ("cold", "learning", "again", "warm"):
        for (name, contestant, of), samples in results.samples.items():
            if (name, of) != (workload.name, phase):
                continue
            title = f"{contestant}, {_PHASES[phase]}" if phase in _PHASES else f"**{contestant}**"
            rows.append((title, *_figures(samples)))
    return rows


def _figures(samples: Sequence[Sample]) -> tuple[str, ...]:
    def median(value: Callable[[Sample], float]) -> float:
        return statistics.median(value(sample) for sample in samples)

    seconds = [sample.seconds for sample in samples]
    return (
        f"{median(lambda sample: sample.first):.2f} s" if samples[0].output else "",
        f"{median(lambda sample: sample.seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f}, {len(seconds)})",
        f"{median(lambda sample: sample.wire) / _MB:.1f}",
        f"{median(lambda sample: sample.requests):.0f}",
        f"{median(lambda sample: sample.connections):.0f}",
        f"{median(lambda sample: sample.processor):.2f} s",
        f"{median(lambda sample: sample.served):.2f} s",
        f"{median(lambda sample: sample.cached) / _MB:.0f} MB",
    )


Gate = tuple[str, str, str]


def gates(results: Results) -> list[Gate]:
    """Return what is to be reached, what was, and whether that is enough; only what could be measured."""
    found: list[Gate] = []

    def gate(text: str, measured: float | None, limit: float, unit: str = "x") -> None:
        if measured is not None:
            reached = measured <= limit
            found.append((text, f"{measured:.2f} {unit}", "reached" if reached else "**missed**"))

    seconds, own = results.seconds, "start pack"
    gate(
        "warm `true`: at most 0.5 x podman",
        _ratio(seconds("true", own, "warm"), seconds("true", "podman", "warm")),
        0.5,
    )
    gate("cold `true`: at most 0.15 s", seconds("true", own), 0.15, "s")
    gate("cold numpy: at most 0.45 s", seconds("numpy", own), 0.45, "s")
    moved = results.median("numpy", own, "cold", lambda sample: sample.wire / _MB)
    gate("cold numpy: at most 10 MB on the wire", moved, 10, "MB")
    gate("cold gcc: at most 0.30 s", seconds("gcc", own), 0.30, "s")
    pandas = _ratio(seconds("pandas", own), seconds("pandas", "local", "warm"))
    gate("cold pandas: at most 1.25 x a warm local directory", pandas, 1.25)
    for name in ("true", "numpy", "gcc", "pandas"):
        text = f"cold {name}: at most 0.1 x podman pull and run"
        gate(text, _ratio(seconds(name, own), seconds(name, "podman")), 0.1)
    for name, text in (("tar", "everything is read"), ("weights", "a large file is read")):
        downloads = [value for value in (seconds(name, other) for other in DOWNLOADS) if value is not None]
        best = min(downloads, default=None)
        gate(f"cold, {text}: at most 1.1 x the best download", _ratio(seconds(name, own), best), 1.1)
    for other in (own, "eager"):
        held = "partly" if other == own else "completely"
        for phase, limit, state in (("warm", 1.03, "warm"), ("again", 1.15, "page cache empty")):
            ratio = _ratio(seconds("pandas", other, phase), seconds("pandas", "local", phase))
            gate(f"pandas, {held} on the node, {state}: at most {limit} x a local directory", ratio, limit)
    read = results.median("weights", "no start pack", "cold", lambda sample: sample.cached / _weights_bytes())
    gate("page cache, a large file is read: at most 1.2 x its bytes", read, 1.2)
    gate("eight numpy at once: at most 1.5 x one", _ratio(seconds("eight", own), seconds("numpy", own)), 1.5)
    eight = results.median("eight", own, "cold", lambda sample: sample.wire / _MB)
    gate("eight numpy at once: at most 1.05 x the bytes of one", _ratio(eight, moved), 1.05)
    return found


def _weights_bytes() -> int:
    from cold_material import WEIGHTS_BYTES

    return WEIGHTS_BYTES


def _ratio(value: float | None, to: float | None) -> float | None:
    return None if value is None or not to else value / to


def _where_eager_wins(results: Results, workloads: Sequence[Workload]) -> str:
    """Say which commands are ready sooner where everything is downloaded first."""
    found, compared = [], False
    for workload in workloads:
        own = results.seconds(workload.name, "start pack")
        for other in (*DOWNLOADS, "casync", "eager"):
            seconds = results.seconds(workload.name, other)
            if own is not None and seconds is not None:
                compared = True
                if seconds < own:
                    found.append(f"{workload.title} ({other}: {seconds:.2f} s, on demand {own:.2f} s)")
    if not found:
        return "Downloading everything before the start won nowhere." if compared else ""
    return f"Downloading everything before the start wins for {'; '.join(found)}."
