"""Owns the contestants of `cold_start`: what each keeps on the servers, and its command line for a start on a new node.

A node is a directory, in which a contestant keeps whatever it has fetched. Every start is one command line that gets
the tree and runs a command in it. `again` is a start on a node that had one before.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import cold_material
from contestants import need, run

_LXC = """
lxc=$node/lxc-$$
mkdir "$lxc"
cat >"$lxc/config" <<END
lxc.uts.name = bench
lxc.rootfs.path = dir:$root
lxc.net.0.type = empty
lxc.environment = PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
END
exec lxc-execute -n "bench-$$" -P "$lxc" -f "$lxc/config" -- "$@"
"""
# busybox calls mount(2) with the file itself; mount(8) of util-linux 2.38 would put a loop device in between.
_EROFS = """
mkdir -p "$node/image" "$node/root" "$node/upper" "$node/work"
busybox mount -t erofs -o ro "$image" "$node/image"
mount -t overlay -o "lowerdir=$node/image,upperdir=$node/upper,workdir=$node/work" overlay "$node/root"
root=$node/root
"""


class Contestant(ABC):
    """A way of starting a command in a tree that lies on a server."""

    name: str
    title: str
    rounds = 2
    """In how many rounds it takes part."""
    eager = False
    """Whether it fetches everything before it starts the command."""

    @abstractmethod
    def argv(self, node: Path, tree: str, command: Sequence[str], *, again: bool = False) -> list[str]:
        """Return the command line that gets a tree and runs a command in it."""

    def environment(self) -> dict[str, str]:
        """Return the variables of the command line."""
        return variables()

    def end(self, node: Path) -> None:  # noqa: B027  # most leave nothing
        """End what runs on a node and does not heed signals."""


def forget_caller() -> None:
    """Drop variables that would lead a start elsewhere: proxies, keys of a cloud, a caller of sudo."""
    for name in list(os.environ):
        misleading = name.startswith(("AWS_", "ENVKIT_", "SUDO_")) or name.lower().endswith("_proxy")
        if misleading and name != "ENVKIT_SWIFT_VENV":
            del os.environ[name]


def variables(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of a start."""
    return {**os.environ, **(more or {})}


def remove_node(node: Path) -> None:
    """Remove a node, or another directory in which something may still be mounted."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        place = line.split()[1]
        if place.startswith(f"{node}/"):
            run("umount", "-l", place)
    shutil.rmtree(node, ignore_errors=True)  # what is left goes with the scratch directory


class _Script(Contestant):
    """A contestant that is a shell script; `$node`, `$root`, `$tree`, `$again` and what `values` gives are set."""

    script: str
    private_mounts = False

    def values(self) -> dict[str, str]:
        return {}

    def argv(self, node: Path, tree: str, command: Sequence[str], *, again: bool = False) -> list[str]:
        values = {
            "node": str(node),
            "root": f"{node}/root",
            "tree": tree,
            "again": "again" if again else "",
            **self.values(),
        }
        settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
        prefix = ["unshare", "--mount", "--propagation", "private"] if self.private_mounts else []
        return [*prefix, "sh", "-c", f"set -e\n{settings}{self.script}", "sh", *command]


class Local(_Script):
    """The tree on the local disk beforehand: nobody can be faster by much."""

    name = "local"
    title = "a local directory, `lxc-execute`"
    rounds = 99
    script = f"root={cold_material.CACHE}/$tree{_LXC}"


class Archive(_Script):
    """Download and unpack a compressed tar archive."""

    name = "tar"
    title = "`curl`, `zstd -d`, `tar -x`, `lxc-execute`"
    eager = True
    script = (
        """
if [ -z "$again" ]; then
    mkdir "$root"
    curl -sSf "$web/$tree.tar.zst" | zstd -dcq | tar -C "$root" --numeric-owner -xpf -
fi"""
        + _LXC
    )

    def __init__(self, web: str) -> None:
        need("curl", "zstd", "lxc-execute")
        self._web = web

    def values(self) -> dict[str, str]:
        return {"web": self._web}


class Image(Archive):
    """Download a compressed EROFS image and mount it."""

    name = "image"
    title = "`curl`, `zstd -d` of an EROFS image, `lxc-execute`"
    private_mounts = True
    script = (
        """
image=$node/image.erofs
[ -n "$again" ] || curl -sSf "$web/$tree.erofs.zst" | zstd -dcq >"$image"
"""
        + _EROFS
        + _LXC
    )


class Casync(Archive):
    """Extract from a chunk store."""

    name = "casync"
    title = "`casync extract` of chunks of 1 MiB, `lxc-execute`; the default of 64 KiB takes minutes"
    rounds = 1
    script = (
        """
if [ -z "$again" ]; then
    mkdir "$root"
    casync extract --store="$web/$tree.castr" "$web/$tree.caidx" "$root"
fi"""
        + _LXC
    )

    def __init__(self, web: str) -> None:
        super().__init__(web)
        need("casync")


class Podman(_Script):
    """Pull an image from a registry and run it."""

    name = "podman"
    title = "`podman pull`, `podman run`"
    eager = True
    script = """
