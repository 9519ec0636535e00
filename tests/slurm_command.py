"""Owns the command line of `scripts/slurm-cluster`."""

import argparse
import os
import signal
import subprocess
import sys

from slurm_cluster import Cluster, SlurmError, running_cluster
from slurm_files import USERS

_ABOUT = "A real Slurm on this machine, for tests and for trying things out: a head and nodes, in one directory."
_EXAMPLES = """\
examples:
  scripts/slurm-cluster run -- srun -N4 hostname        # a cluster for one command; as root
  scripts/slurm-cluster run --user alice -- bash        # ... or for a shell, as a user that only the cluster knows
  scripts/slurm-cluster start /var/tmp/hpc --cloud 2    # one that stays; prints how to reach it
  scripts/slurm-cluster shell /var/tmp/hpc --user alice # a login on its head
  scripts/slurm-cluster fail /var/tmp/hpc n2            # cut the power of a node
  scripts/slurm-cluster boot /var/tmp/hpc n2
  scripts/slurm-cluster stop /var/tmp/hpc               # the directory stays, with queue and logs

A cluster keeps everything in its directory, also another /etc for all of its machines. A node has its own pids, mounts,
name, /run and /tmp; envkit on it has its own root and cache below nodes/NAME/envkit, and one store, DIR/store by default. The users
alice and bob may call `sudo envkit` there. Nothing outside of the directory is written. Needs root, and the packages
that `scripts/provision --test` installs.
"""


def main(words=None):
    """Do what the command line says; return the exit code."""
    words = sys.argv[1:] if words is None else words
    end = words.index("--") if "--" in words else len(words)
    arguments = _parser().parse_args(words[:end])
    if words[end + 1 :] and "user" not in arguments:
        raise SystemExit("error: this takes no command")
    arguments.words = words[end + 1 :]
    # As for any server: what is ended with SIGTERM ends its cluster.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        return arguments.does(arguments)
    except (SlurmError, OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="scripts/slurm-cluster", description=_ABOUT, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, does, about, *, directory=True, shape=False, command=False, nodes=False):
        added = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        added.set_defaults(does=does)
        if directory:
            added.add_argument("directory", metavar="DIR")
        if shape:
            _shape_options(added)
        if command:
            added.add_argument("--user", choices=sorted(USERS), help="run the command as this user instead of root")
            added.usage = f"scripts/slurm-cluster {name} [options]{' DIR' if directory else ''} -- CMD..."
        if nodes:
            added.add_argument("nodes", nargs="+", metavar="NODE")
            added.add_argument("--quietly", action="store_true", help="do not tell Slurm, which called this itself")

    command("start", _start, "start a cluster that stays, and print what to export", shape=True)
    command(
        "run", _run, "start a cluster, run a command on its head, end it", directory=False, shape=True, command=True
    )
    command("shell", _shell, "run a command on the head of a cluster, or a shell", command=True)
    command("stop", _stop, "end a cluster")
    command("fail", _fail, "cut the power of nodes", nodes=True)
    command("boot", _boot, "start nodes again", nodes=True)
    return parser


def _shape_options(parser):
    parser.add_argument("--nodes", type=_count, default=4, metavar="N", help="nodes n1, n2 ... (4)")
    parser.add_argument(
        "--cloud", type=_count, default=0, metavar="N", help="nodes c1, c2 ... that Slurm boots on demand (0)"
    )
    parser.add_argument("--cpus", type=_count, default=4, metavar="N", help="CPUs that each node says it has (4)")
    parser.add_argument(
        "--memory", type=_count, default=4096, metavar="MIB", help="memory that each node says it has (4096)"
    )
    parser.add_argument(
        "--gpus", type=_count, default=2, metavar="N", help="GPUs of each node, which are /dev/null (2)"
    )
    parser.add_argument("--store", metavar="URL", help="envkit's store on all nodes")
    parser.add_argument(
        "--set", action="append", default=[], dest="extra", metavar="NAME=VALUE", help="a line for slurm.conf"
    )


def _count(text):
    value = int(text)
    if not 0 <= value <= 1_000_000:
        raise ValueError
    return value


def _shape(arguments):
    names = ("nodes", "cloud", "cpus", "memory", "gpus", "store")
    return {name: getattr(arguments, name) for name in names} | {"extra": tuple(arguments.extra)}


def _start(arguments):
    os.makedirs(arguments.directory, mode=0o755, exist_ok=True)
    cluster = Cluster(arguments.directory)
    cluster.start(**_shape(arguments))
    for name, value in cluster.variables.items():
        sys.stdout.write(f"export {name}={value}\n")
    return 0


def _run(arguments):
    if not arguments.words:
        raise SlurmError("there is no command: scripts/slurm-cluster run -- COMMAND")
    with running_cluster(**_shape(arguments)) as cluster:
        return _execute(cluster, arguments)


def _shell(arguments):
    return _execute(Cluster(arguments.directory), arguments)


def _execute(cluster, arguments):
    words, environment = cluster.command(*(arguments.words or ["bash"]), user=arguments.user)
    environment["TERM"] = os.environ.get("TERM", "dumb")
    process = subprocess.Popen(words, env=environment)
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the command has got it too, and decides
            continue
        return code if code >= 0 else 128 - code


def _stop(arguments):
    cluster = Cluster(arguments.directory)
    if not cluster.is_up():
        raise SlurmError(f"{cluster.directory}: no cluster runs there")
    cluster.stop()
    return 0


def _fail(arguments):
    Cluster(arguments.directory).fail(*arguments.nodes, noticed=not arguments.quietly)
    return 0


def _boot(arguments):
    cluster = Cluster(arguments.directory)
    cluster.boot(*arguments.nodes)
    if not arguments.quietly:
        cluster.wait_for_nodes(*arguments.nodes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
