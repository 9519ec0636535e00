"""What the harnesses need: a disk, a process that forks command lines, and the roots of the integration tests."""

import os
import shutil

import pytest
from faults.image_world import new_node, origin  # noqa: F401  # fixtures
from gates import skip_or_fail
from integration.conftest import disk, envkit, new_root, shared, tiny, tiny_root  # noqa: F401  # fixtures
from torture_support import Zygote


@pytest.fixture(scope="session")
def zygote(disk):  # noqa: F811
    """Forks command lines; see `Zygote`."""
    with Zygote(f"{disk}/zygote") as process:
        yield process


@pytest.fixture(scope="session")
def strace_here(pytestconfig):
    """strace can be used; nothing else can make a system call fail."""
    if shutil.which("strace") is None:
        skip_or_fail(pytestconfig, "strace is not installed")


@pytest.fixture
def scratch(disk, request):  # noqa: F811
    """A directory on the disk for one test."""
    path = f"{disk}/{request.node.name.replace('/', '-').replace(':', '-')}"
    os.mkdir(path)
    return path
