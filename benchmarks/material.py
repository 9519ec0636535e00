"""Owns what the saves are measured with: layers that real sessions gave, each kept as a plain directory.

They are built once, with envkit itself and from the package mirrors, and kept below CACHE, so that all contestants get
the same files and later runs need no network. A directory is an overlay's upper: whiteouts are device nodes 0/0 and
opaque directories have `trusted.overlay.opaque`, owners are those inside of the container. What sanitizing leaves out
is not in it.
"""

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from envkit.content import treefile
from envkit.content.reader import ChunkReader
from envkit.image.directory import apply_tree
from envkit.model.tree import Kind, Tree

CACHE = Path("/var/tmp/envkit-bench")
# The command line and the package that this interpreter imports must be the same release: run scripts/provision first.
ENVKIT = os.environ.get("ENVKIT_COMMAND", "/usr/local/bin/envkit")
BASE = "debian-12"
OPAQUE = "trusted.overlay.opaque"
_PACKAGES = Path("usr/local/lib/python3.11/dist-packages")
TOOLS = "build-essential gfortran perl python3-dev libssl-dev imagemagick"
LARGE_PIP = (
    "numpy scipy pandas scikit-learn matplotlib statsmodels jupyterlab sympy numba pyarrow polars xarray dask networkx"
    " bokeh plotly opencv-python-headless"
)
LARGE_BYTES = 5 << 30
_PART = 512 << 20
_OLDER = """\
cat >/etc/apt/preferences.d/older <<END
Package: *
Pin: release n=bookworm
Pin-Priority: 1001
END
apt-get -qq update
apt-get -qq -y --allow-downgrades dist-upgrade >/dev/null
apt-get -qq -y --no-install-recommends install {tools} >/dev/null
"""
_NEWER = """\
rm /etc/apt/preferences.d/older
apt-get -qq -y dist-upgrade >/dev/null
"""
_RECORDING = """\
import os, sys
import numpy
generator = numpy.random.default_rng({seed})
time = numpy.arange({samples} // 64)[:, None]
for part in range({parts}):
    slow = 2000 * numpy.sin((time + part * len(time)) / generator.uniform(1e3, 1e5, 64))
    sys.stdout.buffer.write((slow + generator.normal(0, 8, slow.shape)).astype(numpy.int16).tobytes())
"""
_EDITS = """\
import sys
import numpy
generator = numpy.random.default_rng(2)
with open("/data/recording.raw", "r+b") as file, open("/root/other", "rb") as other:
    fresh = other.read()
    for _ in range(100):
        length = int(4096 * 2 ** generator.uniform(0, 8))
        file.seek(int(generator.integers(0, (1 << 30) - length)))
        start = int(generator.integers(0, len(fresh) - length))
        file.write(fresh[start : start + length])
with open("/data/recording.raw", "rb") as old, open("/data/new", "wb") as new:
    new.write(old.read(100_000) + fresh[:12_345])
    while piece := old.read(1 << 20):
        new.write(piece)
"""


@dataclass(frozen=True)
class Layer:
    """One save's worth of files, as a directory."""

    name: str
    title: str
    directory: Path

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in _files(self.directory))

    @property
    def entries(self) -> int:
        return sum(1 for _ in _files(self.directory))


LAYERS = {
    "a": "numpy and scipy, by pip",
    "b": "the same session, and pandas and scikit-learn",
    "c1": f"compilers and libraries of Debian's last point release, by apt: {TOOLS}",
    "c2": "the same session after the security updates since then",
    "d1": "a recording of 1 GiB: 64 channels of 16-bit samples",
    "d2": "the same after 100 edits of 4 KiB to 1 MiB and an insertion near the beginning",
    "e": "as b, by a second user: other order, other times, compiled by themselves",
}


def layers() -> list[Layer]:
    """Return the layers in the order in which they are saved, built if they are not there."""
    if not (CACHE / "material" / "complete").exists():
        _build()
    return [Layer(name, title, CACHE / "material" / name) for name, title in LAYERS.items()]


def base() -> Path:
    """Return the root file system of the base that the layers lie on."""
    layers()
    return CACHE / "material" / "base"


