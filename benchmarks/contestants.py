"""Owns the programs that a save is compared with, each over a store of its own in a scratch directory.

All get the same directories (`material`), begin with the base in their store, and are used with their defaults.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import material
from material import Layer
from timing import Run, timed

_REGISTRY = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def need(*programs: str) -> None:
    """Check that programs are there."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}. Run scripts/provision --bench")


def end_in_order() -> None:
    """Have SIGTERM and SIGHUP end this process through its `finally` clauses: they stop servers and sessions."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))


def run(*argv: str, environment: dict[str, str] | None = None) -> str:
    """Run a program, which must succeed; return its standard output."""
    done = subprocess.run(argv, env={**os.environ, **(environment or {})}, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def stored_bytes(directory: Path) -> int:
    """Return the bytes of all files below a directory."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def remove(scratch: Path) -> None:
    """Remove a scratch directory, in which podman may still have its storage mounted."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        place = line.split()[1]
        if place.startswith(f"{scratch}/"):
            run("umount", place)
    shutil.rmtree(scratch)


class Contestant(ABC):
    """A program that keeps layers in a store."""

    name: str

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        scratch.mkdir()

    @abstractmethod
    def save(self, layer: Layer) -> None:
        """Store a layer on the base."""

    @abstractmethod
    def stored(self) -> int:
        """Return the bytes of the store."""


class Envkit(Contestant):
    """`envkit save` of a session whose upper is the layer."""

    name = "envkit"

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.root = scratch / "root"
        self.store = self.root / "store"
        material.new_root(self.root)

    def call(self, *arguments: str) -> str:
        return material.envkit(self.root, *arguments)

    @contextlib.contextmanager
    def session(self, layer: Layer, *, name: str = "") -> Iterator[str]:
        """Open a session with a layer's changes."""
        name = name or f"layer-{layer.name}"
        self.call("create", name, "--base", material.BASE, "--no-shell")
        try:
            material.fill_session(self.root, name, layer.directory)
            yield name
        finally:
            self.call("close", name, "--discard")

    def save(self, layer: Layer) -> None:
        with self.session(layer) as name:
            self.call("save", name)

    def stored(self) -> int:
        return stored_bytes(self.store)


class Oci(Contestant):
    """`podman commit` of a container whose upper is the layer, and `podman push` to a registry on this machine."""

    name = "OCI layers (podman)"

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        need("podman", "docker-registry")
        self.podman = ("podman", "--root", f"{scratch}/storage", "--runroot", f"{scratch}/run")
        self.blobs = scratch / "registry"
        self.blobs.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = scratch / "registry.yml"
        config.write_text(_REGISTRY.format(directory=self.blobs, port=self.port))
        with open(scratch / "registry.log", "wb") as log:
            argv = ["docker-registry", "serve", str(config)]
            self._registry = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait()
            self._import(material.base())
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise SystemExit("docker-registry does not answer") from None
                time.sleep(0.05)
            else:
                return

    def _import(self, root: Path) -> None:
        with subprocess.Popen(["tar", "-C", str(root), "--xattrs", "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                [*self.podman, "import", "-q", "-", "localhost/base"],
                stdin=tar.stdout,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        self.push("base")

    def create(self, layer: Path, *, image: str = "base") -> str:
        """Make a container whose changes are a layer's; return its id."""
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")  # raising them takes a privilege
        container = run(*self.podman, "create", "--network=none", *limits, f"localhost/{image}", "true").strip()
        run("cp", "-a", f"{layer}/.", f"{self.upper(container)}/")
        return container

    def upper(self, container: str) -> Path:
        return Path(run(*self.podman, "inspect", container, "--format", "{{.GraphDriver.Data.UpperDir}}").strip())

    def commit(self, container: str, image: str) -> None:
        run(*self.podman, "commit", "-q", container, f"localhost/{image}")

    def push(self, image: str) -> None:
        target = f"docker://127.0.0.1:{self.port}/{image}:1"
        run(*self.podman, "push", "-q", "--tls-verify=false", f"localhost/{image}", target)

    def remove(self, container: str, *images: str) -> None:
        run(*self.podman, "rm", "-f", container)
        for image in images:
            run(*self.podman, "rmi", f"localhost/{image}")

    def save(self, layer: Layer) -> None:
        container = self.create(layer.directory)
        image = f"layer-{layer.name}"
        self.commit(container, image)
        self.push(image)
        self.remove(container, image)

    def stored(self) -> int:
        return stored_bytes(self.blobs)

    def close(self) -> None:
        """End the registry."""
        self._registry.terminate()
        self._registry.wait(10)


class Casync(Contestant):
    """`casync make` into one shared chunk store."""

    name = "casync"

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        need("casync")
        self._make(material.base(), "base")

    def _make(self, directory: Path, name: str) -> None:
        store = self.scratch / "default.castr"
        run("casync", "make", f"--store={store}", f"{self.scratch}/{name}.caidx", str(directory))

    def save(self, layer: Layer) -> None:
        self._make(layer.directory, layer.name)

    def stored(self) -> int:
        return stored_bytes(self.scratch)


class Restic(Contestant):
    """`restic backup` into one repository."""

    name = "restic"

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        need("restic")
        self.repository = scratch / "repository"
        self.environment = {
            **os.environ,
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(scratch / "cache"),
        }
        run("restic", "init", environment=self.environment)
        self.timed(material.base())

    def timed(self, directory: Path) -> Run:
        """Back a directory up."""
        return timed(["restic", "backup", "-q", str(directory)], self.environment)

    def save(self, layer: Layer) -> None:
        self.timed(layer.directory)

    def stored(self) -> int:
        return stored_bytes(self.repository)


def versions() -> str:
    """Return the versions of the programs, for the page."""
    names = ("podman", "docker-registry", "casync", "restic")
    found = run("dpkg-query", "-W", "-f", "${Package} ${Version}, ", *names)
    return found.strip(", ")
