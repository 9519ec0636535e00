import os

import pytest

from envkit.drivers import newroot
from envkit.drivers.errors import KernelRefused
from envkit.model.recipe import RecipeFile

SOURCES = "Types: deb\n"
OLD, START = 1_600_000_000, 1_700_000_000


@pytest.fixture
def root(tmp_path):
    """A root as a build leaves it: merged /usr, traces of the machine, one file from a package."""
    top = tmp_path / "root"
    for name in (
        "usr/sbin",
        "usr/bin",
        "etc/apt/sources.list.d",
        "etc/apt/apt.conf.d",
        "etc/ssh",
        "dev/pts",
        "run/lock",
    ):
        (top / name).mkdir(parents=True)
    for name in ("var/log/apt", "var/lib/apt/lists/partial", "var/lib/dpkg", "var/cache/debconf", "tmp"):
        (top / name).mkdir(parents=True)
    (top / "sbin").symlink_to("usr/sbin")
    for name in (
        "etc/resolv.conf",
        "etc/hostname",
        "etc/passwd",
        "etc/passwd-",
        "etc/shadow-",
        "etc/.pwd.lock",
        "etc/apt/sources.list",
        "etc/apt/sources.list.d/0000build.list",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/apt/apt.conf.d/01autoremove",
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_config",
        "var/log/dpkg.log",
        "var/log/lastlog",
        "var/log/apt/term.log",
        "var/lib/apt/lists/a_Packages",
        "var/lib/dpkg/status",
        "var/lib/dpkg/status-old",
        "dev/null",
        "tmp/left",
        "usr/bin/tool",
    ):
        (top / name).write_text("of the building machine")
    os.utime(top / "usr/bin/tool", (OLD, OLD))
    return top


def listing(root):
    return sorted(os.path.relpath(os.path.join(top, name), root) for top, _, names in os.walk(root) for name in names)


def test_traces_of_the_building_machine_are_gone(root):
    newroot.finish(str(root), sources=SOURCES, started=START)
    assert listing(root) == [
        "etc/apt/apt.conf.d/01autoremove",
        "etc/apt/sources.list.d/debian.sources",
        "etc/hostname",
        "etc/hosts",
        "etc/machine-id",
        "etc/passwd",
        "etc/resolv.conf",
        "etc/ssh/ssh_config",
        "usr/bin/tool",
        "var/lib/dpkg/status",
        "var/log/lastlog",
    ]
    for name in ("etc/hostname", "etc/machine-id", "etc/resolv.conf"):
        assert (root / name).read_bytes() == b""
    assert (root / "etc/machine-id").stat().st_mode & 0o7777 == 0o444
    assert (root / "etc/apt/sources.list.d/debian.sources").read_text() == SOURCES
    assert os.listdir(root / "dev") == []


def test_a_link_to_the_hosts_resolver_is_replaced_and_not_followed(root, tmp_path):
    outside = tmp_path / "stub"
    outside.write_text("nameserver 127.0.0.53")
    (root / "etc/resolv.conf").unlink()
    (root / "etc/resolv.conf").symlink_to(outside)
    newroot.finish(str(root), sources=SOURCES, started=START)
    assert not (root / "etc/resolv.conf").is_symlink()
    assert outside.read_text() == "nameserver 127.0.0.53"


def test_a_recipes_file_has_the_mode_that_it_asks_for_whatever_the_umask(root):
    before = os.umask(0o077)
    try:
        newroot.write(str(root), RecipeFile(path="/opt/site/bin/run", content=b"#!/bin/sh\n", mode=0o755))
    finally:
        os.umask(before)
    assert (root / "opt/site/bin/run").stat().st_mode & 0o7777 == 0o755
    assert (root / "opt/site").stat().st_mode & 0o7777 == 0o755


def test_links_lead_inside_the_root(root, tmp_path):
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (root / "abs").symlink_to("/usr/sbin")
    (root / "up").symlink_to("../../../../usr/sbin")
    for link in ("sbin", "abs", "up"):
        newroot.write(str(root), RecipeFile(path=f"/{link}/from-{link}", content=b""))
    assert sorted(os.listdir(root / "usr/sbin")) == ["from-abs", "from-sbin", "from-up"]
    assert os.listdir(tmp_path / "usr/sbin") == []


def test_cleaning_does_not_leave_the_root_by_a_link(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("")
    (root / "run/lock").rmdir()
    (root / "run").rmdir()
    (root / "run").symlink_to(outside)
    (root / "tmp/link").symlink_to(outside)
    newroot.finish(str(root), sources=SOURCES, started=START)
    assert os.listdir(outside) == ["keep"]
    assert os.listdir(root / "tmp") == []


def test_a_file_where_a_directory_is_wanted_is_told(root):
    with pytest.raises(KernelRefused, match=r"cannot write /etc/passwd/x in the new root: Not a directory"):
        newroot.write(str(root), RecipeFile(path="/etc/passwd/x", content=b""))
    with pytest.raises(KernelRefused, match=r"cannot write /etc/apt in the new root: Is a directory"):
        newroot.write(str(root), RecipeFile(path="/etc/apt", content=b""))


def test_all_that_the_build_made_has_the_time_of_the_newest_packaged_file(root):
    newroot.finish(str(root), sources=SOURCES, started=START)
    times = {
        name: (root / name).lstat().st_mtime for name in ("etc/hosts", "etc/passwd", "etc", "sbin", "usr/bin/tool")
    }
    assert set(times.values()) == {OLD}
    assert root.stat().st_mtime == OLD