podman="podman --root $node/storage --runroot $node/run --runtime $(command -v runc)"
[ -n "$again" ] || $podman pull -q --tls-verify=false "$registry/$tree:1" >/dev/null
exec $podman run --rm --network=none --ulimit=nofile=1024:1024 --ulimit=nproc=1000:1000 "$registry/$tree:1" "$@"
"""

    def __init__(self, registry: str, blobs: Path) -> None:
        need("podman", "runc")
        self._registry = registry
        self._blobs = blobs

    def values(self) -> dict[str, str]:
        return {"registry": self._registry}

    def fill(self, scratch: Path) -> None:
        """Push the images, with podman's own compression, unless the registry has them."""
        made_from = "\n".join(cold_material.stamp(cold_material.tree(name)) for name in cold_material.TREES)
        stamp = self._blobs / "complete"
        if stamp.exists() and stamp.read_text() == made_from:
            return
        stamp.unlink(missing_ok=True)
        podman = ("podman", "--root", f"{scratch}/storage", "--runroot", f"{scratch}/run")
        try:
            for name in cold_material.TREES:
                pack = ["tar", "-C", str(cold_material.tree(name)), "--numeric-owner", "-c", "."]
                with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
                    load = [*podman, "import", "-q", "-", f"localhost/{name}"]
                    subprocess.run(load, stdin=packing.stdout, check=True, stdout=subprocess.DEVNULL)
                self._push(podman, name)
            self._sibling(podman, scratch)
        finally:
            remove_node(scratch)
        stamp.write_text(made_from)

    def _sibling(self, podman: Sequence[str], scratch: Path) -> None:
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
        container = run(*podman, "create", "--network=none", *limits, "localhost/science", "true").strip()
        with tempfile.TemporaryDirectory(dir=scratch) as added:
            cold_material.sibling(Path(added))
            run(*podman, "cp", f"{added}/.", f"{container}:/")
        run(*podman, "commit", "-q", container, "localhost/sibling")
        run(*podman, "rm", "-f", container)
        self._push(podman, "sibling")

    def _push(self, podman: Sequence[str], name: str) -> None:
        target = f"docker://{self._registry}/{name}:1"
        run(*podman, "push", "-q", "--tls-verify=false", f"localhost/{name}", target)


class _Mounted(_Script):
    """An EROFS image in the bucket, through a file system that shows the bucket."""

    rounds = 1
    private_mounts = True
    mounting: str

    def __init__(self, settings: Mapping[str, str]) -> None:
        need(self.name, "fusermount", "busybox")
        self._settings = settings
        directories = 'mkdir -p "$node/bucket" "$node/cache"'
        self.script = f"{directories}\n{self.mounting}\nimage=$node/bucket/$tree.erofs{_EROFS}{_LXC}"


def rclone_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make `S:` of rclone the S3 server."""
    return {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_S_TYPE": "s3",
        "RCLONE_CONFIG_S_PROVIDER": "Other",
        "RCLONE_CONFIG_S_ENDPOINT": settings["AWS_ENDPOINT_URL"],
        "RCLONE_CONFIG_S_ACCESS_KEY_ID": settings["AWS_ACCESS_KEY_ID"],
        "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": settings["AWS_SECRET_ACCESS_KEY"],
        "RCLONE_CONFIG_S_REGION": settings["AWS_REGION"],
    }


def upload_images(at_server: Sequence[str], settings: Mapping[str, str]) -> None:
    """Put the EROFS images into the bucket, from beside its server."""
    for name in cold_material.TREES:
        image = f"{name}.erofs"
        copy = ("rclone", "copyto", "--s3-upload-cutoff=2G", "--s3-no-check-bucket")
        argv = (*at_server, *copy, str(cold_material.SERVED / image), f"S:envkit/{image}")
        run(*argv, environment=rclone_settings(settings))


class Rclone(_Mounted):
    """rclone's mount, with the cache that it recommends."""

    name = "rclone"
    title = "`rclone mount` of the bucket, an EROFS image in it"
    mounting = (
        'rclone mount --daemon --read-only --vfs-cache-mode full --cache-dir "$node/cache" S:envkit "$node/bucket"'
    )

    def environment(self) -> dict[str, str]:
        return variables(rclone_settings(self._settings))


class S3fs(_Mounted):
    """s3fs with its cache."""

    name = "s3fs"
    title = "`s3fs` of the bucket, an EROFS image in it"
    mounting = 's3fs envkit "$node/bucket" -o "url=$endpoint,use_path_request_style,ro,use_cache=$node/cache"'

    def values(self) -> dict[str, str]:
        return {"endpoint": self._settings["AWS_ENDPOINT_URL"]}

    def environment(self) -> dict[str, str]:
        settings = self._settings
        return variables(
            {
                "AWSACCESSKEYID": settings["AWS_ACCESS_KEY_ID"],
                "AWSSECRETACCESSKEY": settings["AWS_SECRET_ACCESS_KEY"],
            }
        )
