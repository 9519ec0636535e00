"""Owns the command lines of Slurm's programs, and reading what they print.

Names, comments and reasons are whatever somebody has put there, line breaks included. So what squeue(1) prints is
parted by a word that nobody can know before, and of scontrol(1) only fields that hold no blanks are read. All options
and fields are those that Slurm 22.05 and 24.11 have in common.

Where the head is down, each of these programs tries for MessageTimeout (10 seconds by default) before it says so.
"""

import os
import pwd
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from envkit.drivers import process
from envkit.drivers.caller import Caller, groups_of
from envkit.drivers.errors import ProgramTimedOut
from envkit.errors import EnvkitError
from envkit.model.order import Resources
from envkit.model.record import Record
from envkit.model.task import NodeFacts

PATIENCE = 30.0
"""Seconds after which a program of Slurm is taken to hang."""
_MIB = 1 << 20
_AT_ONCE = 500  # jobs in one command line
_PASSED = ("SLURM_CONF",)
_SILENT = (
    "unable to contact",
    "timed out",
    "connection refused",
    "zero bytes were transmitted",
    "standby mode",
    "communication",
)
_PREFIX = re.compile(r"^(?:sbatch|squeue|scontrol|scancel|srun): (?:error: |fatal: )?")
_FAILED = re.compile(r"^(?:Batch job submission failed|slurm_load_[a-z_]+ error): ")
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z0-9_]*)=(\S*)")
_GPUS = re.compile(r"(?:^|,)gpu(?::[A-Za-z][^,:()]*)?(?::(\d{1,6}))?(?=[,(]|$)")
_ASKED = ("ArrayJobID", "ArrayTaskID", "JobID", "State", "Reason", "UserID", "BatchHost", "StartTime", "EndTime")
_FIELDS = (*_ASKED, "exit_code", "Comment")
_DOWN = {"DOWN", "ERROR", "FUTURE", "UNKNOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "NOT_RESPONDING"}


class SlurmSilent(EnvkitError):
    """The head does not answer, or not in time; what it was asked to do it may have done or not."""

    def __init__(self, program: str, reason: str) -> None:
        super().__init__(f"{program}: {reason}")
        self.reason = reason


class SlurmRefused(EnvkitError):
    """Slurm, or one of its programs, does not do what it was told; `reason` is its own word for it."""

    def __init__(self, program: str, reason: str, details: str | None = None) -> None:
        super().__init__(f"{program}: {reason}", details=details)
        self.reason = reason


class ClusterFacts(Record):
    """What a cluster is called, and how many tasks an array of it has at most."""

    name: str
    max_array: int


class JobRow(Record):
    """A job, or tasks of an array that are in the same state, as squeue prints it.

    `job` is the number by which people know it, `raw` the one that each started task has of its own; `indexes` are
    Slurm's words for the tasks, see `expanded`. Times are seconds since 1970, 0 where there is none; of what has not
    begun or ended they are guesses. `code` is as wait(2) has it.
    """

    job: int
    indexes: str
    raw: int
    state: str
    reason: str
    uid: int
    node: str
    began: float
    ended: float
    code: int
    comment: str


def user(uid: int, gid: int | None = None) -> Caller:
    """Return a user by number, also one that this machine does not know.

    :param gid: the group, if it is not the one of the user database.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Caller(uid=uid, gid=uid if gid is None else gid, name="", home="/")
    return Caller(uid=uid, gid=entry.pw_gid if gid is None else gid, name=entry.pw_name, home=entry.pw_dir)


def number_of(name: str) -> int | None:
    """Return a user's number by name, None where this machine does not know it."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def cluster() -> ClusterFacts:
    """Return what `scontrol show config` says of the cluster."""
    return parse_config(_ask(["scontrol", "show", "config"]))


def parse_config(text: str) -> ClusterFacts:
    """Read what `scontrol show config` prints."""
    found = dict(re.findall(r"^(\w+)\s*= (.*)$", text, re.MULTILINE))
    try:
        return ClusterFacts(name=found["ClusterName"].strip(), max_array=int(found["MaxArraySize"]))
    except (KeyError, ValueError) as error:
        raise SlurmRefused("scontrol", "its configuration has no ClusterName or MaxArraySize") from error


def job_options(
    *,
    name: str,
    comment: str,
    count: int | None,
    resources: Resources,
    depends_on: Sequence[int],
    requeue: bool,
    directory: str,
) -> list[str]:
    """Return the options of sbatch(1) for a job; of one that is there twice the last counts."""
    options = ["--output=/dev/null", *resources.extra, "--parsable", f"--job-name={name}", f"--comment={comment}"]
    options += [f"--chdir={directory}", "--kill-on-invalid-dep=yes", "--requeue" if requeue else "--no-requeue"]
    if count is not None:
        options.append(f"--array=0-{count - 1}" + (f"%{resources.at_once}" if resources.at_once else ""))
    if depends_on:
        options.append(f"--dependency=afterok:{':'.join(map(str, depends_on))}")
    for option, value in (
        ("ntasks", resources.tasks if resources.tasks > 1 else None),  # there may be an --ntasks-per-node
        ("nodes", resources.nodes),
        ("cpus-per-task", resources.cpus),
        ("mem", None if resources.memory is None else f"{max(1, -(-resources.memory // _MIB))}M"),
        ("gpus-per-node", resources.gpus or None),
        ("time", None if resources.time is None else f"{resources.time // 60}:{resources.time % 60:02}"),
        ("partition", resources.partition),
        ("priority", resources.priority or None),  # 0 would hold the job
    ):
        if value is not None:
            options.append(f"--{option}={value}")
    return options


def submit(options: Sequence[str], script: str, submitter: Caller) -> int:
    """Call sbatch(1) as a user, with a script on its standard input; return the job's number.

    The job gets none of this process's variables. Where the answer is lost the job may be there.
    """
    home = {"HOME": submitter.home or "/"}
    names = {"USER": submitter.name, "LOGNAME": submitter.name} if submitter.name else {}
    text = _ask(
        ["sbatch", *options],
        env=home | names,
        input=script.encode(),
        preexec=_becoming(submitter, groups_of(submitter)),
    )
    for line in reversed(text.splitlines()):  # a site's plugins may talk before
        if match := re.fullmatch(r"(\d{1,10})(?:;.*)?", line.strip()):
            return int(match[1])
    raise SlurmRefused("sbatch", f"it printed {text!r:.80} in place of a job's number")


def jobs(numbers: Iterable[int] | None = None) -> list[JobRow]:
    """Return jobs as Slurm remembers them: all, or some."""
    named = set() if numbers is None else set(numbers)
    mark = f"|{secrets.token_hex(8)}|"
    argv = ["squeue", "--noheader", "--all", "--states=all"]
    argv.append("--Format=" + ",".join(f"{field}:{mark}" for field in _FIELDS))
    if named and len(named) <= _AT_ONCE:
        argv.append(f"--jobs={','.join(map(str, sorted(named)))}")
    # Times since 1970; indexes of tasks in full; those that wait again are told one by one.
    settings = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "SQUEUE_ARRAY_UNIQUE": "1"}
    try:
        text = _ask(argv, env=settings)
    except SlurmRefused as error:
        if "invalid job id" in error.reason.lower():  # it was asked for a single one
            return []
        raise
    rows = parse_jobs(text, mark)
    return rows if numbers is None else [row for row in rows if row.job in named]


