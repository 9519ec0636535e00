"""The judge of power cuts, without a guest: it sees a save that is gone, one with another content, and a damaged store."""

import hashlib
import os
import shlex
import signal
import subprocess

import pytest
from commandline import Envkit, wait_until
from vm.moments import in_memory
from vm.power import BEFORE, ENV
from vm.power_judge import judge
from vm.promises import Moment, Promises

from envkit.drivers.process import start_time

pytestmark = [pytest.mark.root, pytest.mark.lxc]

CONTENT = b"kept" * 1000
OPEN = "open"


def crash(envkit, session):
    """End a session's container as a power cut would."""
    monitor = envkit.monitor(session)
    os.kill(monitor, signal.SIGKILL)
    wait_until(lambda: start_time(monitor) is None, "the monitor ends")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "mounted").mkdir()
    return tmp_path / "mounted"


@pytest.fixture
def image(tmp_path):
    with in_memory(tmp_path / "memory") as memory:
        yield memory / "disk"


@pytest.fixture
def judged(place, image, tiny_root):
    """A function that checks a disk with one save and one loose file; it may be told to change something first."""
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)

    def changed(change):
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
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
        envkit("create", OPEN, "--base", "tiny", "--no-shell").ok()
        envkit("exec", OPEN, "--", *shlex.split(BEFORE)).ok()
        crash(envkit, OPEN)
        envkit("cache", "stop", "--force").ok()
        os.mkdir(f"{place}/loose")
        with open(f"{place}/loose/there", "wb") as file:
            file.write(CONTENT)

    changed(fill)
    digest = hashlib.sha256(CONTENT).hexdigest()

    def judged_after(saved, *, change=None):
        if change is not None:
            changed(change)
        loose = {"there": digest, "gone": digest}
        return judge(Moment(str(image), Promises(saved, loose), "now"), str(place), session=OPEN)

    judged_after.digest = digest
    return judged_after


def test_what_was_promised_is_there_and_lost_files_are_counted(judged):
    assert judged({f"lab/{ENV}@1": judged.digest}) == 1


def test_a_save_that_is_gone_or_another_one_is_seen(judged):
    with pytest.raises(AssertionError, match="@2 is gone"):
        judged({f"lab/{ENV}@1": judged.digest, f"lab/{ENV}@2": judged.digest})
    with pytest.raises(AssertionError, match="another content"):
        judged({f"lab/{ENV}@1": "0" * 64})


def test_a_store_with_a_hole_in_it_is_seen(judged, place):
    def tear():
        packs = sorted(path for path in (place / "root/store/packs").glob("*/*") if path.stat().st_size)
        with open(packs[0], "r+b") as file:
            file.truncate(packs[0].stat().st_size // 2)

    with pytest.raises(AssertionError):
        judged({f"lab/{ENV}@1": judged.digest}, change=tear)
