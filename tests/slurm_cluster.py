"""Owns a real Slurm cluster on one machine, in one directory: a head and nodes, each in namespaces of its own.

A node is a pid namespace, a mount namespace and a host name: with its own /run, /tmp and settings of envkit it has its own
root and cache, and killing its first process is what a power cut is. The network is the machine's, on loopback.
Nothing is written outside of the directory; the cluster has another /etc. Uses nothing but Python's library.
"""

import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import slurm_files
from slurm_config import HEAD, Shape, parse_records
from slurm_files import CHECKOUT, PATH

PROGRAMS = ("slurmctld", "slurmd", "scontrol", "sbatch", "munged", "unshare", "nsenter", "setpriv", "mount", "sudo")
PATIENCE = 60.0
"""Seconds after which anything is taken to hang; generous, since test machines are busy."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
_LONGEST = 70  # bytes: an address of a UNIX socket has 107
_UNSHARE = ("unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "--propagation", "slave", "--uts")


class SlurmError(Exception):
    """The cluster cannot do what it was told to; one line."""


def lack_of_slurm():
    """Why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "a cluster needs root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    return f"{', '.join(missing)}: not installed: run scripts/provision --test" if missing else None


def _wait(condition, what):
    """Return the first result of `condition` that is true."""
    deadline = time.monotonic() + PATIENCE
    pause = 0.01
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise SlurmError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    return result