def new_root(directory: Path) -> None:
    """Make a root directory of envkit whose store holds the base alone."""
    envkit(directory, "base", "import", BASE, str(base()))


def environment(root: Path) -> dict[str, str]:
    """Return the variables that make envkit use a root directory of its own, and the store in it."""
    return {**os.environ, "ENVKIT_ROOT": str(root), "ENVKIT_OWNER": "bench"}


def envkit(root: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run envkit with a root directory of its own; return its standard output."""
    done = subprocess.run([ENVKIT, *arguments], env=environment(root), input=stdin, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"envkit {shlex.join(arguments)} failed with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def large() -> Layer:
    """Return a layer of 5 GiB: well-known packages and recordings; built if it is not there."""
    layers()
    directory = CACHE / "large"
    if not (CACHE / "large.complete").exists():
        shutil.rmtree(directory, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=CACHE) as scratch:
            _build_large(Path(scratch), directory)
        (CACHE / "large.complete").touch()
    return Layer("large", "packages and recordings", directory)


def load_tree(store: Path, environment: str) -> tuple[Tree, ChunkReader]:
    """Return the topmost tree of an environment's last version, and what reads its chunks."""
    version = json.loads(max((store / "envs" / environment).glob("*.json")).read_text())
    digest = version["layers"][-1]["tree"]
    tree = treefile.decode((store / "trees" / digest[:2] / digest).read_bytes(), digest)
    return tree, ChunkReader(_ranges(store))


def _ranges(store: Path) -> Callable[[str, int, int], bytes]:
    def read(digest: str, start: int, length: int) -> bytes:
        with open(store / "packs" / digest[:2] / digest, "rb") as file:
            return os.pread(file.fileno(), length, start)

    return read


def write_upper(tree: Tree, reader: ChunkReader, directory: Path) -> None:
    """Write a layer as the upper directory of an overlay."""
    directory.mkdir(parents=True)
    apply_tree(tree, lambda number: reader.read(tree.chunks[number]), str(directory))
    for entry in tree.entries:
        path = os.path.join(os.fsencode(directory), entry.path)
        if entry.kind is Kind.WHITEOUT:
            os.mknod(path, stat.S_IFCHR | 0o000, os.makedev(0, 0))
        elif entry.opaque:
            os.setxattr(path, OPAQUE, b"y")
    for entry in tree.entries:
        if entry.kind is Kind.DIRECTORY:  # a whiteout has moved its time
            os.utime(os.path.join(os.fsencode(directory), entry.path), ns=(entry.mtime_ns, entry.mtime_ns))


def fill_session(root: Path, name: str, layer: Path) -> None:
    """Make a session's upper the same as a layer's directory, from inside the session: delete, then unpack."""
    hiding = _hiding(layer)
    if hiding:
        gone = "".join(f"/{path.relative_to(layer)}\0" for path in hiding)
        envkit(root, "exec", name, "--", "xargs", "-0", "rm", "-rf", "--", stdin=gone)
    excluded = CACHE / f"excluded.{os.getpid()}"
    excluded.write_text("".join(f"./{path.relative_to(layer)}\n" for path in hiding if not path.is_dir()))
    options = ["--anchored", "--no-wildcards", f"--exclude-from={excluded}", "--numeric-owner", "--sparse"]
    pack = ["tar", "-C", str(layer), *options, "-c", "."]
    unpack = [ENVKIT, "exec", name, "--", "tar", "-C", "/", "--numeric-owner", "-x", "-p", "-f", "-"]
    try:
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
            subprocess.run(unpack, stdin=packing.stdout, env=environment(root), check=True)
        if packing.returncode:
            raise SystemExit(f"{shlex.join(pack)} failed with {packing.returncode}")
    finally:
        excluded.unlink()


def _hiding(layer: Path) -> list[Path]:
    """Return what hides something of the layers below: whiteouts and opaque directories."""
    found = []
    for path, status in _walk(layer):
        if stat.S_ISCHR(status.st_mode) or (stat.S_ISDIR(status.st_mode) and OPAQUE in os.listxattr(path)):
            found.append(path)
    return found


def _walk(directory: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for parent, folders, files in os.walk(directory):
        found += [(path, path.lstat()) for path in (Path(parent, name) for name in (*folders, *files))]
    return found


def _files(directory: Path) -> list[tuple[int, Path]]:
    return [(status.st_size if stat.S_ISREG(status.st_mode) else 0, path) for path, status in _walk(directory)]


def _build() -> None:
    """Build the base and all layers in sessions; several minutes and about 500 MB from the mirrors."""
    material = CACHE / "material"
    shutil.rmtree(material, ignore_errors=True)
    material.mkdir(parents=True)
    root = material / "root"
    print(f"building the layers in {material}", file=sys.stderr)
    envkit(root, "base", "build", BASE)
    try:
        write_upper(*load_tree(root / "store", f"base/{BASE}"), material / "base")
        _build_python(root, material)
        _build_tools(root, material)
        _build_data(root, material)
    finally:
        for name in ("sci", "tools", "data", "second"):
            if (root / "sessions" / "bench" / name).exists():
                envkit(root, "close", name, "--discard")
    shutil.rmtree(root)
    (material / "complete").touch()


def _session(root: Path, name: str, *origin: str) -> Callable[[str], str]:
    envkit(root, "create", name, *(origin or ("--base", BASE)), "--no-shell")
    return lambda script: envkit(root, "exec", name, "--", "sh", "-c", f"set -e\n{script}")


def _keep(root: Path, name: str, directory: Path) -> None:
    envkit(root, "save", name)
    write_upper(*load_tree(root / "store", f"bench/{name}"), directory)


def _build_python(root: Path, material: Path) -> None:
    run = _session(root, "sci")
    run("pip install -q numpy scipy")
    _keep(root, "sci", material / "a")
    run("pip install -q pandas scikit-learn")
    _keep(root, "sci", material / "b")
    (material / "versions").write_text(run("pip list --format=freeze"))
    run = _session(root, "second")
    run("pip install -q --no-compile scikit-learn")
    run("pip install -q --no-compile pandas")
    run(f"python3 -m compileall -q /{_PACKAGES}")
    _keep(root, "second", material / "e")


def _build_tools(root: Path, material: Path) -> None:
    run = _session(root, "tools")
    run(_OLDER.format(tools=TOOLS))
    _keep(root, "tools", material / "c1")
    run(_NEWER)
    _keep(root, "tools", material / "c2")


def _build_data(root: Path, material: Path) -> None:
    run = _session(root, "data", "--from", "sci")
    recording = shlex.quote(_RECORDING.format(seed=1, samples=1 << 25, parts=16))
    other = shlex.quote(_RECORDING.format(seed=3, samples=1 << 24, parts=1))
    run(f"mkdir /data; python3 -c {recording} >/data/recording.raw")
    _keep(root, "data", material / "d1")
    run(f"python3 -c {other} >/root/other; python3 -c {shlex.quote(_EDITS)}")
    run("cat /data/new >/data/recording.raw; rm /data/new /root/other")
    _keep(root, "data", material / "d2")


def _build_large(scratch: Path, directory: Path) -> None:
    root = scratch / "root"
    new_root(root)
    envkit(root, "create", "large", "--base", BASE, "--no-shell")
    print(f"building a layer of 5 GiB in {directory}", file=sys.stderr)
    try:
        for script in (
            f"apt-get -qq update; apt-get -qq -y --no-install-recommends install {TOOLS} cmake git r-base-core",
            f"pip install -q {LARGE_PIP}",
            "mkdir /data",
        ):
            envkit(root, "exec", "large", "--", "sh", "-c", f"set -e\n{script} >/dev/null")
        number = 0
        while (missing := LARGE_BYTES - _session_bytes(root)) > 0:
            number += 1
            length = min(missing, _PART)
            program = shlex.quote(_RECORDING.format(seed=10 + number, samples=1 << 24, parts=16))
            script = f"python3 -c {program} | head -c {length} >/data/recording.{number}"
            envkit(root, "exec", "large", "--", "sh", "-c", script)
        envkit(root, "save", "large")
        write_upper(*load_tree(root / "store", "bench/large"), directory)
    finally:
        envkit(root, "close", "large", "--discard")


def _session_bytes(root: Path) -> int:
    return int(json.loads(envkit(root, "save", "large", "--plan", "--json"))["bytes"])
