"""The kernel takes the options that envkit writes."""

import os
import shutil
import tempfile

import pytest

from envkit.drivers import libc
from envkit.overlay.options import overlay_options
from tests.overlay_support import ext4_disk, overlay

pytestmark = pytest.mark.root

HOSTILE = ["a,b", "a:b", "a\\b", "\\", "a\\,b", "a\\:b", ":", ",", ",redirect_dir=on", "::", "a b\n", "\u00fc"]


@pytest.fixture(scope="module")
def disk():
    with ext4_disk() as directory:
        yield directory


@pytest.fixture
def root(disk):
    directory = tempfile.mkdtemp(dir=disk)
    yield directory
    shutil.rmtree(directory)


def mount_line(target):
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        return next(line for line in mounts if line.split(" ")[1] == target)


@pytest.mark.parametrize("name", HOSTILE)
def test_directories_of_any_name_can_be_stacked(root, name):
    for kind in ("lower", "other", "upper", "work"):
        os.mkdir(f"{root}/{name}.{kind}")
    os.mkdir(f"{root}/merged")
    for kind in ("lower", "other"):
        with open(f"{root}/{name}.{kind}/{kind}", "w", encoding="ascii") as file:
            file.write(kind)
    lowers = [f"{name}.lower", f"{name}.other"]
    with overlay(root, "merged", lowers, upper=f"{name}.upper", work=f"{name}.work") as merged:
        assert sorted(os.listdir(merged)) == ["lower", "other"]
        os.mkdir(f"{merged}/new")
        assert "redirect_dir=nofollow" in mount_line(merged)
        assert "redirect_dir=on" not in mount_line(merged).split(",")
    assert os.listdir(f"{root}/{name}.upper") == ["new"]


def test_the_first_directory_is_the_topmost(root):
    for name in ("0", "1", "merged"):
        os.mkdir(f"{root}/{name}")
    for name in ("0", "1"):
        with open(f"{root}/{name}/file", "w", encoding="ascii") as file:
            file.write(name)
    with overlay(root, "merged", ["0", "1"]) as merged, open(f"{merged}/file", encoding="ascii") as file:
        assert file.read() == "0"


def test_four_hundred_layers_can_be_stacked(root):
    names = [str(number) for number in range(400)]
    for name in (*names, "upper", "work", "merged"):
        os.mkdir(f"{root}/{name}")
    os.mkdir(f"{root}/399/bottom")
    with overlay(root, "merged", names, upper="upper", work="work") as merged:
        assert os.listdir(merged) == ["bottom"]


def test_a_redirect_that_was_smuggled_into_a_layer_is_not_followed(root):
    for name in ("top", "bottom", "bottom/secret", "top/pub", "merged"):
        os.mkdir(f"{root}/{name}")
    with open(f"{root}/bottom/secret/s", "w", encoding="ascii") as file:
        file.write("hidden")
    os.setxattr(f"{root}/top/pub", "trusted.overlay.redirect", b"/secret")
    with overlay(root, "merged", ["top", "bottom"]) as merged, pytest.raises(PermissionError):
        os.listdir(f"{merged}/pub")


def test_renaming_a_directory_of_a_lower_layer_writes_no_redirect(root):
    for name in ("lower", "lower/d", "upper", "work", "merged"):
        os.mkdir(f"{root}/{name}")
    with (
        overlay(root, "merged", ["lower"], upper="upper", work="work") as merged,
        pytest.raises(OSError, match="Invalid cross-device link"),
    ):
        os.rename(f"{merged}/d", f"{merged}/e")


def test_a_job_does_not_wait_for_the_disk(root):
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{root}/{name}")
    options = overlay_options([f"{root}/lower"], upper=f"{root}/upper", work=f"{root}/work")
    libc.mount("envkit", f"{root}/merged", "overlay", 0, options)
    try:
        assert "volatile" in mount_line(f"{root}/merged")
    finally:
        libc.umount(f"{root}/merged")