class Cluster:
    """A cluster in a directory, whoever started it. Every method may be called from any process of the machine."""

    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        if len(os.fsencode(self.directory)) > _LONGEST:
            raise SlurmError(f"{self.directory}: its name is too long for sockets: at most {_LONGEST} bytes")
        if os.path.realpath(self.directory).startswith("/tmp/"):
            raise SlurmError(f"{self.directory}: must not be in /tmp, of which each node has one of its own")
        self._starter = None

    @property
    def conf(self):
        return f"{self.directory}/slurm.conf"

    @property
    def variables(self):
        """With these, tools of Slurm reach the cluster from outside."""
        return {"SLURM_CONF": self.conf}

    def node_root(self, node=HEAD):
        """Envkit's root on a node."""
        return f"{self.directory}/nodes/{node}/envkit"

    def log(self, name):
        """What `slurmctld`, `slurmd-n1`, `munged` or `head` has to say."""
        return pathlib.Path(f"{self.directory}/log/{name}").read_text(encoding="utf-8", errors="replace")

    # Starting and stopping

    def start(self, *, follow=False, store=None, **shape):
        """Start it, with the queue that an earlier one in this directory has left; return when all nodes are idle.

        `follow`: the kernel ends it with the thread that calls. `store`: envkit's on all nodes. The rest as in Shape.
        """
        if (missing := lack_of_slurm()) is not None:
            raise SlurmError(missing)
        if self.is_up():
            raise SlurmError(f"{self.directory}: a cluster runs there already")
        count = 1 + shape.get("nodes", Shape._field_defaults["nodes"]) + shape.get("cloud", 0)
        shape = Shape(self.directory, slurm_files.free_ports(count), **shape)
        slurm_files.write(shape, store or f"{self.directory}/store")
        try:
            self._start_init(follow=follow)
            self._ask(HEAD, do="start", name="munged", argv=slurm_files.munged(self.directory))
            _wait(lambda: _answers(f"{self.directory}/munge/socket"), "munged")
            self.start_controller()
            self.boot(*shape.static)
            self.wait_for_nodes(*shape.static)
        except BaseException:  # also where somebody has lost patience: nothing half started stays
            self.stop()
            raise

    def _start_init(self, *, follow):
        words = [*_UNSHARE, *self._init(HEAD, *slurm_files.mounts(self.directory))]
        if follow:
            words = ["setpriv", "--pdeathsig", "KILL", *words]
        with open(f"{self.directory}/log/head", "ab") as log:
            self._starter = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(), start_new_session=True
            )
        _wait(lambda: self.is_up() or self._starter.poll() is not None, "the first process of the head")
        if not self.is_up():
            raise SlurmError(f"the head did not start: {self.log('head').strip()[-500:]}")

    def _init(self, name, *mounts):
        own = ["--bind", f"{self.directory}/nodes/{name}/etc", "/etc/envkit"]
        run = ["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]
        words = [sys.executable, "-IS", f"{CHECKOUT}/tests/slurm_init.py", name, self._socket(name)]
        for mount in [*mounts, own, run]:
            words += [*mount, ";"]
        return words

    def stop(self):
        """End it: Slurm saves its queue, then everything is killed. Nothing happens where nothing runs."""
        if self.is_up():
            self.stop_controller()
            self._kill(HEAD)  # with it goes every process of its pid namespace, and of those below
        if self._starter is not None:
            self._starter.wait(PATIENCE)
            self._starter = None

    def is_up(self, name=HEAD):
        """Tell whether the head or a node is there."""
        return _answers(self._socket(name))

    # The head

    def start_controller(self):
        """Start slurmctld."""
        self._ask(HEAD, do="start", name="slurmctld", argv=["slurmctld", "-D", "-f", self.conf])
        _wait(self._controller_answers, "slurmctld")

    def _controller_answers(self):
        if not self.controller_runs():
            raise SlurmError(f"slurmctld has ended: {self.log('slurmctld').strip()[-1000:]}")
        port = next(
            line for line in pathlib.Path(self.conf).read_text().splitlines() if line.startswith("SlurmctldPort=")
        )
        with socket.socket() as connection:  # tools of Slurm take seconds to find out that nobody listens
            if connection.connect_ex(("127.0.0.1", int(port.partition("=")[2]))) != 0:
                return False
        return "is UP" in self.run("scontrol", "ping", check=False).stdout

    def controller_runs(self):
        """Tell whether slurmctld is there; tools of Slurm would wait for it for long."""
        return self._ask(HEAD, do="runs", name="slurmctld")

    def stop_controller(self, number=signal.SIGTERM):
        """End slurmctld; with SIGKILL it saves nothing."""
        self._ask(HEAD, do="end", name="slurmctld", number=int(number))

    # Nodes

    def boot(self, *nodes):
        """Start nodes that are down."""
        for node in nodes:
            self._check(node)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._socket(node))
            self._ask(HEAD, do="end", name=node, number=int(signal.SIGKILL))
            tmp = ["--bind", f"{self.directory}/nodes/{node}/tmp", "/tmp"]
            init = self._init(node, tmp)
            self._ask(HEAD, do="start", name=node, argv=[*_UNSHARE, *init], log=f"{self.directory}/log/{node}")
        for node in nodes:
            _wait(lambda node=node: self.is_up(node), f"the first process of {node}")
            self.start_slurmd(node, booted=True)

    def fail(self, *nodes, noticed=True):
        """Cut the power of nodes. `noticed`: tell Slurm too, which else finds out after SlurmdTimeout."""
        for node in nodes:
            self._check(node)
            self._kill(node)
            if noticed:
                self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power cut")

    def start_slurmd(self, node, *, booted=False):
        """Start the slurmd of a node that is up. `booted`: it says that the node has just come up, with no job left."""
        argv = ["slurmd", "-D", "-N", node, "-f", self.conf, *(["-b"] if booted else [])]
        self._ask(node, do="start", name="slurmd", argv=argv)

    def kill_slurmd(self, node, number=signal.SIGKILL):
        """End the slurmd of a node; its jobs go on."""
        self._ask(node, do="end", name="slurmd", number=int(number))

    def resume(self, *nodes):
        """Let Slurm use nodes again that it has taken out of service."""
        self.run("scontrol", "update", f"NodeName={','.join(nodes)}", "State=RESUME")

    def node_state(self, node):
        """What Slurm thinks of a node: `IDLE`, `DOWN+NOT_RESPONDING`, `DRAIN+IDLE`, `CLOUD+IDLE+POWERED_DOWN` ..."""
        # sinfo(1) of 22.05 shows a node as "mixed" for long after a restart of the head.
        record = parse_records(self.run("scontrol", "-o", "show", "node", node).stdout)[0]
        state = record["State"].replace("*", "+NOT_RESPONDING")
        return "+".join(sorted(set(state.split("+"))))

    def wait_for_nodes(self, *nodes, state="IDLE"):
        """Wait until Slurm thinks that of nodes."""
        _wait(lambda: all(self.node_state(node) == state for node in nodes), f"{', '.join(nodes)} to be {state}")

    def inside(self, node, *words, **options):
        """Run a command on a node as root, outside of any job; options as of `run`."""
        return self.run(*words, node=node, **options)

    # Commands and jobs

    def command(self, *words, user=None, node=None, directory=None, env=None):
        """The words and variables of a command on the head, or a node, as root or another user."""
        environment = self._environment() | {"LANG": os.environ.get("LANG", "C.UTF-8"), **(env or {})}
        enter = ["nsenter", f"--target={self._pid(node or HEAD)}", "--mount", "--root", "--uts", "--pid"]
        home = f"{self.directory}/home/{user}" if user else "/root"
        environment |= {"HOME": home, "USER": user or "root", "LOGNAME": user or "root"}
        enter += ["env", f"--chdir={directory or home}"]
        enter += ["setpriv", "--pdeathsig=KILL"]  # nsenter(1) hands no signal on
        enter += [f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        return [*enter, *map(str, words)], environment

    def run(self, *words, check=True, input="", **place):
        """Run a command to its end; return what subprocess.run returns, with text."""
        argv, environment = self.command(*words, **place)
        done = subprocess.run(
            argv, env=environment, input=input, capture_output=True, text=True, timeout=2 * PATIENCE, check=False
        )
        if check and done.returncode != 0:
            raise SlurmError(f"{' '.join(map(str, words))}: exit code {done.returncode}: {done.stderr.strip()}")
        return done

    def submit(self, *words, script=None, **place):
        """Call sbatch with options, and a script where the words end with no command; return the job's number."""
        done = self.run("sbatch", "--parsable", *words, input=script or "", **place)
        return int(done.stdout.split(";")[0])

    def jobs(self, number):
        """What Slurm remembers of a job: a dictionary, or one for each task of an array that has started."""
        return parse_records(self.run("scontrol", "-o", "show", "job", str(number)).stdout)

    def settle(self, *nodes):
        """Cancel all jobs, start what is down of these nodes, and wait until they are idle."""
        self.run("scancel", "--partition=main")
        self.boot(*(node for node in nodes if not self.is_up(node)))
        self.wait_for_nodes(*nodes)

    def wait_for_job(self, number, *states):
        """Wait until a job, or every task of it, is in one of these states or has ended; return its last records."""

        def there():
            records = self.jobs(number)
            return records if all(record["JobState"] in (states or ENDED) for record in records) else None

        return _wait(there, f"job {number} to be {' or '.join(states) or 'over'}")

    # Below

    def _environment(self):
        return {"PATH": f"{self.directory}/bin:{PATH}", **self.variables}

    def _socket(self, name):
        return f"{self.directory}/nodes/{name}/init"

    def _check(self, node):
        if node == HEAD or not os.path.isdir(f"{self.directory}/nodes/{node}"):
            raise SlurmError(f"{self.directory} has no node {node!r}")

    def _connect(self, name):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(PATIENCE)
            connection.connect(self._socket(name))
        except OSError as error:
            connection.close()
            raise SlurmError(f"{name} is not up in {self.directory}") from error
        return connection

    def _ask(self, machine, **words):
        if words["do"] == "start":
            log = f"{self.directory}/log/output"
            words = {"environment": self._environment(), "log": log, **words}
        with self._connect(machine) as connection:
            connection.sendall(json.dumps(words).encode())
            connection.shutdown(socket.SHUT_WR)
            reply = json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")) or '{"error": "no answer"}')
        if "error" in reply:
            raise SlurmError(f"{machine}: {reply['error']}")
        return reply["value"]

    def _pid(self, name):
        """The first process of a machine, by the kernel's word, as this process sees it."""
        with self._connect(name) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return struct.unpack("3i", credentials)[0]

    def _kill(self, name):
        """Kill a machine; when this returns, all of its processes are gone."""
        descriptor = os.pidfd_open(self._pid(name))
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            if not select.select([descriptor], [], [], PATIENCE)[0]:
                raise SlurmError(f"{name} did not end within {PATIENCE:.0f} s")
        finally:
            os.close(descriptor)


def _answers(path):
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(path) == 0


@contextlib.contextmanager
def running_cluster(**options):
    """Start a cluster in a new directory below ENVKIT_TEST_DIR; it ends, and the directory goes, in any case."""
    directory = tempfile.mkdtemp(prefix="slurm-", dir=os.environ.get("ENVKIT_TEST_DIR", "/var/tmp"))
    os.chmod(directory, 0o755)
    cluster = Cluster(directory)
    try:
        cluster.start(follow=True, **options)
        yield cluster
    finally:
        cluster.stop()
        _remove_groups({run.name for run in pathlib.Path(directory).glob("nodes/*/envkit/runs/*")})
        shutil.rmtree(directory)


def _remove_groups(identities):
    """Remove the control groups of containers that ended like machines do: no command comes to these nodes again."""
    for path in pathlib.Path("/sys/fs/cgroup").rglob("lxc.*.envkit-*"):
        if path.name.rpartition("envkit-")[2] in identities:
            for place, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(place)