def parse_jobs(text: str, mark: str) -> list[JobRow]:
    """Read what squeue prints with a mark after each field."""
    parts = text.split(mark)
    if parts.pop().strip() or len(parts) % len(_FIELDS):
        raise SlurmRefused("squeue", "what it prints cannot be read")
    return [_row(parts[place : place + len(_FIELDS)]) for place in range(0, len(parts), len(_FIELDS))]


def expanded(indexes: str) -> tuple[int, ...] | None:
    """Return the tasks that Slurm's words mean, as `4-99%10` or `0,3,5-9:2`; None for a job that is no array."""
    if indexes in ("", "N/A"):
        return None
    found: list[int] = []
    for part in indexes.partition("%")[0].strip("[]").split(","):
        match = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?", part.strip())
        if match is None:
            raise SlurmRefused("squeue", f"it calls the tasks of an array {indexes!r:.80}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1, max(1, int(match[3] or 1)))
    return tuple(found)


def part(names: Sequence[str]) -> None:
    """Give tasks of an array that wait records of their own; of others Slurm keeps nothing when they are cancelled."""
    for place in range(0, len(names), _AT_ONCE):
        with suppress(SlurmRefused):  # some have begun meanwhile
            _ask(["scontrol", "hold", ",".join(names[place : place + _AT_ONCE])])


def cancel(names: Sequence[str]) -> None:
    """Call scancel(1) for jobs and tasks; some may have ended meanwhile."""
    for place in range(0, len(names), _AT_ONCE):
        try:
            _ask(["scancel", "--quiet", *names[place : place + _AT_ONCE]])
        except SlurmRefused as error:
            if not re.search("invalid job id|already complet", error.reason, re.IGNORECASE):
                raise


def nodes() -> list[NodeFacts]:
    """Return the nodes of the cluster; of one that is switched off until it is needed only name and partitions."""
    known = parse_nodes(_ask(["scontrol", "--oneliner", "show", "node"]))
    partitions = parse_partitions(_ask(["scontrol", "--oneliner", "--all", "show", "partition"]))
    hidden: dict[str, list[str]] = {}
    for partition, (names, total) in partitions.items():
        if total > sum(partition in node.partitions for node in known):
            for name in _ask(["scontrol", "show", "hostnames", names]).split():
                hidden.setdefault(name, []).append(partition)
    seen = {node.name for node in known}
    more = [NodeFacts(name=name, partitions=tuple(among)) for name, among in hidden.items() if name not in seen]
    return [*known, *more]


def parse_nodes(text: str) -> list[NodeFacts]:
    """Read what `scontrol -o show node` prints."""
    found = []
    for line in text.splitlines():
        fields = _fields(line)
        if "NodeName" not in fields:
            continue
        state = set(re.split(r"\+", fields.get("State", "UNKNOWN").replace("*", "+NOT_RESPONDING")))
        features = fields.get("ActiveFeatures", "")
        partitions = fields.get("Partitions", "")
        found.append(
            NodeFacts(
                name=fields["NodeName"],
                arch=fields.get("Arch", ""),
                features=tuple(filter(None, features.split(","))) if features != "(null)" else (),
                cpus=_number(fields.get("CPUTot")),
                memory=_number(fields.get("RealMemory")) * _MIB,
                gpus=sum(int(count or 1) for count in _GPUS.findall(fields.get("Gres", ""))),
                partitions=tuple(filter(None, partitions.split(","))),
                up=not state & _DOWN,
            )
        )
    return found


def parse_partitions(text: str) -> dict[str, tuple[str, int]]:
    """Read what `scontrol -o show partition` prints: Slurm's words for the nodes of each, and how many they are."""
    lines = [_fields(line) for line in text.splitlines()]
    return {
        fields["PartitionName"]: (fields.get("Nodes", ""), _number(fields.get("TotalNodes")))
        for fields in lines
        if fields.get("PartitionName")
    }


def step_argv(row: JobRow, owner: Caller, argv: Sequence[str], *, terminal: bool) -> list[str]:
    """Return the command that runs another one beside a task, on its node, as its owner: Slurm lets nobody else."""
    variables = {name: os.environ[name] for name in ("TERM", *_PASSED) if name in os.environ}
    words = [process.require_program("env"), "-i", f"PATH={process.SYSTEM_PATH}"]
    words += [f"{name}={value}" for name, value in variables.items()]
    if os.geteuid() != owner.uid:
        groups = ",".join(map(str, groups_of(owner)))
        words += ["setpriv", f"--reuid={owner.uid}", f"--regid={owner.gid}", f"--groups={groups}", "--"]
    words += ["srun", f"--jobid={row.raw}", "--overlap", f"--nodelist={row.node}", "--nodes=1", "--ntasks=1"]
    words += ["--quiet", "--mpi=none", "--chdir=/", "--export=TERM", *(["--pty"] if terminal else [])]
    return [*words, "--", *argv]


def _ask(
    argv: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    input: bytes | None = None,
    preexec: Callable[[], None] | None = None,
) -> str:
    """Run one of Slurm's programs; return what it printed.

    :raises SlurmSilent: the head does not answer.
    :raises SlurmRefused: it failed for another reason.
    """
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    try:
        result = process.run(
            argv, env=passed | (env or {}), input=input, timeout=PATIENCE, check=False, preexec=preexec
        )
    except ProgramTimedOut as error:
        raise SlurmSilent(argv[0], f"no answer within {PATIENCE:g} s") from error
    if result.code == 0:
        return result.stdout.decode("utf-8", "replace")
    reason, details = reason_of(result.stderr.decode("utf-8", "replace"))
    if any(words in reason.lower() for words in _SILENT):
        raise SlurmSilent(argv[0], reason)
    raise SlurmRefused(argv[0], reason or f"exit code {result.code}", details)


def reason_of(errors: str) -> tuple[str, str | None]:
    """Return why a program of Slurm failed, the last thing that it said, and what else it said."""
    lines = [_PREFIX.sub("", line.strip()) for line in errors.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Try ")]
    if not lines:
        return "", None
    return _FAILED.sub("", lines[-1])[:300], "\n".join(line[:300] for line in lines[:-1][-5:]) or None


def _becoming(caller: Caller, groups: list[int]) -> Callable[[], None]:
    """Return what makes a child this user, in a directory where everybody may be."""

    def become() -> None:
        os.chdir("/")
        if os.geteuid() != caller.uid:
            os.setgroups(groups)
            os.setresgid(caller.gid, caller.gid, caller.gid)
            os.setresuid(caller.uid, caller.uid, caller.uid)

    return become


def _row(parts: Sequence[str]) -> JobRow:
    job, indexes, raw, state, reason, uid, node, began, ended, code = (part.strip() for part in parts[:-1])
    try:
        return JobRow(
            job=int(job),
            indexes=indexes,
            raw=int(raw),
            state=state,
            reason=reason,
            uid=int(uid),
            node="" if node == "n/a" else node,
            began=_moment(began),
            ended=_moment(ended),
            code=int(code) if code.isdigit() else 0,
            comment=parts[-1],
        )
    except ValueError as error:
        raise SlurmRefused("squeue", "what it prints cannot be read") from error


def _moment(text: str) -> float:
    """Return a time in seconds since 1970; 0 where Slurm has a word for it, as N/A."""
    if text.isdigit():
        return float(text)
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return 0.0


def _fields(line: str) -> dict[str, str]:
    """Return the fields of a line of scontrol; the first one counts of those that are there twice."""
    found: dict[str, str] = {}
    for name, value in _FIELD.findall(line):
        found.setdefault(name, value)
    return found


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0
