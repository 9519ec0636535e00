"""Owns what `cold_start` starts: two trees, and the forms in which its contestants fetch them.

`science` is a Debian with Python, its scientific packages and a compiler; `weights` little more than one large file of
noise. Trees and forms are made once and kept below CACHE: only the first run needs the package mirrors.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from contestants import run
from material import CACHE as _ALL

from envkit.config.recipe import read_recipe
from envkit.drivers.bootstrap import build_root

CACHE = _ALL / "cold"
RECIPE = Path(__file__).parent / "cold_start.toml"
WEIGHTS_BYTES = 500_000_000
_TOOLS = ("cat", "sh", "true", "wc")
_DIRECTORIES = ("bin", "data", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var")
CHUNKS = 1 << 20
"""Bytes of casync's chunks on average: it fetches one after the other, and with its default 64 KiB takes minutes."""
_SIBLING = 4_000_000
"""Bytes that the sibling environment adds to the science tree."""

TREES = ("science", "weights")
SERVED = CACHE / "served"
"""What the web server serves: archives, images, casync's chunks."""


def tree(name: str) -> Path:
    """Return the directory of a tree."""
    return CACHE / name


def build() -> None:
    """Make what is not there yet; a few minutes and 250 MB from the mirrors."""
    SERVED.mkdir(parents=True, exist_ok=True)
    _once(tree("science"), _science, RECIPE.read_text())
    _once(tree("weights"), _weights, str(WEIGHTS_BYTES))
    for name in TREES:
        made_from = stamp(tree(name))
        _once(SERVED / f"{name}.tar.zst", _archive(name), made_from)
        _once(SERVED / f"{name}.erofs", _image(name), made_from)
        _once(SERVED / f"{name}.erofs.zst", _compressed_image(name), made_from)
    _once(SERVED / "science.castr", _chunks("science"), f"{CHUNKS}{stamp(tree('science'))}")


def sibling(directory: Path) -> None:
    """Write what the sibling environment has more than the science tree."""
    package = directory / "opt/bench"
    package.mkdir(parents=True, exist_ok=True)
    (package / "table").write_bytes(random.Random(2).randbytes(_SIBLING))
    (package / "sibling.py").write_text("import numpy\n\nprint(numpy.fromfile('/opt/bench/table', 'u1').size)\n")


def stamp(path: Path) -> str:
    """Return what a file or directory was made from."""
    return _stamp(path).read_text()


def _stamp(path: Path) -> Path:
    return CACHE / f"{path.name}.complete"


def _once(path: Path, make: Callable[[Path], object], made_from: str) -> None:
    """Make a file or directory unless it is there and was made from the same."""
    note = _stamp(path)
    if path.exists() and note.exists() and note.read_text() == made_from:
        return
    print(f"making {path}", file=sys.stderr, flush=True)
    note.unlink(missing_ok=True)
    remove(path)
    make(path)
    note.write_text(made_from)


def remove(path: Path) -> None:
    """Remove a file or directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _science(path: Path) -> None:
    build_root(read_recipe(str(RECIPE)), os.fspath(path))


def _weights(path: Path) -> None:
    need = shutil.which("busybox")
    if need is None:
        raise SystemExit("not installed: busybox-static. Run scripts/provision --bench")
    for name in _DIRECTORIES:
        (path / name).mkdir(parents=True)
    shutil.copy(need, path / "bin/busybox")
    for name in _TOOLS:
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\n")
    noise = random.Random(1)
    with open(path / "data/weights", "wb") as file:
        for begin in range(0, WEIGHTS_BYTES, 1 << 20):
            file.write(noise.randbytes(min(1 << 20, WEIGHTS_BYTES - begin)))


def _archive(name: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        pack = ["tar", "-C", str(tree(name)), "--numeric-owner", "--sort=name", "-c", "."]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
            subprocess.run(["zstd", "-q", "-3", "-T0", "-o", path], stdin=packing.stdout, check=True)
        if packing.returncode:
            raise SystemExit(f"tar of {name} failed with {packing.returncode}")

    return make


def _image(name: str) -> Callable[[Path], object]:
    return lambda path: run("mkfs.erofs", "-T0", str(path), str(tree(name)))


def _compressed_image(name: str) -> Callable[[Path], object]:
    return lambda path: run("zstd", "-q", "-3", "-T0", str(SERVED / f"{name}.erofs"), "-o", str(path))


def _chunks(name: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        run(
            "casync",
            "make",
            f"--chunk-size={CHUNKS}",
            f"--store={path}",
            str(SERVED / f"{name}.caidx"),
            str(tree(name)),
        )

    return make
