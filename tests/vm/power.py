"""Owns what is tried with power cuts: a guest saves on a disk with a cache, its power goes, and each promise is kept.

A save that was confirmed is whole after the cut, whatever else the disk forgot; nothing has to be repaired, and the next
save works. That the cuts hurt is shown by files that the guest wrote beside it and did not flush: some of them are gone.
"""

import hashlib
import json
import random
import subprocess
from typing import NamedTuple

from commandline import Envkit
from faults.second_reader import SecondReader, Unreadable
from vm.guest import GuestFailed
from vm.power_writer import ENV
from vm.suite import INSIDE, TINY

_DEVICE = "/dev/disk/by-id/virtio-cut"
_PLACE = "/power"
_SETTINGS = {"ENVKIT_ROOT": f"{_PLACE}/root", "ENVKIT_OWNER": "lab"}
_ERRORS = "/run/power-writer"
_FEWEST_SAVES = 2
_WRITES = 60
"""About as many as a save makes, with those to the journal."""

_SECONDS = 1800


class Promises(NamedTuple):
    """What a guest has said so far: digests of contents, by version and by name of a loose file."""

    saved: dict[str, str]
    loose: dict[str, str]

    def copy(self):
        return Promises(dict(self.saved), dict(self.loose))


class Snapshot(NamedTuple):
    """What a cut would have left of the disk, and what had been promised before."""

    path: str
    promises: Promises


class PowerTrial:
    """A guest that has booted with a `Disk` beside its own, and what it has promised of that."""

    def __init__(self, guest, disk, *, seed):
        self._guest = guest
        self._disk = disk
        self._rng = random.Random(seed)
        self._promises = Promises({}, {})
        self.cuts = self.loose = self.lost = 0
        """How many cuts were survived, how many loose files there were, how many of them the cuts took."""

    @property
    def saves(self):
        """How many saves were confirmed."""
        return len(self._promises.saved)

    def told(self):
        """Return what happened, as a line."""
        writes = f"{self._disk.lost} unflushed writes lost, {self._disk.kept} not"
        files = f"{self.lost} of {self.loose} files that were not flushed lost"
        return f"{self.cuts} cuts ({writes}), {self.saves} confirmed saves, {files}"

    def begin(self):
        """Make the file system, a base and a session on the disk, and flush them."""
        self._run(f"mkfs.ext4 -q {_DEVICE} && mkdir -p {_PLACE} && mount {_DEVICE} {_PLACE}").ok()
        self._run(TINY).ok()
        self._run(f"envkit create {ENV} --base tiny --no-shell && sync").ok()

    def cut(self, *, snapshots=()):
        """Save until the power goes, between two writes to the disk some time after two saves.

        :param snapshots: paths; at as many such moments before, what a cut would have left is written there.
        :returns: a `Snapshot` for each.
        """
        taken = self._save_until_it_goes(snapshots)
        self._disk.cut(self._rng)
        return taken

    def check(self):
        """Boot after a cut and check in the guest that all is there, and that the session goes on.

        :raises AssertionError: a promise was broken.
        """
        self._guest.boot()
        self._run(f"mkdir -p {_PLACE} && mount {_DEVICE} {_PLACE}").ok()
        self._run("envkit verify --data").ok()
        versions = [*self._promises.saved]
        for version in {*versions[-2:], self._rng.choice(versions)}:
            digest = self._run(f"envkit run -e {version} -- sha256sum /opt/file").ok().split()[0]
            assert digest == self._promises.saved[version], f"{version} has another content"
        found = self._run(f"cd {_PLACE}/loose && find * -type f -exec sha256sum {{}} +").ok()
        there = {name: digest for digest, name in (line.split() for line in found.splitlines())}
        lost = {name for name, digest in self._promises.loose.items() if there.get(name) != digest}
        self.cuts += 1
        self.lost += len(lost)
        self.loose += len(self._promises.loose)
        self._promises.loose.clear()
        self._run(f"rm -rf {_PLACE}/loose").ok()
        self._run(f"envkit exec {ENV} -- sh -c 'echo again >/opt/again' && envkit save {ENV}").ok()
        troubles = [check for check in json.loads(self._run("envkit doctor --json").ok()) if not check["ok"]]
        assert troubles == [], f"after a cut envkit doctor complains: {troubles}"

    def _save_until_it_goes(self, snapshots):
        """Run the writer and kill the machine below it."""
        saves, taken, ends, rest = 0, [], False, b""

        def listen(piece):
            nonlocal saves, ends, rest
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                kind, name, digest = line.decode().split(" ")
                getattr(self._promises, kind)[name] = digest
                saves += kind == "saved"
            if not saves or ends or self._disk.waits:
                return
            writes = self._rng.randrange(1, _WRITES)
            if len(taken) < len(snapshots):
                # What is promised between now and then does not count: it is promised before, or checked later.
                snapshot = Snapshot(snapshots[len(taken)], self._promises.copy())
                rng = random.Random(self._rng.random())

                def take():
                    self._disk.snapshot(snapshot.path, rng)
                    taken.append(snapshot)

                self._disk.after(writes, take)
            elif saves >= _FEWEST_SAVES:
                ends = True
                self._disk.after(writes, self._guest.cut)

        # Its errors go to a file, since both streams would come here.
        writer = f"python3 {INSIDE}/tests/vm/power_writer.py {_PLACE}/loose 2>{_ERRORS}; cat {_ERRORS} >&2; exit 1"
        try:
            outcome = self._run(writer, output=listen)
        except GuestFailed:
            assert ends, "the guest ended by itself"
        else:
            raise AssertionError(f"the writer ended: {outcome.err.decode()}")
        self._guest.kill()
        return taken

    def _run(self, script, **options):
        return self._guest.sh(script, env=_SETTINGS, timeout=_SECONDS, **options)


def check_snapshot(snapshot, directory):
    """Mount what a cut would have left, on this machine; return how many loose files are lost.

    :param directory: an empty one, to mount it on.
    :raises AssertionError: a promise was broken.
    """
    subprocess.run(["mount", "-o", "loop", snapshot.path, directory], check=True)
    envkit = Envkit(f"{directory}/root")
    try:
        envkit("verify", "--data").ok()
        reader = SecondReader(f"{directory}/root/store")
        try:
            versions = reader.versions()["lab/" + ENV] if snapshot.promises.saved else {}
        except (Unreadable, KeyError) as error:
            raise AssertionError(f"the store is not whole: {error!r}") from error
        for name, digest in snapshot.promises.saved.items():
            number = int(name.rpartition("@")[2])
            assert number in versions, f"{name} is gone"
            content = next(
                items[b"opt/file"].content
                for items in (reader.layer(layer["tree"]) for layer in reversed(versions[number]["layers"]))
                if b"opt/file" in items
            )
            assert hashlib.sha256(content).hexdigest() == digest, f"{name} has another content"
        with envkit.session("next", script="echo next >/opt/next"):
            envkit("save", "next").ok()
        envkit("verify", "--data").ok()
        lost = 0
        for name, digest in snapshot.promises.loose.items():
            try:
                with open(f"{directory}/loose/{name}", "rb") as file:
                    lost += hashlib.sha256(file.read()).hexdigest() != digest
            except FileNotFoundError:
                lost += 1
        return lost
    finally:
        # An image server has mounts of its own, and would keep this one after its end here.
        envkit("cache", "stop", "--force")
        subprocess.run(["umount", directory], check=True)
