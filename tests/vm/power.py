"""Owns what is tried with power cuts: a guest saves on a disk with a cache, its power goes, and each promise is kept.

A save that was confirmed is whole after the cut, whatever else the disk forgot; nothing has to be repaired, and the next
save works. A cut is looked at in two ways. The guest is killed for real, and its own kernel and envkit find what is left.
And what was written until then makes many moments at which the power could have gone as well: what each of them leaves
is mounted on this machine, and judged there (`power_judge.py`).
"""

import json
import random

from vm.guest import GuestFailed
from vm.promises import Promises, Run
from vm.suite import INSIDE, TINY

from envkit.drivers.subids import container_range
from envkit.model.idmap import CONTAINER_IDS

ENV = "work"
BEFORE = "sh -c 'echo before >/opt/before; rm /etc/passwd'"
"""What is done in the session before all cuts."""

AFTER = "sh -c 'cat /opt/before; test -e /etc/passwd || echo gone; echo again >/opt/again'"
KEPT = "before\ngone"
"""What it says after a cut."""

CARELESS = "careless"
NEVER_SYNCS = (
    "import sys; from faults import variants; variants.apply('never-syncs')"
    "; from envkit.__main__ import main; sys.exit(main())"
)
"""A program for Python: an envkit that never waits for the disk, the negative control."""

_DEVICE = "/dev/disk/by-id/virtio-cut"
_PLACE = "/power"
_SETTINGS = {"ENVKIT_ROOT": f"{_PLACE}/root", "ENVKIT_OWNER": "lab"}
_ERRORS = "/run/power-writer"
_WRITES = 60
"""About as many as a save makes, with those to the journal."""

_SECONDS = 1800


class PowerTrial:
    """A guest that has booted with a `Disk` beside its own, and what it has promised of that."""

    def __init__(self, guest, disk, *, seed):
        self._guest = guest
        self._disk = disk
        self._rng = random.Random(seed)
        self._promises = Promises({}, {})
        self._last = None
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
        # The ids of this machine's containers, so that a session can go on here as well.
        ids = f"root:{container_range()}:{CONTAINER_IDS}"
        self._run(f"for file in /etc/subuid /etc/subgid; do sed -i '/^root:/d' $file; echo {ids} >>$file; done").ok()
        # A small journal is gone round many times.
        make = f"mkfs.ext4 -q -J size=16 {_DEVICE}"
        self._run(f"{make} && mkdir -p {_PLACE} && mount {_DEVICE} {_PLACE}").ok()
        self._run(TINY).ok()
        self._run(f"envkit create {ENV} --base tiny --no-shell && envkit exec {ENV} -- {BEFORE} && sync").ok()

    def cut(self, *, saves=2):
        """Save until the power goes, between two writes to the disk some time after so many saves."""
        self._save_until_it_goes(ENV, "envkit", saves)
        self._disk.cut(self._rng)

    def careless_cut(self, *, saves=2):
        """The negative control: as `cut`, in an environment of its own, by an envkit that never waits for the disk.

        Only `moments` can be asked for after it, and some of them have to break promises.
        """
        self._run(f"envkit create {CARELESS} --base tiny --no-shell && sync").ok()
        command = f'env PYTHONPATH={INSIDE}:{INSIDE}/tests /opt/envkit/bin/python -c "{NEVER_SYNCS}"'
        self._save_until_it_goes(CARELESS, command, saves)

    def moments(self, count, path):
        """Yield so many different `Moment`s before the last cut; see `Run.moments`."""
        yield from self._last.moments(count, path, self._rng)

    def check(self):
        """Boot after a cut and check in the guest that all is there, and that the session goes on.

        :raises AssertionError: a promise was broken.
        """
        self._guest.boot()
        self._run(f"mkdir -p {_PLACE} && mount {_DEVICE} {_PLACE}").ok()
        self._run("envkit verify --data").ok()
        versions = [*self._promises.saved]
        for version in {versions[-1], self._rng.choice(versions)}:
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
        assert self._run(f"envkit exec {ENV} -- {AFTER} && envkit save {ENV} >/dev/null").ok() == KEPT
        troubles = [check for check in json.loads(self._run("envkit doctor --json").ok()) if not check["ok"]]
        assert troubles == [], f"after a cut envkit doctor complains: {troubles}"

    def _save_until_it_goes(self, env, envkit, enough):
        """Run the writer and kill the machine below it."""
        ends = False
        run = self._last = Run(self._disk.record(), self._promises)

        def listen(piece):
            nonlocal ends
            run.hear(piece)
            if run.saves >= enough and not ends:
                ends = True
                self._disk.after(self._rng.randrange(1, _WRITES), self._guest.cut)

        # Its errors go to a file, since both streams would come here.
        writer = f"python3 {INSIDE}/tests/vm/power_writer.py {env} {_PLACE}/loose {envkit}"
        try:
            outcome = self._run(f"{writer} 2>{_ERRORS}; cat {_ERRORS} >&2; exit 1", output=listen)
        except GuestFailed:
            assert ends, "the guest ended by itself"
        else:
            raise AssertionError(f"the writer ended: {outcome.err.decode()}")
        self._guest.kill()

    def _run(self, script, **options):
        return self._guest.sh(script, env=_SETTINGS, timeout=_SECONDS, **options)
