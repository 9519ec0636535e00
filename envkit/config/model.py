"""Owns the configuration: what an admin or a user may set, as one frozen value."""

from envkit.model.paths import DEFAULT_ROOT
from envkit.model.record import Record

NETWORKS = ("none", "nat", "host")
FETCH = ("demand", "eager", "offline")
"""When the content of layers is fetched: as it is read, all of it before a start, never."""
QUEUES = ("auto", "slurm", "local")
"""Where submitted jobs wait: in Slurm, on this machine by itself, or in Slurm if this machine has it."""


class Config(Record):
    """`root` is where envkit keeps state on this machine, `store` a directory or URL ("" is the store below the root).

    `endpoint`, `region` and `aws_profile` say where and as whom to reach a store in a bucket; "" leaves it to the
    variables and files of AWS. `owner` completes names without one; `net` is the network of jobs that ask for none,
    `fetch` when the content of layers is fetched. `cache_quota` is how much of it this machine keeps, a size or a share
    of the file system.
    `queue` is where submitted jobs wait, `slots` how many run at once where that is this machine ("": one a CPU), and
    `node_program` the path of envkit on the nodes of a cluster.
    `profile` is the profile that was used, `home` the home directory of the user who called envkit, also through
    sudo; both may be "".
    """

    root: str = DEFAULT_ROOT
    store: str = ""
    endpoint: str = ""
    region: str = ""
    aws_profile: str = ""
    owner: str = ""
    net: str = "none"
    profile: str = ""
    home: str = ""
    fetch: str = "demand"
    cache_quota: str = "50%"
    queue: str = "auto"
    slots: str = ""
    node_program: str = "/usr/local/bin/envkit"
    loop: bool = False
