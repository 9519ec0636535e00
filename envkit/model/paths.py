"""Owns where envkit keeps things on a machine; nothing else joins these paths.

/var/lib/envkit/ (0700)
store/                      the default store
cache/layers/DIGEST/        one layer: `image`, complete, or as much as has been asked for (see `cache/layer.py`)
cache/trees/DIGEST          verified trees
cache/index.sqlite          which chunks the store has (a hint)
cache/repair/               objects that a repair is putting back into a store
cache/records/STORE/        version records of a store in a bucket, by its identity
cache/starts/               start packs that no store took, laid out as in a store
queue/                      jobs of this machine, where there is no Slurm, and the key of what tasks leave in a store
queue/queue.sqlite          which jobs there are, and how they are
queue/jobs/NUMBER/          script, and of each task INDEX.lock, INDEX.ATTEMPT.end, INDEX.log
queue/runner.lock, .bell, .log  whether something runs the jobs, how to wake it, and what it complained about
sessions/OWNER/NAME/        session.json, upper/, work/, lock, memory
runs/ID/                    one running job: lock, upper/, work/, lxc.conf, lxc.log
/run/envkit/ (0755)             gone after a reboot
mnt/                        empty; each job mounts its stack here, in a mount namespace of its own
lxc/                        LXC's state
images/                     empty; the image server's files, in a mount namespace of its own
images.socket, .lock, .log  how to reach the image server, whether there is one, and what it complained about
lock                        held while layers are looked up or mounted
"""

import os

from envkit.model.ids import EnvName
from envkit.model.record import Record

DEFAULT_ROOT = "/var/lib/envkit"


class Paths(Record):
    """The layout below a root directory (persistent) and a run directory (until reboot)."""

    root: str = DEFAULT_ROOT
    run: str = "/run/envkit"

    @classmethod
    def at(cls, root: str) -> "Paths":
        """Return the layout of a root directory; each root has a run directory of its own."""
        root = os.path.abspath(root)
        if root == DEFAULT_ROOT:
            return cls()
        # `/` becomes `-` as in systemd unit names; `-` itself doubles, so two roots never share a run directory.
        return cls(root=root, run="/run/envkit" + root.replace("-", "--").replace("/", "-"))

    @property
    def store(self) -> str:
        return f"{self.root}/store"

    @property
    def trees(self) -> str:
        return f"{self.root}/cache/trees"

    @property
    def layers(self) -> str:
        return f"{self.root}/cache/layers"

    @property
    def index(self) -> str:
        return f"{self.root}/cache/index.sqlite"

    @property
    def repair(self) -> str:
        return f"{self.root}/cache/repair"

    @property
    def records(self) -> str:
        return f"{self.root}/cache/records"

    @property
    def starts(self) -> str:
        return f"{self.root}/cache/starts"

    @property
    def queue(self) -> str:
        return f"{self.root}/queue"

    @property
    def ledger(self) -> str:
        return f"{self.queue}/queue.sqlite"

    @property
    def runner_lock(self) -> str:
        return f"{self.queue}/runner.lock"

    @property
    def runner_bell(self) -> str:
        return f"{self.queue}/runner.bell"

    @property
    def runner_log(self) -> str:
        return f"{self.queue}/runner.log"

    @property
    def sessions(self) -> str:
        return f"{self.root}/sessions"

    @property
    def runs(self) -> str:
        return f"{self.root}/runs"

    @property
    def mnt(self) -> str:
        return f"{self.run}/mnt"

    @property
    def lxc(self) -> str:
        return f"{self.run}/lxc"

    @property
    def images(self) -> str:
        return f"{self.run}/images"

    @property
    def images_socket(self) -> str:
        return f"{self.run}/images.socket"

    @property
    def images_lock(self) -> str:
        return f"{self.run}/images.lock"

    @property
    def images_log(self) -> str:
        return f"{self.run}/images.log"

    @property
    def lock(self) -> str:
        return f"{self.run}/lock"

    def queued(self, number: int) -> str:
        """The directory of a job of this machine's queue."""
        return f"{self.queue}/jobs/{number}"

    def layer(self, digest: str) -> str:
        """The cache directory of a layer."""
        return f"{self.layers}/{digest}"

    def session(self, env: EnvName) -> str:
        """The directory of a session."""
        return f"{self.sessions}/{env.owner}/{env.name}"
