"""Owns the configuration: what an admin or a user may set, as one frozen value."""

from envkit.model.paths import DEFAULT_ROOT
from envkit.model.record import Record

NETWORKS = ("none", "nat", "host")


class Config(Record):
    """`root` is where envkit keeps state on this machine, `store` a directory or URL ("" is the store below the root).

    `owner` completes names without one; `net` is the network of jobs that ask for none.
    """

    root: str = DEFAULT_ROOT
    store: str = ""
    owner: str = ""
    net: str = "none"
    loop: bool = False
