"""Owns options of sbatch(1), from a command line or from the #SBATCH lines of a script: what envkit makes of them.

Those that say the same as an option of envkit become that; those that would break how envkit submits are refused; all
others are Slurm's affair and go to it as they are.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from envkit.errors import InvalidInput
from envkit.model.job import parse_size
from envkit.model.jobid import MAX_NUMBER, MAX_TASKS
from envkit.model.record import Record

_SHORT = {
    "n": "ntasks", "N": "nodes", "c": "cpus-per-task", "t": "time", "p": "partition", "J": "job-name",
    "d": "dependency", "a": "array", "D": "chdir", "W": "wait", "M": "clusters", "V": "version", "h": "help",
}  # fmt: skip
_NUMBERS = {
    "ntasks": "tasks",
    "nodes": "nodes",
    "cpus-per-task": "cpus",
    "gpus-per-node": "gpus",
    "priority": "priority",
}
_WITH_VALUE = frozenset({*_NUMBERS, "mem", "time", "partition", "job-name", "dependency", "array", "chdir", "export"})
_FLAGS = frozenset({"requeue", "no-requeue"})
_REFUSED = {
    "wrap": "give the command behind --",
    "uid": "jobs run as you",
    "gid": "jobs run as you",
    "comment": "envkit keeps there what the job is; use --label",
    "wait": "use `envkit wait`",
    "parsable": "`envkit submit` prints the number alone anyway",
    "test-only": "leave it out",
    "clusters": "use the cluster's own head node",
    "export-file": "use --env NAME=VALUE",
    "get-user-env": "use --env NAME=VALUE",
    "version": "leave it out",
    "help": "see `man sbatch`",
    "usage": "see `man sbatch`",
}
_TIME = re.compile(r"(?:([0-9]{1,4})-)?([0-9]{1,7})(?::([0-9]{1,4}))?(?::([0-9]{1,4}))?")
_UNFIT = re.compile(r"[^A-Za-z0-9._:/-]+")


class Sbatch(Record):
    """What options say: fields of `Resources`, and the rest under envkit's words. None: nothing was said.

    `array` are the numbers of the tasks; `extra` are the options that are only Slurm's.
    """

    resources: Mapping[str, object] = {}
    label: str | None = None
    depends_on: tuple[int, ...] = ()
    requeue: bool | None = None
    array: tuple[int, ...] | None = None
    directory: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    extra: tuple[str, ...] = ()


def directives(script: bytes, name: str) -> list[str]:
    """Return the words of the #SBATCH lines of a script, which end at its first command.

    :raises InvalidInput: it is no script, or a line cannot be split.
    """
    if not script.startswith(b"#!"):
        raise InvalidInput(f"{name} does not begin with #! and an interpreter", resolution="begin it with #!/bin/sh")
    words: list[str] = []
    for number, line in enumerate(script.splitlines(), 1):
        if re.match(rb"#SBATCH(\s|$)", line):
            text = line[len(b"#SBATCH") :].decode("utf-8", "replace")
            try:
                found = shlex.split(text, comments=True)
            except ValueError as error:
                raise InvalidInput(f"{name}, line {number}: {str(error).lower()}") from error
            if found and found[0] in ("hetjob", "packjob"):
                raise InvalidInput(f"{name}, line {number}: heterogeneous jobs cannot be submitted")
            words += found
        elif line.strip() and not line.startswith(b"#"):
            break
    return words


def parse_sbatch(words: Sequence[str], where: str) -> Sbatch:
    """Read options of sbatch(1); of one that is given twice the last counts.

    :param where: names their source in messages.
    :raises InvalidInput: one has an impossible value, or is one that envkit itself needs.
    """
    found: dict[str, object] = {}
    resources: dict[str, object] = {}
    extra: list[str] = []
    for name, value, raw in _options(words, where):
        if name in _REFUSED:
            raise InvalidInput(f"{where}: {raw[0].partition('=')[0]} cannot be used", resolution=_REFUSED[name])
        try:
            taken = _take(name, value, found, resources)
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error.brief}", resolution=error.resolution) from error
        if not taken:
            extra += raw
    return Sbatch(resources=resources, extra=tuple(extra), **found)  # type: ignore[arg-type]  # see _take


def parse_array(text: str) -> tuple[tuple[int, ...], int | None]:
    """Read the numbers of an array as sbatch(1) writes them, and how many of its tasks run at once at most.

    :raises InvalidInput: it is none, or has more than 100,000 tasks.
    """
    listed, percent, most = text.partition("%")
    numbers: dict[int, None] = {}
    for part in listed.split(","):
        match = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10})(?::([0-9]{1,10}))?)?", part.strip())
        first, last, step = (int(match[1]), int(match[2] or match[1]), int(match[3] or 1)) if match else (1, 0, 1)
        if last < first or last > MAX_NUMBER or not step or (percent and not most.isdigit()):
            raise InvalidInput(
                f"invalid array {text!r:.80}", resolution="use 0-99, 1-10:2, 1,5,9, and %4 for 4 at once"
            )
        if (last - first) // step + len(numbers) >= MAX_TASKS:
            raise InvalidInput(f"the array {text!r:.80} has more than {MAX_TASKS:,} tasks")
        numbers |= dict.fromkeys(range(first, last + 1, step))
    return tuple(numbers), int(most) if percent else None


def parse_time(text: str) -> int:
    """Return the seconds of a time as sbatch(1) writes it: 90 (minutes), 1:30:00, 2-12, 2-12:30; or as in 90s, 12h, 7d.

    :raises InvalidInput: it is none.
    """
    from envkit.model.duration import parse_duration

    if text[-1:] in "smhdw" and text:
        return int(parse_duration(text))
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidInput(f"invalid time {text!r:.40}", resolution="use minutes, H:MM:SS, D-HH, or 90s, 12h, 7d")
    days, *rest = (None if part is None else int(part) for part in match.groups())
    first, second, third = rest
    if days is not None:  # days-hours[:minutes[:seconds]]
        return days * 86_400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    if third is not None:
        return (first or 0) * 3600 + (second or 0) * 60 + third
    return (first or 0) * 60 + (second or 0)


def _options(words: Sequence[str], where: str) -> Iterator[tuple[str, str | None, list[str]]]:
    """Yield each option's long name, its value, and its words as they were."""
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if len(word) < 2 or word[0] != "-" or word == "--":
            raise InvalidInput(f"{where}: {word!r:.80} is no option of sbatch", resolution="see `man sbatch`")
        raw = [word]
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            given = value if equals else None
            _refuse_short_form(name, where)
        else:
            name, given = _SHORT.get(word[1], word[1]), word[2:].removeprefix("=") or None
        follows = place < len(words) and (name in _WITH_VALUE or not words[place].startswith("-"))
        if given is None and name not in _FLAGS and follows:
            given = words[place]
            raw.append(given)
            place += 1
        if given is None and name in _WITH_VALUE:
            raise InvalidInput(f"{where}: {word} needs a value")
        yield name, given, raw


