"""Devices of the host in a container: nodes that are named, and "GPUs" that a CDI file describes."""

import contextlib
import json
import os

import pytest
from commandline import ALICE, User

DIRECTORY = "/etc/cdi"
KIND = "envkit-test.example/gpu"
TINY = "base/tiny"


@pytest.fixture
def gpu(place):
    """A GPU called 7 whose node is /dev/full, with a library and a variable."""
    library = place / "libgpu.so.1"
    library.write_text("a library\n")
    spec = {
        "cdiVersion": "0.5.0",
        "kind": KIND,
        "devices": [{"name": "7", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu/seven", "hostPath": "/dev/full"}]}}],
        "containerEdits": {
            "env": ["GPU_DRIVER=9"],
            "mounts": [{"hostPath": str(library), "containerPath": "/usr/lib/gpu/libgpu.so.1", "options": ["ro"]}],
            "hooks": [
                {"hookName": "createContainer", "args": ["ctk", "hook", "update-ldcache", "--folder", "/usr/lib/gpu"]},
                {"hookName": "createContainer", "args": ["ctk", "create-symlinks", "--link", "libgpu.so.1::/usr/lib/gpu/libgpu.so"]},
            ],
        },
    }  # fmt: skip
    with contextlib.ExitStack() as cleanup:
        if not os.path.isdir(DIRECTORY):
            os.mkdir(DIRECTORY)
            cleanup.callback(os.rmdir, DIRECTORY)
        path = f"{DIRECTORY}/envkit-test.json"
        with open(path, "x", encoding="utf-8") as file:
            json.dump(spec, file)
        cleanup.callback(os.unlink, path)
        yield "7"


@pytest.mark.parametrize("user", [None, ALICE], ids=["root", "alice"])
def test_a_gpu_is_there_with_its_library_and_variable(envkit, gpu, user):
    script = "cat /usr/lib/gpu/libgpu.so; echo $GPU_DRIVER $LD_LIBRARY_PATH; echo x > /dev/gpu/seven"
    outcome = envkit.sh(TINY, script, options=("--gpus", gpu), user=user)
    assert outcome.stdout == "a library\n9 /usr/lib/gpu\n"
    assert "No space left" in outcome.stderr


def test_what_belongs_to_a_gpu_is_read_only_and_not_there_without_it(envkit, gpu):
    assert "Read-only" in envkit.sh(TINY, "echo x > /usr/lib/gpu/libgpu.so.1", options=("--gpus", "all")).stderr
    assert envkit.sh(TINY, "ls /dev/gpu /usr/lib/gpu; echo [$LD_LIBRARY_PATH]").stdout == "[]\n"


def test_a_gpu_that_is_not_there_runs_nothing(envkit, gpu):
    envkit("run", "-e", TINY, "--gpus", "8", "--", "true").fails(125, "this machine has no GPU '8'", "it has 7")


def test_a_device_is_there_where_it_is_asked_for(envkit):
    outcome = envkit.sh(TINY, "echo x > /dev/full", options=("--device", "/dev/full"))
    assert outcome.code == 1 and "No space left" in outcome.stderr
    assert envkit.sh(TINY, "test -c /dev/fuse").code == 1
    assert envkit.sh(TINY, "test -c /dev/fuse", options=("--device", "/dev/fuse")).code == 0


def test_a_device_can_be_used_by_those_who_may_use_it_on_the_host(envkit, tmp_path):
    """Its mode and owner are the host's: nobody gets more than they had."""
    mine, group = User(54_400, 54_400, "mine"), User(54_401, 54_321, "group")
    path = f"/dev/envkit-test-{os.getpid()}"
    os.mknod(path, 0o020600, os.makedev(1, 3))
    try:
        os.chmod(path, 0o660)
        os.chown(path, mine.uid, group.gid)
        for user, code in ((mine, 0), (group, 0), (User(54_402, 54_402, "other"), 1)):
            assert envkit.sh(TINY, f"echo x > {path}", options=("--device", path), user=user).code == code, user
    finally:
        os.unlink(path)


@pytest.mark.parametrize(
    ("path", "text"),
    [("/dev/nonsense", "no device"), ("/etc/passwd", "no path below /dev"), ("/dev/../etc/passwd", "below /dev")],
)
def test_what_is_no_device_is_refused(envkit, path, text):
    envkit("run", "-e", TINY, "--device", path, "--", "true").fails(125, text)
