"""Disks that are full, out of inodes or turn read-only, and limits of a process: what is there stays, later saves work."""

import contextlib
import os
import shutil
import subprocess
import threading

import pytest
from faults.campaign import told
from faults.scenarios import SEED
from torture_support import Saving, Violation, World

pytestmark = pytest.mark.root

_SIZE = 32 << 20


class Disk:
    """An ext4 of 32 MB in a file, mounted at `directory`; `options` are those of mkfs."""

    def __init__(self, directory, options):
        self.directory = directory
        self._image = f"{directory}.ext4"
        self._devices = []
        os.mkdir(directory)
        with open(self._image, "wb") as file:
            file.truncate(_SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-b", "1024", *options, self._image], check=True)
        self._mount()

    def _mount(self):
        attached = subprocess.run(["losetup", "-f", "--show", self._image], check=True, capture_output=True, text=True)
        self._devices.append(attached.stdout.strip())
        subprocess.run(["mount", self._devices[-1], self.directory], check=True)

    def turn_read_only(self):
        """As the kernel does it by itself when a disk breaks; an ordinary remount waits for writers to end."""
        subprocess.run(["mount", "-o", "remount,abort", self.directory], check=False, capture_output=True)

    def mend(self):
        """Check the disk and mount it again, as its owner would.

        A copy of it, that is: whoever took a mount namespace of their own meanwhile still has the broken one mounted.
        """
        subprocess.run(["umount", self.directory], check=True)
        os.rename(self._image, f"{self._image}.old")
        shutil.copyfile(f"{self._image}.old", self._image)
        checked = subprocess.run(["e2fsck", "-f", "-y", self._image], check=False, capture_output=True, text=True)
        assert checked.returncode in (0, 1), checked.stdout
        self._mount()

    def end(self):
        """Unmount it."""
        subprocess.run(["umount", self.directory], check=True)
        for device in self._devices:
            subprocess.run(["losetup", "-d", device], check=False)


@pytest.fixture
def new_disk(scratch):
    """A function that makes a Disk with some options of mkfs."""
    made = []

    def make(*options):
        made.append(Disk(f"{scratch}/disk-{len(made)}", options))
        return made[-1]

    yield make
    for disk in made:
        disk.end()


def _world(zygote, scratch, disk, part):
    """Return a scenario of which a part lies on a disk: the store, the root, or both."""
    if part == "store":
        world = World(f"{scratch}/world", zygote, seed=SEED, store=f"{disk}/store")
    elif part == "root":
        world = World(f"{disk}/world", zygote, seed=SEED, store=f"{scratch}/store")
    else:
        world = World(f"{disk}/world", zygote, seed=SEED)
    scenario = Saving(world.begin(), "sci", count=60)
    _round(scenario)
    scenario.again()
    return scenario


def _round(scenario, **options):
    """One save, perhaps under a limit; what is there then has to be as promised."""
    argv = scenario.prepare()
    outcome = scenario.world.run(*argv, **options)
    scenario.settle(outcome)
    return outcome


def _fill(path, *, leave):
    """Take all room of a disk but so many bytes."""
    free = os.statvfs(os.path.dirname(path))
    with open(path, "wb") as file, contextlib.suppress(OSError):
        for _ in range(max(0, free.f_bavail * free.f_frsize - leave) // 4096):
            file.write(bytes(4096))
            file.flush()


def _use_up_inodes(directory, *, leave):
    os.mkdir(directory)
    made = []
    with contextlib.suppress(OSError):
        for number in range(100_000):
            os.symlink("x", f"{directory}/{number}")
            made.append(f"{directory}/{number}")
    for path in made[len(made) - leave :]:
        os.unlink(path)


@pytest.mark.parametrize("part", ["store", "root", "both"])
def test_a_disk_that_is_full_at_any_stage_is_told_and_costs_nothing(zygote, scratch, new_disk, part):
    disk = new_disk("-N", "8192").directory
    scenario = _world(zygote, scratch, disk, part)
    codes = []
    for leave in (0, 2, 6, 14, 40, 90, 180, 300, 500, 4000):
        argv = scenario.prepare()
        _fill(f"{disk}/filler", leave=leave << 10)
        outcome = scenario.world.run(*argv)
        scenario.settle(outcome, tidy=True)
        codes.append(outcome.code)
        if outcome.code:
            assert "No space left on device" in outcome.stderr or "no space left" in outcome.stderr, outcome.stderr
        os.unlink(f"{disk}/filler")
        scenario.again()
    assert codes[-1] == 0
    assert any(codes), "the disk was never full"


@pytest.mark.parametrize("part", ["store", "both"])
def test_a_disk_without_inodes_is_told_and_costs_nothing(zygote, scratch, new_disk, part):
    disk = new_disk("-N", "512").directory
    scenario = _world(zygote, scratch, disk, part)
    codes = []
    for leave in (0, 1, 2, 3, 5, 8, 60):
        argv = scenario.prepare()
        _use_up_inodes(f"{disk}/many", leave=leave)
        outcome = scenario.world.run(*argv)
        scenario.settle(outcome, tidy=True)
        codes.append(outcome.code)
        subprocess.run(["rm", "-r", f"{disk}/many"], check=True)
        scenario.again()
    assert codes[-1] == 0
    assert len([code for code in codes if code]) > 2, "the disk never ran out of inodes"


@pytest.mark.parametrize("part", ["store", "both"])
def test_a_disk_that_turns_read_only_in_the_middle_of_a_save(zygote, scratch, new_disk, part):
    disk = new_disk()
    scenario = _world(zygote, scratch, disk.directory, part)
    # Every fsync takes a while, so that the save is in the middle of its work for long enough.
    slow = ("timeout", "100", "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync")
    slow += ("-e", "inject=fsync:delay_enter=60000")
    refused = 0
    for after in (0.1, 0.3, 0.6):
        argv = scenario.prepare()
        os.sync()  # what the session wrote is on the disk: losing that is not the save's fault
        stop = threading.Timer(after, disk.turn_read_only)
        stop.start()
        outcome = scenario.world.run(*argv, tracer=slow)
        stop.join()
        refused += outcome.code > 0
        scenario.settle(outcome)
        disk.mend()
        scenario.again()
    assert refused, "the disk was never read-only while a save wrote to it"


@pytest.mark.parametrize("limits", [{"FSIZE": size} for size in (0, 100, 4096, 60_000)], ids=str)
def test_a_limit_on_file_sizes_is_told_and_costs_nothing(zygote, scratch, limits):
    scenario = _world(zygote, scratch, scratch, "both")
    outcome = _round(scenario, limits=limits)
    assert outcome.code > 0
    scenario.again()


@pytest.mark.parametrize("number", [4, 6, 8, 10, 12, 16, 32])
def test_a_limit_on_open_files_is_told_and_costs_nothing(zygote, scratch, number):
    scenario = _world(zygote, scratch, scratch, "both")
    outcome = _round(scenario, limits={"NOFILE": number})
    scenario.again()
    if number == 32:
        assert outcome.code == 0, outcome.stderr


def test_a_save_that_leaves_a_temporary_file_is_noticed(zygote, scratch):
    scenario = _world(zygote, scratch, scratch, "both")
    scenario.prepare()
    with open(f"{scenario.world.store}/packs/~tmp.left", "wb"):
        pass
    outcome = scenario.world.run("save", "sci", limits={"FSIZE": 0})
    with pytest.raises(Violation, match="left behind") as caught:
        scenario.settle(outcome, tidy=True)
    assert told(caught.value)
