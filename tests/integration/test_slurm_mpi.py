"""An MPI program inside an environment, over the four nodes of a cluster."""

import glob
import os
import re
import shutil
import subprocess

import pytest
from slurm_cluster import PATIENCE
from slurm_files import CHECKOUT
from slurm_support import NODES

LIBRARY = next(iter(glob.glob("/usr/lib/*/libmpi.so.40")), None)
pytestmark = [
    pytest.mark.root,
    pytest.mark.lxc,
    pytest.mark.mpi,
]


@pytest.fixture(scope="module")
def mpi_root(disk, tiny_root):
    """A root file system with a ring of MPI processes, and this machine's Open MPI and PMIx."""
    root = f"{disk}/mpi"
    shutil.copytree(tiny_root, root, symlinks=True)
    ring = f"{root}/opt/ring"
    subprocess.run(["cc", "-o", ring, f"{CHECKOUT}/tests/mpi_ring.c", LIBRARY], check=True)
    libraries = os.path.dirname(LIBRARY)
    trees = [f"{libraries}/openmpi", f"{libraries}/pmix2", "/usr/share/openmpi", "/usr/share/pmix2", "/etc/openmpi"]
    for tree in filter(os.path.isdir, trees):
        shutil.copytree(tree, root + tree, symlinks=True, ignore_dangling_symlinks=True)
    programs = [ring, *glob.glob(f"{libraries}/openmpi/**/*.so*", recursive=True)]
    programs += glob.glob(f"{libraries}/pmix2/**/*.so*", recursive=True)
    text = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    for path in sorted(set(re.findall(r"(?:=> |^\s*)(/\S+) \(", text, re.MULTILINE))):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if not os.path.exists(root + path):
            shutil.copy2(path, root + path)
    return root


def test_ranks_on_four_nodes_find_one_another(slurm, cluster, mpi_root):
    def alice(*words):
        return cluster.run("sudo", "envkit", *words, user="alice")

    if not os.path.exists(f"{slurm.directory}/store/format.json"):
        cluster.run("envkit", "store", "init", f"{slurm.directory}/store")
    cluster.run("envkit", "base", "import", "mpi", mpi_root)
    # Slurm's nodes are all on this machine's loopback interface, which Open MPI leaves out unless it is told.
    words = ("-N", "4", "-n", "8", "--env", "OMPI_MCA_btl_tcp_if_include=lo", "-e", "base/mpi", "--", "/opt/ring")
    done = alice("submit", "--mpi", "pmix", *words)
    assert "note:" not in done.stderr
    job = done.stdout.strip()
    alice("wait", job, "--timeout", f"{PATIENCE:.0f}")
    lines = alice("result", job).stdout.splitlines()
    assert "ring of 8: 28" in lines
    hosts = [line.split()[3] for line in lines if line.startswith("rank ")]
    assert (len(hosts), sorted(set(hosts))) == (8, list(NODES))