def _refuse_short_form(name: str, where: str) -> None:
    """Refuse the beginning of an option's name, which sbatch(1) would take for the option."""
    if name not in _WITH_VALUE and any(long.startswith(name) and long != name for long in (*_WITH_VALUE, *_REFUSED)):
        if name in _REFUSED or name in _FLAGS or name in ("gpus", "nice"):
            return
        raise InvalidInput(f"{where}: --{name} is not the whole name of an option", resolution="write it out")


def _take(name: str, value: str | None, found: dict[str, object], resources: dict[str, object]) -> bool:
    """Note an option that envkit has, too; False leaves it to Slurm. The keys are fields of `Sbatch`."""
    if name in _FLAGS:
        found["requeue"] = name == "requeue"
        return True
    if value is None:
        return False
    if name in _NUMBERS:
        if value.isascii() and value.isdigit():
            resources[_NUMBERS[name]] = int(value)
            return True
        return False  # a range of nodes, a kind of GPU: Slurm's to understand
    if name == "mem" and value != "0":  # 0: all that the node has
        resources["memory"] = parse_size(f"{value}M" if value.isdigit() else value)
    elif name == "time":
        resources["time"] = parse_time(value)
    elif name == "partition":
        resources["partition"] = value
    elif name == "job-name":
        found["label"] = _UNFIT.sub("-", value).strip("-._:/")[:64]
    elif name == "chdir":
        found["directory"] = value
    elif name == "array":
        found["array"], resources["at_once"] = parse_array(value)
    elif name == "export":
        found["variables"] = _variables(value)
    elif name == "dependency" and (jobs := _after_ok(value)):
        found["depends_on"] = jobs
    else:
        return False
    return True


def _variables(text: str) -> tuple[tuple[str, str], ...]:
    """Return what --export sets; which of the others it passes on means nothing to a container."""
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return tuple((name, value) for name, _, value in pairs)


def _after_ok(text: str) -> tuple[int, ...]:
    """Return the jobs of a dependency of the kind that envkit has, too; none if it is another one."""
    jobs: list[int] = []
    for part in text.split(","):
        kind, *numbers = part.split(":")
        if kind != "afterok" or not numbers or not all(number.isascii() and number.isdigit() for number in numbers):
            return ()
        jobs += map(int, numbers)
    return tuple(jobs)
