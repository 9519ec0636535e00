"""A root file system with this machine's Python, for environments that run Python without a network."""

import functools
import os
import shutil
import subprocess
import sys
import sysconfig

import pytest


def libraries(path):
    """Return the shared libraries that a file needs, by their paths."""
    done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    words = (line.split() for line in done.stdout.splitlines())
    return {word for line in words for word in line if word.startswith("/")}


@pytest.fixture(scope="session")
def python_root(disk, tiny_root):
    """A root file system of busybox and this machine's Python."""
    root = f"{disk}/python"
    shutil.copytree(tiny_root, root, symlinks=True)
    real, library = os.path.realpath(sys.executable), sysconfig.get_path("stdlib")
    left_out = shutil.ignore_patterns("test", "idlelib", "config-*", "site-packages", "dist-packages", "ensurepip")
    shutil.copytree(library, f"{root}{library}", ignore=left_out, symlinks=False, ignore_dangling_symlinks=True)
    modules = [f"{library}/lib-dynload/{name}" for name in os.listdir(f"{library}/lib-dynload")]
    needed = functools.reduce(set.union, map(libraries, [real, *modules]))
    for path in {real, *needed}:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        shutil.copy(path, root + path)
    os.symlink(real, f"{root}/usr/bin/python3")
    return root
