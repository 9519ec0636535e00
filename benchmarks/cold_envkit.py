"""Owns envkit in `cold_start`: its store in the bucket, start packs that are learned, and ways to start with it."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cold_material
import material
from cold_contestants import Contestant, variables
from contestants import run

if TYPE_CHECKING:
    from obstore.store import S3Store

URL = "s3://envkit/environments"
_STARTS = "environments/starts"
OWNER = "bench"
_PACK_SECONDS = 180.0


def environment(tree: str) -> str:
    """Return the name of a tree in the store."""
    return f"base/{tree}" if tree in cold_material.TREES else f"{OWNER}/{tree}"


class Store:
    """The store: the trees as bases, the sibling as an environment, `wrong-N` with another command's start pack."""

    def __init__(self, near: Mapping[str, str], far: Mapping[str, str]) -> None:
        self._near = near
        self._far = far

    def environment(self, settings: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return variables for a start, or with other settings for what is done beside the server."""
        return variables({**(settings or self._far), "ENVKIT_STORE": URL, "ENVKIT_OWNER": OWNER})

    def fill(self, at_server: Sequence[str], scratch: Path) -> None:
        """Make the store and what is in it, beside its server."""
        root = scratch / "filling"
        near = self.environment(self._near)

        def envkit(*arguments: str) -> None:
            run(*at_server, material.ENVKIT, "--root", str(root), *arguments, environment=near)

        envkit("store", "init", URL)
        for name in cold_material.TREES:
            envkit("base", "import", name, str(cold_material.tree(name)))
        envkit("create", "sibling", "--base", "science", "--no-shell")
        try:
            with tempfile.TemporaryDirectory(dir=scratch) as added:
                cold_material.sibling(Path(added))
                for path in sorted(Path(added, "opt/bench").iterdir()):
                    envkit("cp", str(path), f"sibling:/opt/bench/{path.name}")
            envkit("save", "sibling")
        finally:
            envkit("close", "sibling", "--discard")
            stop(root)
        shutil.rmtree(root)

    def wrong(self, command: Sequence[str], count: int, scratch: Path) -> bool:
        """Make clones of the science tree whose only start pack is that of a command; return whether there is one."""
        # Late: contestants that are measured alone need no envkit of this release.
        from envkit.model.startpack import entry_point
        from envkit.store.starts import entry_name

        entry = entry_name(entry_point(command))
        names = [key.rpartition("/")[2] for key in self.start_packs("base/science")]
        wanted = [name for name in names if name.split("-")[1] == entry]
        root = scratch / "cloning"
        for number in range(count):
            clone = f"wrong-{number}"
            run(material.ENVKIT, "--root", str(root), "clone", "base/science", clone, environment=self.environment())
            for name in wanted:
                self._copy(f"base/science/{name}", f"{OWNER}/{clone}/{name}")
        stop(root)
        shutil.rmtree(root)
        return bool(wanted)

    def start_packs(self, environment: str) -> list[str]:
        """Return the keys of an environment's start packs."""
        import obstore

        pages = obstore.list(self._bucket(), f"{_STARTS}/{environment}")
        return sorted(item["path"] for page in pages for item in page)

    def await_pack(self, environment: str, before: Sequence[str]) -> bool:
        """Wait until an environment has another start pack than before; return whether it has."""
        deadline = time.monotonic() + _PACK_SECONDS
        while time.monotonic() < deadline:
            if set(self.start_packs(environment)) - set(before):
                return True
            time.sleep(0.2)
        return False

    def _copy(self, source: str, target: str) -> None:
        import obstore

        bucket = self._bucket()
        data = bytes(obstore.get(bucket, f"{_STARTS}/{source}").bytes())
        obstore.put(bucket, f"{_STARTS}/{target}", data, use_multipart=False)

    def _bucket(self) -> "S3Store":
        from obstore.store import S3Store

        far = self._far
        return S3Store(
            "envkit",
            client_options={"allow_http": True},
            endpoint=far["AWS_ENDPOINT_URL"],
            region=far["AWS_REGION"],
            access_key_id=far["AWS_ACCESS_KEY_ID"],
            secret_access_key=far["AWS_SECRET_ACCESS_KEY"],
        )


class Envkit(Contestant):
    """`envkit run`."""

    rounds = 99

    def __init__(self, store: Store, name: str, title: str, *options: str) -> None:
        self.name = name
        self.title = title
        self.eager = "--eager" in options
        if self.eager:
            self.rounds = 3
        self._options = options
        self._store = store
        self._number = 0

    def argv(self, node: Path, tree: str, command: Sequence[str], *, again: bool = False) -> list[str]:
        root = ("--root", f"{node}/root")
        return [material.ENVKIT, *root, "run", "-e", environment(tree), *self._options, "--", *command]

    def environment(self) -> dict[str, str]:
        return self._store.environment()

    def end(self, node: Path) -> None:
        stop(node / "root")


class WrongPack(Envkit):
    """`envkit run` where the only start pack is of another command; each start has a clone of its own."""

    rounds = 2
    clones = 8

    def __init__(self, store: Store) -> None:
        super().__init__(store, "wrong pack", "`envkit run`, with the start pack of another command")
        self._started = 0

    def argv(self, node: Path, tree: str, command: Sequence[str], *, again: bool = False) -> list[str]:
        if self._started == self.clones:
            raise SystemExit("there are not enough clones for starts with a wrong start pack")
        self._started += 1
        return super().argv(node, f"wrong-{self._started - 1}", command, again=again)


def stop(root: Path) -> None:
    """End the image server of a node."""
    subprocess.run([material.ENVKIT, "--root", str(root), "cache", "stop", "--force"], capture_output=True)


def options() -> str:
    """Return what `envkit run` says of its options."""
    return subprocess.run([material.ENVKIT, "run", "--help"], capture_output=True, text=True).stdout


def version() -> str:
    """Return the version of envkit that is measured."""
    text = subprocess.run([material.ENVKIT, "--version"], capture_output=True, text=True).stdout.strip()
    return os.path.basename(text) or "envkit"
