"""Owns the options of `envkit run` and the global ones, as data.

Two readers share them: `cli/argv.py`, which reads a plain command line without importing click (60 ms, as much as all
the rest of a warm run), and click itself for everything else: help, completion, errors.
"""

from envkit.model.record import Record


class Option(Record):
    """One option: its flags, the key of its value, and how often it may be given.

    `metavar` None makes it a switch.
    """

    flags: tuple[str, ...]
    key: str
    help: str
    metavar: str | None = None
    multiple: bool = False
    required: bool = False


GLOBAL = (
    Option(flags=("--root",), key="root", metavar="DIR", help="Where envkit keeps state on this machine."),
    Option(flags=("--store",), key="store", metavar="URL", help="The store: a directory or URL."),
    Option(flags=("--endpoint",), key="endpoint", metavar="URL", help="The S3 server of the store."),
    Option(flags=("--region",), key="region", metavar="NAME", help="The region of the store's bucket."),
    Option(flags=("--aws-profile",), key="aws_profile", metavar="NAME", help="Which profile of AWS has the keys."),
    Option(flags=("--profile",), key="profile", metavar="NAME", help="Which profile of the configuration to use."),
    Option(flags=("--owner",), key="owner", metavar="NAME", help="Whose environments names without an owner mean."),
)

JOB = (
    Option(flags=("-e", "--env-name"), key="environment", metavar="ENV[@V]", required=True, help="The environment."),
    Option(
        flags=("-v", "--volume"),
        key="volumes",
        metavar="SRC[:DST[:ro]]",
        multiple=True,
        help="Bind a directory or file of this machine; DST defaults to SRC.",
    ),
    Option(
        flags=("--env",),
        key="variables",
        metavar="NAME[=VALUE]",
        multiple=True,
        help="Set a variable; without a value, pass on this shell's.",
    ),
    Option(flags=("-w", "--workdir"), key="directory", metavar="DIR", help="Where the command starts; default: home."),
    Option(
        flags=("--net",),
        key="net",
        metavar="none|nat|host",
        help="The job's network; default: none, or what the configuration says.",
    ),
    Option(flags=("-c", "--cpus"), key="cpus", metavar="N", help="At most so many CPUs."),
    Option(flags=("--memory",), key="memory", metavar="SIZE", help="At most so much memory, as in 512M or 4G."),
    Option(flags=("--gpus",), key="gpus", metavar="all|0,1", help="Give the job GPUs, by their names in CDI files."),
    Option(
        flags=("--device",),
        key="devices",
        metavar="PATH",
        multiple=True,
        help="Give the job a device node, or those of a directory, as in /dev/dri.",
    ),
    Option(flags=("--timeout",), key="timeout", metavar="SECONDS", help="End the job after so long; exit code 124."),
    Option(flags=("--user",), key="user", metavar="root", help="Run as the container's root instead of as you."),
    Option(flags=("--eager",), key="eager", help="Fetch all of the environment before it starts, not as it is read."),
    Option(flags=("--offline",), key="offline", help="Fetch nothing: run only what this node has complete."),
    Option(flags=("--no-start-pack",), key="no_start_pack", help="Neither use nor make a start pack."),
    Option(flags=("--stats",), key="stats", help="Say at the end what was fetched, and how long that was waited for."),
    Option(flags=("--json",), key="json", help="With --stats: as JSON, on standard error."),
)
