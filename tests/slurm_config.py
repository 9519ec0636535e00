"""Owns the configuration of a test cluster: what it consists of, and the text of slurm.conf and its companions.

The settings are for tests: short intervals, results of jobs remembered for an hour, nodes that present more CPUs than the
machine has. What limits a real cluster (control groups, accounting) is left out: neither works everywhere.
"""

from typing import NamedTuple

HEAD = "head"


class Shape(NamedTuple):
    """What a cluster consists of. `memory` in MiB a node; `ports`: of the head, then of each node."""

    directory: str
    ports: tuple[int, ...]
    nodes: int = 4
    cloud: int = 0
    cpus: int = 4
    memory: int = 4096
    gpus: int = 2
    extra: tuple[str, ...] = ()

    @property
    def static(self):
        """Names of the nodes that are there from the start."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def elastic(self):
        """Names of the nodes that Slurm starts when it needs them."""
        return [f"c{number}" for number in range(1, self.cloud + 1)]

    @property
    def names(self):
        return [*self.static, *self.elastic]


_SETTINGS = """\
# Written by scripts/slurm-cluster, at each start.
ClusterName=envkit
SlurmctldHost={head}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is requeued, after its node has failed too, waits for as long as its credential is good: 120 s by default.
AuthInfo=socket={directory}/munge/socket,cred_expire=10
StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/nodes/{head}/slurmctld.pid
SlurmctldLogFile={directory}/log/slurmctld
SlurmdSpoolDir={directory}/nodes/%n/spool
SlurmdPidFile={directory}/nodes/%n/slurmd.pid
SlurmdLogFile={directory}/log/slurmd-%n

# Neither needs control groups. Nothing of a job can leave its node: that is a pid namespace.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none

# What became of jobs: `scontrol show job` for an hour, `sacct -c` for as long as the directory is there.
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={directory}/jobs
MinJobAge=3600
MaxJobCount=50000
MaxArraySize=10001

# More CPUs than the machine has. Without DefMemPerCPU each job would take all the memory of its node.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
GresTypes=gpu

# By default a job waits for up to 3 s, a queue for 60 s, and what was killed for 30 s.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,default_queue_depth=1000
KillWait=2
UnkillableStepTimeout=30
# Long enough for a busy machine. `fail` tells Slurm at once.
SlurmdTimeout=15
SlurmctldTimeout=15
ReturnToService=2
JobRequeue=1
"""

_ELASTIC = """\
ResumeProgram={directory}/bin/resume
SuspendProgram={directory}/bin/suspend
ResumeTimeout=60
SuspendTimeout=2
SuspendTime=5
SuspendExcNodes={static}
SlurmctldParameters=idle_on_node_suspend
"""


def slurm_conf(shape):
    """The text of slurm.conf."""
    text = _SETTINGS.format(directory=shape.directory, port=shape.ports[0], head=HEAD)
    if shape.elastic:
        text += _ELASTIC.format(directory=shape.directory, static=",".join(shape.static))
    for line in shape.extra:
        text += f"{line}\n"
    for name, port in zip(shape.names, shape.ports[1:], strict=True):
        text += f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs={shape.cpus}"
        text += f" RealMemory={shape.memory} State={'UNKNOWN' if name in shape.static else 'CLOUD'}"
        text += f" Gres=gpu:{shape.gpus}\n" if shape.gpus else "\n"
    return text + "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"


def gres_conf(shape):
    """The text of gres.conf: GPUs are plain files."""
    if not shape.gpus:
        return ""
    return f"AutoDetect=off\nName=gpu Flags=nvidia_gpu_env File={shape.directory}/devices/gpu[0-{shape.gpus - 1}]\n"


def cgroup_conf(version):
    """The text of cgroup.conf: since 24.05 `slurmd` would insist on systemd where it is not told otherwise."""
    return "CgroupPlugin=disabled\n" if version >= (24, 5) else ""


def parse_records(text):
    """Read what `scontrol -o show` prints: a dictionary for each line."""
    records = []
    for line in text.splitlines():
        words = line.split(" ")
        fields = {}
        name = None
        for word in words:
            key, mark, value = word.partition("=")
            if mark and key[:1].isupper() and key.replace(":", "").replace("/", "").replace("_", "").isalnum():
                name, fields[key] = key, value
            elif name is not None:  # a value with spaces
                fields[name] += f" {word}"
        if fields:
            records.append(fields)
    return records
