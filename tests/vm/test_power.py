"""The judge of power cuts, without a guest: it sees a save that is gone, one with another content, and a damaged store."""

import hashlib
import os
import subprocess

import pytest
from commandline import Envkit
from vm.power import ENV, Promises, Snapshot, check_snapshot

pytestmark = [pytest.mark.root, pytest.mark.lxc]

CONTENT = b"kept" * 1000


@pytest.fixture
def place(tmp_path):
    (tmp_path / "mounted").mkdir()
    return tmp_path / "mounted"


@pytest.fixture
def judge(place, tmp_path, tiny_root):
    """A function that checks a disk with one save and one loose file; it may be told to change something first."""
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)

    def changed(change):
        subprocess.run(["mount", "-o", "loop", disk, place], check=True)
        try:
            change()
        finally:
            subprocess.run(["umount", place], check=True)

    def fill():
        envkit = Envkit(f"{place}/root")
        envkit("base", "import", "tiny", tiny_root).ok()
        with envkit.session(ENV):
            envkit("exec", ENV, "--", "sh", "-c", "cat >/opt/file", input=CONTENT).ok()
            envkit("save", ENV).ok()
        envkit("cache", "stop", "--force").ok()
        os.mkdir(f"{place}/loose")
        with open(f"{place}/loose/there", "wb") as file:
            file.write(CONTENT)

    changed(fill)
    digest = hashlib.sha256(CONTENT).hexdigest()

    def judged(saved, *, change=None):
        if change is not None:
            changed(change)
        loose = {"there": digest, "gone": digest}
        return check_snapshot(Snapshot(str(disk), Promises(saved, loose)), str(place))

    judged.digest = digest
    return judged


def test_what_was_promised_is_there_and_lost_files_are_counted(judge):
    assert judge({f"lab/{ENV}@1": judge.digest}) == 1


def test_a_save_that_is_gone_or_another_one_is_seen(judge):
    with pytest.raises(AssertionError, match="@2 is gone"):
        judge({f"lab/{ENV}@1": judge.digest, f"lab/{ENV}@2": judge.digest})
    with pytest.raises(AssertionError, match="another content"):
        judge({f"lab/{ENV}@1": "0" * 64})


def test_a_store_with_a_hole_in_it_is_seen(judge, place):
    def tear():
        packs = sorted(path for path in (place / "root/store/packs").glob("*/*") if path.stat().st_size)
        with open(packs[0], "r+b") as file:
            file.truncate(packs[0].stat().st_size // 2)

    with pytest.raises(AssertionError):
        judge({f"lab/{ENV}@1": judge.digest}, change=tear)
