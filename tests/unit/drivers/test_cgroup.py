import fcntl
import os

import pytest

from envkit.drivers import cgroup
from envkit.errors import Unavailable

NAME = "envkit-0123456789"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A tree that looks like /sys/fs/cgroup, and what the kernel says of this process: a function."""

    def make(lines, directories):
        for path in directories:
            (tmp_path / path).mkdir(parents=True, exist_ok=True)
            (tmp_path / path / "cgroup.procs").touch()
        monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
        monkeypatch.setattr(cgroup, "read_text", lambda _path, _limit: "".join(f"{line}\n" for line in lines))
        return tmp_path

    return make


def unified(machine, path, *more):
    root = machine([f"0::{path}"], [path.strip("/") or ".", *more])
    (root / "cgroup.controllers").touch()
    return root


def test_own_groups_of_version_1_are_found_in_each_hierarchy(machine):
    root = machine(
        ["4:memory:/slurm/job_1", "3:cpuacct,cpu:/slurm/job_1", "2:name=systemd:/x", "1:pids:/", "0::/y"],
        ["memory/slurm/job_1", "cpu,cpuacct/slurm/job_1", "systemd/x", "pids", "unified/y", "blkio"],
    )
    assert sorted(cgroup.own_groups()) == sorted(
        f"{root}/{path}"
        for path in ("memory/slurm/job_1", "cpu,cpuacct/slurm/job_1", "systemd/x", "pids", "unified/y", "blkio")
    )


@pytest.mark.parametrize("path", ["/not/seen/here", "/../above", "/.."])
def test_a_group_that_cannot_be_seen_is_replaced_by_the_top(machine, path):
    root = machine([f"4:memory:{path}"], ["memory"])
    assert cgroup.own_groups() == [f"{root}/memory"]


def test_version_2_has_one_group(machine):
    root = unified(machine, "/user.slice/session-1.scope")
    assert cgroup.own_groups() == [f"{root}/user.slice/session-1.scope"]


def test_in_version_2_a_process_goes_into_a_group_of_its_own_and_is_taken_back(machine):
    root = unified(machine, "/job")
    assert cgroup.nest(NAME) == [f"{root}/job/{NAME}"]
    assert (root / f"job/{NAME}/cgroup.procs").read_text() == "0"


def test_version_1_needs_no_group_of_its_own(machine):
    root = machine(["4:memory:/job"], ["memory/job"])
    assert cgroup.nest(NAME) == [f"{root}/memory/job"]
    assert os.listdir(root / "memory/job") == ["cgroup.procs"]


@pytest.mark.parametrize(
    ("path", "limited", "nested"),
    [("/", False, False), ("/", True, False), ("/session.scope", False, True), ("/session.scope", True, False)],
)
def test_in_version_2_a_container_with_limits_lies_at_the_top(machine, path, limited, nested):
    unified(machine, path)
    assert cgroup.can_nest(limited=limited) is nested


def test_nothing_leads_out_of_a_job_of_slurm(machine):
    unified(machine, "/system.slice/slurmstepd.scope/job_1/step_batch/user/task_0")
    assert cgroup.can_nest(limited=False)
    with pytest.raises(Unavailable, match="limits of its own") as refused:
        cgroup.can_nest(limited=True)
    assert "--mem" in refused.value.resolution


def test_version_1_can_always_nest(machine):
    machine(["4:memory:/job"], ["memory/job"])
    assert cgroup.can_nest(limited=True)


def test_the_groups_of_a_container_are_found_where_they_were_made(machine):
    root = machine([], ["memory/job/lxc.payload." + NAME, "memory/lxc.payload." + NAME, "pids"])
    assert cgroup.container_groups(NAME) == [f"{root}/memory/lxc.payload.{NAME}"]
    assert cgroup.container_groups(NAME, [f"{root}/memory/job"]) == [f"{root}/memory/job/lxc.payload.{NAME}"]


def test_what_containers_have_in_common_goes_with_the_last_one(machine):
    root = machine([], ["memory/job/lxc.pivot"])
    (root / "memory/job/lxc.pivot/cgroup.procs").unlink()  # in a real one it does not keep a group from being removed
    places = [f"{root}/memory/job"]
    others = cgroup.share(places)
    assert cgroup.remove_container_groups(NAME, places) == []
    assert (root / "memory/job/lxc.pivot").is_dir()
    for descriptor in others:
        os.close(descriptor)
    assert cgroup.remove_container_groups(NAME, places) == []
    assert not (root / "memory/job/lxc.pivot").exists()


def test_a_lock_that_a_stranger_never_gives_back_keeps_nobody_from_starting(machine, monkeypatch):
    root = machine([], ["memory/job"])
    monkeypatch.setattr(cgroup, "_SHORT", 0.01)
    stranger = os.open(root / "memory/job", os.O_RDONLY)
    fcntl.flock(stranger, fcntl.LOCK_EX)
    (descriptor,) = cgroup.share([f"{root}/memory/job"])
    os.close(descriptor)
    os.close(stranger)
